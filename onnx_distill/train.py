"""Distillation: the frozen teacher's logits train the student's weights, biases and quantization steps."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Callable

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_distill import artifacts
from onnx_distill.config import DistillConfig, TrainConfig
from onnx_distill.data import Augment, Images
from onnx_distill.lookup import array, initializers
from onnx_distill.quantization.bias import align_biases
from onnx_distill.trainable.features import choose
from onnx_distill.trainable.units import natural_units
from onnx_distill.training.average import Average
from onnx_distill.training.duration import batch_of, duration_of, lowest_bits, mixup_of
from onnx_distill.training.fit import check_fit, check_sizes
from onnx_distill.training.optimizer import Optimizer
from onnx_distill.training.order import Order
from onnx_distill.training.profile import Recording
from onnx_distill.training.record import (
    Record,
    begun,
    begun_again,
    check_data,
    check_recipe,
    keep,
    recipe_of,
    restored,
    state_of,
)
from onnx_distill.training.score import Score, fell
from onnx_distill.training.state import StateStore
from onnx_distill.training.step import Step
from onnx_distill.training.teacher import Teacher
from onnx_distill.training.trained import Checkpoint, Progress, Trained, checkpoint_of

MOST_EVALUATIONS = 20  # where the number of epochs is not chosen: of few images an epoch is a few updates
MOST_REWINDS = 5  # after which a recipe that diverges again is given up
LOOKS = (0.025, 0.05, 0.1, 0.2, 0.3)  # shares of the updates after which it is looked whether the student got worse
RISE = 1.25  # times the KL that the student began with, and more than chance: worse


def train(
    student: onnx.ModelProto,
    teacher: onnx.ModelProto,
    images: Images,
    evaluate: Callable[[onnx.ModelProto], Score],
    distill: DistillConfig,
    config: TrainConfig,
    on_step: Callable[[Progress], None] = lambda progress: None,
    on_evaluation: Callable[[Checkpoint], None] = lambda checkpoint: None,
    store: StateStore | None = None,
    also: Sequence[onnx.ModelProto] = (),
    look: Callable[[onnx.ModelProto], np.ndarray] | None = None,
    note: Callable[[str], None] = lambda text: None,
    data: str = "",
) -> Trained:
    """Train a QDQ student on the teacher's logits; the latest one whose held-out KL is not above the lowest by more than chance is kept.

    student, teacher: models that end in logits [n, classes], the teacher float. also: further teachers of the same classes; the
    mean of all their softened probabilities is then the target (training/ensemble.py), features are the first one's. images: labels are needed where alpha < 1.
    evaluate is called before the first step, after each epoch (or config.evaluate_every steps), and at the end. Ctrl-C stops
    and returns the best so far; so does a loss that is no longer finite. store: where checkpoints are kept; the newest one
    there is continued, and ends in the bytes of a run that was never interrupted (same seed, threads and machine).
    look: the KL [n] of a few held-out images, in nats; with it, a student that gets worse in the first part of the training
    is noticed, and training begins again at half the rate. note: called with a sentence on what was decided. data: fingerprint of all images, those that `evaluate` has among them, which checkpoints keep.
    Raises InputError where teacher, student and images do not fit together.
    """
    distill = distill.of_images(images.labels is not None)
    check_fit(student, [teacher, *also], images, distill)
    features = choose(teacher, student, distill.features)
    batch_size = batch_of(config, len(images), math.prod(images.read(np.arange(1)).shape[2:]))
    order = Order(len(images), batch_size, config.seed)
    check_sizes(images, order.batches_per_epoch, config)
    steps_per_epoch = order.batches_per_epoch // config.accumulate
    duration = duration_of(config, student, len(images), batch_size, steps_per_epoch)
    augment = Augment(config.flip, config.shift, config.crop, config.colour, mixup_of(config, duration))
    classes = artifacts.class_count(student.graph.output[0])
    remember, inner_names = 0 if augment.changes else len(images), [feature.teacher for feature in features]
    guide = Teacher(teacher, config.threads, classes, remember, inner_names, also, distill.temperature)
    with tempfile.TemporaryDirectory(prefix="onnx-distill-") as folder:
        made = artifacts.build(student, distill, config.learn_steps, Path(folder), batch_size, config.freeze, features)
        recording = Recording(config.profile)
        step = Step(made, config.threads, recording.folder)
    first = evaluate(student)
    config = config.for_student(lowest_bits(student), first.mean_kl, len(images))
    kinds = made.parameters
    optimizer = Optimizer(step.parameters, kinds.weights, kinds.biases, kinds.steps, config, _units(student, kinds, config))
    average = Average(step.parameters, config.ema)

    def forward(position: int, add: bool) -> float:
        """The loss of the batch at a position of the order; its gradients are in step.gradients, added to those there if `add`."""
        index, rng = order.batch(position), order.rng(position)
        batch = augment(images.read(index), rng, images.fill)
        guide.check(batch)
        labels = images.labels[index] if images.labels is not None else None
        logits, inner = guide.answer(batch, index) if distill.teacher_share > 0 or features else (None, [])
        return step.run(batch, logits, labels, add, inner)[0]

    recipe = recipe_of([student, teacher, *also], images, distill, config)
    found = store.newest() if store is not None else None
    if found is None:
        if config.epochs is None:
            seconds = _seconds(lambda: forward(0, False)) * config.accumulate
            duration = duration_of(config, student, len(images), batch_size, steps_per_epoch, seconds)
        if config.batch_size is not None and config.batch_size > batch_size:
            note(
                f"a batch of {config.batch_size} is more than the {len(images):,} images to train on: all of them are one batch"
            )
        note(f"{duration}, learning rate {config.peak_rate:g}{' quantization steps' if config.natural else ''}")
        on_evaluation(checkpoint_of(student, first, 0.0))
        record = begun(step.parameters, first, duration.updates, recipe, data)
    else:
        check_data(found, data)
        check_recipe(found, recipe)
        record = restored(found, optimizer, average)
    good, steps = state_of(record, optimizer, average), record.steps
    sparse = max(1, steps // (MOST_EVALUATIONS * steps_per_epoch)) if config.epochs is None else 1
    every = config.evaluate_every or sparse * steps_per_epoch
    looks = {max(1, round(share * steps)) for share in LOOKS} if look is not None and distill.teacher_share > 0 else set()
    untrained = look(student) if look is not None and looks and record.done < max(looks) else None

    def score(number: int) -> None:
        values = average.values
        trained = with_parameters(student, values)
        found = evaluate(trained)
        on_evaluation(checkpoint_of(trained, found, number / steps_per_epoch))
        keep(record, found, number / steps_per_epoch, values)

    interrupted, out_of_time, stopped, began = False, False, _no_better(record, config), time.monotonic()
    try:
        while record.done < steps and not stopped:
            number, started, loss = record.done + 1, time.perf_counter(), 0.0
            for part in range(config.accumulate):
                loss += forward(record.done * config.accumulate + part, part > 0) / config.accumulate
            share = record.rate * rate_share(number, steps, config)
            if math.isfinite(loss):
                with np.errstate(all="ignore"):  # what overflows is found below, and told in one line
                    optimizer.update(step.gradients, share, config.accumulate)
                average.update(number)
            record.seconds += time.perf_counter() - started
            evaluates = number % every == 0 or number == steps
            problem = _problem(loss, step.parameters if evaluates else {}, number, share * config.peak_rate)
            if problem and config.on_nonfinite == "rewind" and record.rewinds < MOST_REWINDS:
                rate, rewinds = record.rate / 2, record.rewinds + 1
                record = replace(restored(good, optimizer, average), rate=rate, rewinds=rewinds)
                continue
            if problem:
                stopped = problem
                break
            record.done = number
            record.loss = loss if record.loss is None else 0.95 * record.loss + 0.05 * loss
            on_step(Progress(number, steps, number * config.accumulate * batch_size, record.loss, share * config.peak_rate))
            if look is not None and untrained is not None and number in looks and record.rewinds < MOST_REWINDS:
                worse = _worse(untrained, look(with_parameters(student, average.values)), number)
                if worse:
                    note(f"{worse}: begins again at half the learning rate")
                    optimizer.begin_again(start_values(student, step.parameters))
                    average.begin_again()
                    record = begun_again(record, step.parameters, first)
                    good = state_of(record, optimizer, average)
                    if store is not None:
                        store.clear()
                    continue
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
    best = Checkpoint(_best_student(student, record), record.best_score, record.best_epoch, record.best_kl, record.held_out)
    trained_images = record.done * config.accumulate * batch_size
    return Trained(best, tuple(record.scores), trained_images, record.seconds, interrupted, stopped, out_of_time)


def _units(student: onnx.ModelProto, kinds: artifacts.Parameters, config: TrainConfig) -> dict[str, np.ndarray] | None:
    """Unit of each parameter; None where all are learned as they stand. A rate of the steps that was chosen is relative to the steps."""
    if not config.natural:
        return None
    units = natural_units(student, kinds.weights + kinds.biases, kinds.steps)
    return units if config.step_rate is None else {**units, **dict.fromkeys(kinds.steps, np.ones((), np.float32))}


def _seconds(step: Callable[[], float]) -> float:
    """What one step takes: the second of two, for the first one lays out memory."""
    step()
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def start_values(student: onnx.ModelProto, parameters: Iterable[str]) -> dict[str, np.ndarray]:
    """The parameters as training found them."""
    constants = initializers(student)
    return {name: array(constants[name]) for name in parameters}


def _worse(before: np.ndarray, after: np.ndarray, step: int) -> str:
    """How the held-out KL [n] rose by RISE and by more than chance, or ''."""
    if np.isfinite(after).all() and (after.mean() <= RISE * before.mean() or not fell(after, before)):
        return ""
    return f"at update {step} the KL to the teacher is {after.mean():.2g} on {len(after)} held-out images, {before.mean():.2g} before"


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
