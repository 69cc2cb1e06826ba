"""Distillation: the frozen teacher's logits train the student's weights, biases and quantization steps."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Callable

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_distill import artifacts
from onnx_distill.config import DistillConfig, TrainConfig
from onnx_distill.data import Augment, Images
from onnx_distill.lookup import initializers
from onnx_distill.quantization.bias import align_biases
from onnx_distill.trainable.features import choose
from onnx_distill.training.average import Average
from onnx_distill.training.fit import check_fit, check_sizes
from onnx_distill.training.optimizer import Optimizer
from onnx_distill.training.order import Order
from onnx_distill.training.profile import Recording
from onnx_distill.training.record import Record, check_recipe, copied, note, recipe_of, restored, state_of
from onnx_distill.training.state import StateStore
from onnx_distill.training.step import Step
from onnx_distill.training.teacher import Teacher
from onnx_distill.training.trained import Checkpoint, Progress, Trained

MOST_REWINDS = 5  # after which a recipe that diverges again is given up


def train(
    student: onnx.ModelProto,
    teacher: onnx.ModelProto,
    images: Images,
    evaluate: Callable[[onnx.ModelProto], float],
    distill: DistillConfig,
    config: TrainConfig,
    on_step: Callable[[Progress], None] = lambda progress: None,
    on_evaluation: Callable[[Checkpoint], None] = lambda checkpoint: None,
    store: StateStore | None = None,
    also: Sequence[onnx.ModelProto] = (),
) -> Trained:
    """Train a QDQ student on the teacher's logits; the best by `evaluate` (higher is better) is kept.

    student, teacher: models that end in logits [n, classes], the teacher float. also: further teachers of the same classes; the
    mean of all their softened probabilities is then the target (training/ensemble.py), features are the first one's. images: labels are needed where alpha < 1.
    evaluate is asked before the first step, after each epoch (or config.evaluate_every steps), and at the end. Ctrl-C stops
    and returns the best so far; so does a loss that is no longer finite. store: where checkpoints are kept; the newest one
    there is continued, and ends in the bytes of a run that was never interrupted (same seed, threads and machine).
    Raises InputError where teacher, student and images do not fit together.
    """
    check_fit(student, [teacher, *also], images, distill)
    features = choose(teacher, student, distill.features)
    batch_size = min(config.batch_size, len(images))
    augment = Augment(config.flip, config.shift, config.crop, config.colour, config.mixup)
    classes = artifacts.class_count(student.graph.output[0])
    remember, inner_names = 0 if augment.changes else len(images), [feature.teacher for feature in features]
    guide = Teacher(teacher, config.threads, classes, remember, inner_names, also, distill.temperature)
    with tempfile.TemporaryDirectory(prefix="onnx-distill-") as folder:
        made = artifacts.build(student, distill, config.learn_steps, Path(folder), batch_size, config.freeze, features)
        recording = Recording(config.profile)
        step = Step(made, config.threads, recording.folder)
    optimizer = Optimizer(step.parameters, made.parameters.weights, made.parameters.biases, made.parameters.steps, config)
    average = Average(step.parameters, config.ema)
    order = Order(len(images), batch_size, config.seed)
    steps_per_epoch = order.batches_per_epoch // config.accumulate
    check_sizes(images, order.batches_per_epoch, config)
    steps = max(1, round(config.epochs * steps_per_epoch))
    every = config.evaluate_every or steps_per_epoch

    recipe = recipe_of([student, teacher, *also], images, distill, config)
    found = store.newest() if store is not None else None
    if found is None:
        first = Checkpoint(student, evaluate(student), 0.0)
        on_evaluation(first)
        record = Record(copied(step.parameters), first.score, 0.0, [(0.0, first.score)], recipe=recipe)
    else:
        check_recipe(found, recipe)
        record = restored(found, optimizer, average)
    good = state_of(record, optimizer, average)

    def score(number: int) -> None:
        values = average.values
        trained = with_parameters(student, values)
        checkpoint = Checkpoint(trained, evaluate(trained), number / steps_per_epoch)
        on_evaluation(checkpoint)
        note(record, checkpoint, values)

    interrupted, out_of_time, stopped, began = False, False, _no_better(record, config), time.monotonic()
    try:
        while record.done < steps and not stopped:
            number, started, loss = record.done + 1, time.perf_counter(), 0.0
            for part in range(config.accumulate):
                position = record.done * config.accumulate + part
                index, rng = order.batch(position), order.rng(position)
                batch = augment(images.read(index), rng, images.fill)
                guide.check(batch)
                labels = images.labels[index] if images.labels is not None else None
                logits, inner = guide.answer(batch, index) if distill.alpha > 0 or features else (None, [])
                loss += step.run(batch, logits, labels, part > 0, inner)[0] / config.accumulate
            share = record.rate * rate_share(number, steps, config)
            if math.isfinite(loss):
                with np.errstate(all="ignore"):  # what overflows is found below, and told in one line
                    optimizer.update(step.gradients, share, config.accumulate)
                average.update(number)
            record.seconds += time.perf_counter() - started
            evaluates = number % every == 0 or number == steps
            problem = _problem(loss, step.parameters if evaluates else {}, number, share * config.learning_rate)
            if problem and config.on_nonfinite == "rewind" and record.rewinds < MOST_REWINDS:
                rate, rewinds = record.rate / 2, record.rewinds + 1
                record = replace(restored(good, optimizer, average), rate=rate, rewinds=rewinds)
                continue
            if problem:
                stopped = problem
                break
            record.done = number
            record.loss = loss if record.loss is None else 0.95 * record.loss + 0.05 * loss
            on_step(
                Progress(number, steps, number * config.accumulate * batch_size, record.loss, share * config.learning_rate)
            )
            if evaluates:
                score(number)
            if evaluates or (config.save_every and number % config.save_every == 0):
                good = state_of(record, optimizer, average)
                if store is not None:
                    store.save(good)
            stopped = _no_better(record, config)
            late = bool(config.max_minutes) and time.monotonic() - began > 60 * config.max_minutes
            if late and record.done < steps and not stopped:
                stopped, out_of_time = f"{config.max_minutes:g} minutes are over", True
                if store is not None:
                    store.save(state_of(record, optimizer, average))
                if not evaluates:  # after the checkpoint: a run that goes on never saw this score
                    score(number)
    except KeyboardInterrupt:
        interrupted = True
    recording.finish(step)
    best = Checkpoint(_best_student(student, record), record.best_score, record.best_epoch)
    trained_images = record.done * config.accumulate * batch_size
    return Trained(best, tuple(record.scores), trained_images, record.seconds, interrupted, stopped, out_of_time)


def _best_student(student: onnx.ModelProto, record: Record) -> onnx.ModelProto:
    """The student as it came, or with the best values in it."""
    return with_parameters(student, record.best) if record.best_epoch else student


def _no_better(record: Record, config: TrainConfig) -> str:
    """Why to stop early, or ''."""
    if config.patience and record.misses >= config.patience:
        return f"no better score in {record.misses} evaluations"
    return ""


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


def _problem(loss: float, parameters: dict[str, np.ndarray], step: int, rate: float) -> str:
    """What is no longer finite, or ''. Quantizers clip what overflows, so the loss can be finite when a weight is not."""
    broken = next((name for name, values in parameters.items() if not np.isfinite(values).all()), None)
    if math.isfinite(loss) and broken is None:
        return ""
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"parameter {broken!r} is no longer finite"
    return f"{what} at step {step} with learning rate {rate:.2g}; wanted finite numbers. Lower --lr or set --clip-norm."
