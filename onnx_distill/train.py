"""Distillation: the frozen teacher's logits train the student's weights, biases and quantization steps."""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_distill import artifacts
from onnx_distill.bias import align_biases
from onnx_distill.config import DistillConfig, TrainConfig
from onnx_distill.data import Augment, Images
from onnx_distill.errors import InputError
from onnx_distill.model import initializers
from onnx_distill.optimizer import Optimizer
from onnx_distill.step import Step
from onnx_distill.teacher import Teacher


@dataclass(frozen=True)
class Progress:
    """Where training stands: after `step` of `steps`, with the mean loss of late and the learning rate of this step."""

    step: int
    steps: int
    images: int
    loss: float
    learning_rate: float


@dataclass(frozen=True)
class Checkpoint:
    """An evaluated student: a plain QDQ model, the score that chose it, and how far training was."""

    student: onnx.ModelProto
    score: float
    epoch: float


@dataclass(frozen=True)
class Trained:
    """The best student and how it came about; step_seconds excludes evaluation."""

    best: Checkpoint
    scores: tuple[tuple[float, float], ...]  # (epoch, score)
    images: int
    step_seconds: float
    interrupted: bool

    @property
    def images_per_second(self) -> float:
        return self.images / max(self.step_seconds, 1e-9)


def train(
    student: onnx.ModelProto,
    teacher: onnx.ModelProto,
    images: Images,
    evaluate: Callable[[onnx.ModelProto], float],
    distill: DistillConfig,
    config: TrainConfig,
    on_step: Callable[[Progress], None] = lambda progress: None,
    on_evaluation: Callable[[Checkpoint], None] = lambda checkpoint: None,
) -> Trained:
    """Train a QDQ student on the teacher's logits; the best by `evaluate` (higher is better) is kept.

    student, teacher: models that end in logits [n, classes], the teacher float. images: labels are needed where alpha < 1.
    evaluate is asked before the first step, after each epoch, and at the end. Ctrl-C stops and returns the best so far.
    Raises InputError where teacher, student and images do not fit together, or when the loss is no longer finite.
    """
    check_fit(student, teacher, images, distill)
    batch_size = min(config.batch_size, len(images))
    augment = Augment(config.flip, config.shift)
    classes = artifacts.class_count(student.graph.output[0])
    guide = Teacher(teacher, config.threads, classes, remember=0 if augment.changes else len(images))
    with tempfile.TemporaryDirectory(prefix="onnx-distill-") as folder:
        made = artifacts.build(student, distill, config.learn_steps, Path(folder), batch_size)
        step = Step(made, config.threads)
    optimizer = Optimizer(step.parameters, made.parameters.weights, made.parameters.biases, made.parameters.steps, config)
    rng = np.random.default_rng(config.seed)
    steps_per_epoch = len(images) // batch_size
    steps = max(1, round(config.epochs * steps_per_epoch))

    best = Checkpoint(student, evaluate(student), 0.0)
    on_evaluation(best)
    scores, seconds, done, interrupted, recent = [(0.0, best.score)], 0.0, 0, False, None
    try:
        for number, index in enumerate(_orders(len(images), batch_size, steps, rng), start=1):
            started = time.perf_counter()
            batch = augment(images.read(index), rng, images.fill)
            guide.check(batch)
            labels = images.labels[index] if images.labels is not None else None
            teacher_logits = guide.logits(batch, index) if distill.alpha > 0 else None
            loss, _ = step.run(batch, teacher_logits, labels)
            share = rate_share(number, steps, config)
            _check_finite(loss, number, share * config.learning_rate)
            optimizer.update(step.gradients, share)
            seconds += time.perf_counter() - started
            done = number
            recent = loss if recent is None else 0.95 * recent + 0.05 * loss
            on_step(Progress(number, steps, number * batch_size, recent, share * config.learning_rate))
            if number % steps_per_epoch == 0 or number == steps:
                _check_parameters(step.parameters, number, share * config.learning_rate)
                now = with_parameters(student, step.parameters)
                checkpoint = Checkpoint(now, evaluate(now), number / steps_per_epoch)
                on_evaluation(checkpoint)
                scores.append((checkpoint.epoch, checkpoint.score))
                best = max(best, checkpoint, key=lambda c: c.score)
    except KeyboardInterrupt:
        interrupted = True
    return Trained(best, tuple(scores), done * batch_size, seconds, interrupted)


def _orders(count: int, batch_size: int, steps: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Indices of one batch after the other: every epoch a new order, the rest that fills no batch left out."""
    while True:
        order = rng.permutation(count)
        for start in range(0, count - batch_size + 1, batch_size):
            if steps == 0:
                return
            steps -= 1
            yield order[start : start + batch_size]


def rate_share(step: int, steps: int, config: TrainConfig) -> float:
    """Share of the peak learning rate at `step` (1..steps): linear warm-up, then constant, linear to 0 or cosine to 0."""
    warm = config.warmup * steps
    if step <= warm:
        return step / (warm + 1)
    left = (steps - step + 1) / (steps - warm + 1)
    return {"constant": 1.0, "linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left)}[config.schedule]


def with_parameters(student: onnx.ModelProto, parameters: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The QDQ student with the trained values in it, biases on their integer grid."""
    made = onnx.ModelProto()
    made.CopyFrom(student)
    constants = initializers(made)
    for name, values in parameters.items():
        constants[name].CopyFrom(numpy_helper.from_array(np.array(values), name))
    align_biases(made)
    return made


def _check_finite(loss: float, step: int, rate: float) -> None:
    if not math.isfinite(loss):
        raise InputError(f"the loss is {loss} {_remedy(step, rate)}")


def _check_parameters(parameters: dict[str, np.ndarray], step: int, rate: float) -> None:
    """Quantizers clip what overflows, so the loss can be finite when a weight no longer is."""
    broken = next((name for name, values in parameters.items() if not np.isfinite(values).all()), None)
    if broken is not None:
        raise InputError(f"parameter {broken!r} is no longer finite {_remedy(step, rate)}")


def _remedy(step: int, rate: float) -> str:
    return f"at step {step} with learning rate {rate:.2g}; wanted finite numbers. Lower --lr or set --clip-norm."


def check_fit(student: onnx.ModelProto, teacher: onnx.ModelProto, images: Images, distill: DistillConfig) -> None:
    classes = [artifacts.class_count(model.graph.output[0]) for model in (teacher, student)]
    if classes[0] != classes[1]:
        raise InputError(
            f"the teacher has {classes[0]} classes, the student {classes[1]}; wanted the same. Is it a student of this teacher?"
        )
    if distill.alpha < 1 and images.labels is None:
        raise InputError(
            f"alpha is {distill.alpha} but the images have no labels; give --labels, or --alpha 1 to learn from the teacher alone."
        )
    if images.labels is not None and len(images) and not 0 <= images.labels.min() <= images.labels.max() < classes[0]:
        raise InputError(
            f"labels run from {images.labels.min()} to {images.labels.max()}; wanted 0..{classes[0] - 1}. Is --label-offset right?"
        )
