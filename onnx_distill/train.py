"""Distillation: the frozen teacher's logits train the student's weights, biases and quantization steps."""

from __future__ import annotations

import hashlib
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Callable

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_distill import artifacts
from onnx_distill.average import Average
from onnx_distill.bias import align_biases
from onnx_distill.config import DistillConfig, TrainConfig
from onnx_distill.data import Augment, Images
from onnx_distill.errors import InputError
from onnx_distill.features import choose
from onnx_distill.lookup import initializers
from onnx_distill.optimizer import Optimizer
from onnx_distill.order import Order
from onnx_distill.profile import Recording
from onnx_distill.state import State, StateStore
from onnx_distill.step import Step
from onnx_distill.teacher import Teacher

MOST_REWINDS = 5  # after which a recipe that diverges again is given up


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
    """The best student and how it came about; step_seconds excludes evaluation. stopped: why it ended early, or ''.

    interrupted (by Ctrl-C) and out_of_time (config.max_minutes): there is something left to train, which its checkpoints continue.
    """

    best: Checkpoint
    scores: tuple[tuple[float, float], ...]  # (epoch, score)
    images: int
    step_seconds: float
    interrupted: bool
    stopped: str = ""
    out_of_time: bool = False

    @property
    def finished(self) -> bool:
        return not self.interrupted and not self.out_of_time

    @property
    def images_per_second(self) -> float:
        return self.images / max(self.step_seconds, 1e-9)


@dataclass
class _Record:
    """What a run remembers between steps, besides parameters and optimiser; all of it is in a checkpoint."""

    best: dict[str, np.ndarray]
    best_score: float
    best_epoch: float
    scores: list[tuple[float, float]]
    done: int = 0
    seconds: float = 0.0
    loss: float | None = None
    misses: int = 0
    recipe: str = ""  # of the student, the images and every choice that a result depends on
    rate: float = 1.0  # share of the learning rate that is left after rewinds
    rewinds: int = 0


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
    mean of all their softened probabilities is then the target (ensemble.py), features are the first one's. images: labels are needed where alpha < 1.
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
    _check_sizes(images, order.batches_per_epoch, config)
    steps = max(1, round(config.epochs * steps_per_epoch))
    every = config.evaluate_every or steps_per_epoch

    recipe = _recipe([student, teacher, *also], images, distill, config)
    found = store.newest() if store is not None else None
    if found is None:
        first = Checkpoint(student, evaluate(student), 0.0)
        on_evaluation(first)
        record = _Record(_copied(step.parameters), first.score, 0.0, [(0.0, first.score)], recipe=recipe)
    else:
        _check_recipe(found, recipe)
        record = _restored(found, optimizer, average)
    good = _state(record, optimizer, average)

    def score(number: int) -> None:
        values = average.values
        trained = with_parameters(student, values)
        checkpoint = Checkpoint(trained, evaluate(trained), number / steps_per_epoch)
        on_evaluation(checkpoint)
        _note(record, checkpoint, values)

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
                record = replace(_restored(good, optimizer, average), rate=rate, rewinds=rewinds)
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
                good = _state(record, optimizer, average)
                if store is not None:
                    store.save(good)
            stopped = _no_better(record, config)
            late = bool(config.max_minutes) and time.monotonic() - began > 60 * config.max_minutes
            if late and record.done < steps and not stopped:
                stopped, out_of_time = f"{config.max_minutes:g} minutes are over", True
                if store is not None:
                    store.save(_state(record, optimizer, average))
                if not evaluates:  # after the checkpoint: a run that goes on never saw this score
                    score(number)
    except KeyboardInterrupt:
        interrupted = True
    recording.finish(step)
    best = Checkpoint(_best_student(student, record), record.best_score, record.best_epoch)
    trained_images = record.done * config.accumulate * batch_size
    return Trained(best, tuple(record.scores), trained_images, record.seconds, interrupted, stopped, out_of_time)


def _check_sizes(images: Images, batches: int, config: TrainConfig) -> None:
    if config.accumulate > batches:
        raise InputError(
            f"accumulate is {config.accumulate}, but an epoch has {batches} batches; wanted no more. Lower --accumulate or --batch-size."
        )
    size = images.read(np.arange(1)).shape[2:]
    if config.shift >= min(size):
        raise InputError(f"shift is {config.shift}, but the images are {'x'.join(map(str, size))}; wanted less than that.")


def _recipe(models: Sequence[onnx.ModelProto], images: Images, distill: DistillConfig, config: TrainConfig) -> str:
    """A fingerprint of what a result depends on, limits of time and patience aside."""
    unlimited = replace(config, max_minutes=0.0, patience=0, save_every=0, preflight=True, profile="")
    choices = repr((len(images), distill, unlimited))
    digest = hashlib.sha256(choices.encode())
    for model in models:
        digest.update(model.SerializeToString(deterministic=True))
    return digest.hexdigest()


def _check_recipe(state: State, recipe: str) -> None:
    if state.facts.get("recipe") != recipe:
        raise InputError(
            f"the checkpoint at step {state.step} is of another student or recipe; wanted the same command as before. "
            "Repeat it, or choose another folder."
        )


def _note(record: _Record, checkpoint: Checkpoint, values: dict[str, np.ndarray]) -> None:
    record.scores.append((checkpoint.epoch, checkpoint.score))
    record.misses += 1
    if checkpoint.score > record.best_score:
        record.best, record.best_score, record.best_epoch = _copied(values), checkpoint.score, checkpoint.epoch
        record.misses = 0


def _best_student(student: onnx.ModelProto, record: _Record) -> onnx.ModelProto:
    """The student as it came, or with the best values in it."""
    return with_parameters(student, record.best) if record.best_epoch else student


def _no_better(record: _Record, config: TrainConfig) -> str:
    """Why to stop early, or ''."""
    if config.patience and record.misses >= config.patience:
        return f"no better score in {record.misses} evaluations"
    return ""


def _copied(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in arrays.items()}


def _state(record: _Record, optimizer: Optimizer, average: Average) -> State:
    facts = {field.name: getattr(record, field.name) for field in fields(record) if field.name not in ("best", "done")}
    groups = {"optimizer": optimizer.state(), "average": average.state(), "best": record.best}
    arrays = {f"{group}/{name}": np.array(a) for group, members in groups.items() for name, a in members.items()}
    return State(record.done, arrays, facts)


def _restored(state: State, optimizer: Optimizer, average: Average) -> _Record:
    """The record of a state, whose arrays are put back where they were. Raises InputError for a state of another run."""
    groups: dict[str, dict[str, np.ndarray]] = {"optimizer": {}, "average": {}, "best": {}}
    for name, array in state.arrays.items():
        group, _, member = name.partition("/")
        groups[group][member] = array
    try:
        optimizer.restore(groups["optimizer"])
        average.restore(groups["average"])
    except ValueError as error:
        raise InputError(f"the checkpoint is of another student or recipe ({error}); choose another folder.") from None
    scores = [tuple(pair) for pair in state.facts["scores"]]
    return _Record(best=_copied(groups["best"]), done=state.step, **{**state.facts, "scores": scores})


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


def check_fit(student: onnx.ModelProto, teachers: Sequence[onnx.ModelProto], images: Images, distill: DistillConfig) -> None:
    """Raises InputError where the teachers' classes are not the student's, or the labels are not theirs, or are missing."""
    classes = artifacts.class_count(student.graph.output[0])
    for number, teacher in enumerate(teachers, start=1):
        found = artifacts.class_count(teacher.graph.output[0])
        if found != classes:
            which = "the teacher" if number == 1 else f"teacher {number}"
            hint = "Is it a student of this teacher?" if number == 1 else "Give teachers of the same classes."
            raise InputError(f"{which} has {found} classes, the student {classes}; wanted the same. {hint}")
    if distill.alpha < 1 and images.labels is None:
        raise InputError(
            f"alpha is {distill.alpha} but the images have no labels; give --labels, or --alpha 1 to learn from the teacher alone."
        )
    if images.labels is not None and len(images) and not 0 <= images.labels.min() <= images.labels.max() < classes:
        raise InputError(
            f"labels run from {images.labels.min()} to {images.labels.max()}; wanted 0..{classes - 1}. Is --label-offset right?"
        )
