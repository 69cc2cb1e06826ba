"""How good a model is: top-1, top-5, agreement with a teacher, KL divergence, size, latency."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Mapping

import numpy as np
import onnx
import onnxruntime as ort

from onnx_distill import runtime
from onnx_distill.closest import closest
from onnx_distill.data import Images, batches
from onnx_distill.errors import InputError
from onnx_distill.numerics import log_softmax

WARM_UP_RUNS = 3  # the first allocates the arena, the next ones let caches and clocks settle
LONG = 0.1  # seconds: a run that takes longer hardly feels caches, clocks and what another model's threads still do
SPREAD, FEWEST_ROUNDS = 0.01, 7  # of a median that is known well enough, relative to it; rounds by which that can be told


@dataclass(frozen=True)
class Evaluation:
    """What was measured on `count` images; shares are in 0..1, None is not known."""

    count: int
    top1: float | None = None  # share of images whose label has the highest score
    top5: float | None = None  # share of images whose label is among the five highest
    agreement: float | None = None  # share of images for which student and teacher answer the same
    kl: float | None = None  # nats, mean KL(teacher || student)
    size_bytes: int | None = None
    latency_seconds: dict[int, float] | None = None  # batch size -> median of one run


@dataclass(frozen=True)
class Timing:
    """Seconds of one run: median and quartiles of `count` runs."""

    median_seconds: float
    p25: float
    p75: float
    count: int


def predict(session: ort.InferenceSession, images: Images, batch_size: int = 256, output: str | None = None) -> np.ndarray:
    """Scores [n, classes] of every image: the output named (the first if None), flattened to rank 2.

    A model with a fixed batch is fed batches of that size. Raises InputError for an unknown output or a wrong image shape.
    """
    name, fixed = _output_name(session, output), (session.get_inputs()[0].shape or [None])[0]
    size, order = batch_size, np.arange(len(images))
    if isinstance(fixed, int):
        size, order = fixed, np.resize(order, -(-len(images) // fixed) * fixed)
    return np.concatenate([_scores(session, batch.images, name) for batch in batches(images, size, order)])[: len(images)]


def _output_name(session: ort.InferenceSession, output: str | None) -> str:
    names = [value.name for value in session.get_outputs()]
    if output is not None and output not in names:
        raise InputError(
            f"the model has no output named {output!r}{closest(output, names)}; its outputs: {', '.join(names)}."
        )
    return output if output is not None else names[0]


def _scores(session: ort.InferenceSession, images: np.ndarray, name: str) -> np.ndarray:
    scores = runtime.run(session, images, [name])[0]
    if scores.ndim < 2 or len(scores) != len(images):
        raise InputError(f"output {name!r} has shape {list(scores.shape)} for {len(images)} images; wanted [n, classes].")
    return scores.reshape(len(scores), -1)


def top_k(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of images [n] whose label is among the k highest of scores [n, classes].

    Of equal scores the first counts as higher, as in argmax: top_k(s, l, 1) == mean(argmax(s) == l).
    """
    check_no_nan(scores)
    if labels.shape != scores.shape[:1] or labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise InputError(
            f"{len(labels)} labels from {labels.min()} to {labels.max()} for scores of shape {list(scores.shape)}; "
            "wanted one label an image, within the classes. Check --label-offset."
        )
    own = scores[np.arange(len(scores)), labels][:, None]
    earlier = np.arange(scores.shape[1]) < labels[:, None]
    better = (scores > own) | ((scores == own) & earlier)
    return float(np.mean(better.sum(axis=1) < k))


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Share of images for which scores a and b [n, classes] have their first highest score in the same place."""
    _check_same_shape(a, b)
    return float(np.mean(a.argmax(axis=1) == b.argmax(axis=1)))


def mean_kl(teacher_logits: np.ndarray, student_logits: np.ndarray) -> float:
    """Mean over images of KL(softmax(teacher) || softmax(student)) in nats, in float64; 0 exactly when the two are equal."""
    return max(0.0, float(kl_of_rows(teacher_logits, student_logits).mean()))  # rounding can leave -1e-17


def kl_of_rows(teacher_logits: np.ndarray, student_logits: np.ndarray) -> np.ndarray:
    """KL(softmax(teacher) || softmax(student)) of each image [n], in nats, for logits [n, classes]."""
    _check_same_shape(teacher_logits, student_logits)
    log_p, log_q = log_softmax(teacher_logits), log_softmax(student_logits)
    return (np.exp(log_p) * (log_p - log_q)).sum(axis=1)


def _check_same_shape(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape:
        raise InputError(f"teacher and student scores have shapes {list(a.shape)} and {list(b.shape)}; wanted the same.")
    check_no_nan(a)
    check_no_nan(b)


def check_no_nan(scores: np.ndarray) -> None:
    """Raises InputError for scores [n, classes] of which some are no numbers."""
    bad = np.isnan(scores).any(axis=1)
    if bad.any():
        raise InputError(
            f"scores of {int(bad.sum())} images are NaN, the first at index {int(bad.argmax())}: the model is broken."
        )


def evaluate(
    scores: np.ndarray,
    labels: np.ndarray | None = None,
    teacher_scores: np.ndarray | None = None,
    size_bytes: int | None = None,
    latency_seconds: dict[int, float] | None = None,
) -> Evaluation:
    """The measures that scores [n, classes] (logits, for kl), labels [n] and the teacher's scores allow."""
    return Evaluation(
        count=len(scores),
        top1=None if labels is None else top_k(scores, labels, 1),
        top5=None if labels is None else top_k(scores, labels, 5),
        agreement=None if teacher_scores is None else agreement(teacher_scores, scores),
        kl=None if teacher_scores is None else mean_kl(teacher_scores, scores),
        size_bytes=size_bytes,
        latency_seconds=latency_seconds,
    )


def with_output(model: onnx.ModelProto, value: str) -> onnx.ModelProto:
    """A copy of the model that also gives `value`, as its last output: the logits of a model that ends in Softmax.

    A value that is an output already stays where it is. Raises InputError for a name the graph does not have.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if value in {output.name for output in model.graph.output}:
        return copy
    known = [name for node in model.graph.node for name in node.output if name]
    if value not in known:
        raise InputError(
            f"no value named {value!r} in the model{closest(value, known)}. List them with `onnx-distill inspect`."
        )
    copy.graph.output.append(_value_info(copy, value))
    return copy


def _value_info(model: onnx.ModelProto, value: str) -> onnx.ValueInfoProto:
    described = {info.name: info for info in model.graph.value_info}
    if value not in described:
        described = {info.name: info for info in onnx.shape_inference.infer_shapes(model).graph.value_info}
    return described.get(value) or onnx.ValueInfoProto(name=value)  # onnxruntime finds the type itself


def latency(
    models: Mapping[str, onnx.ModelProto | str | os.PathLike],
    shape: tuple[int, ...],
    batches: tuple[int, ...] = (1, 64),
    threads: int | None = None,
    rounds: int = 100,
    seconds: float = 2.0,
    spread: float = SPREAD,
) -> dict[str, dict[int, Timing]]:
    """Name -> batch size -> Timing, on random images of `shape` [channels, height, width].

    In sessions as users open them: runtime.open_session(exact=False). The models take turns, A B C A B C, so that a slow
    moment of the machine meets them all; loading and warm-up are not timed. A batch size takes `rounds` turns, or fewer: once the standard
    error of every model's median is below `spread` of it, or `seconds` for each model are over. Of a model whose first run takes longer than that, this run is the Timing.
    """
    sessions = {name: runtime.open_session(model, threads, exact=False) for name, model in models.items()}
    results: dict[str, dict[int, Timing]] = {name: {} for name in models}
    for batch in batches:
        images = np.random.default_rng(0).standard_normal((batch, *shape), np.float32)
        for name, samples in _take_turns(sessions, images, rounds, seconds, spread).items():
            p25, median, p75 = (float(p) for p in np.percentile(samples, (25, 50, 75)))
            results[name][batch] = Timing(median, p25, p75, len(samples))
    return results


def _take_turns(
    sessions: dict[str, ort.InferenceSession], images: np.ndarray, rounds: int, seconds: float, spread: float
) -> dict[str, list[float]]:
    """Name -> seconds of each timed run.

    Each turn is an untimed run, then a timed one: the caches then hold this model's weights, and the threads of the model
    before, which spin for a while after their work, have gone to sleep. Runs that are LONG are not made twice.
    """
    end = time.perf_counter() + seconds * len(sessions)
    first = {name: _warmed_up(session, images) for name, session in sessions.items()}
    if seconds and max(first.values()) > seconds:
        return {name: [taken] for name, taken in first.items()}
    samples: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(rounds):
        for name, session in sessions.items():
            if first[name] < LONG:
                runtime.run(session, images)
            samples[name].append(_timed(session, images))
        if time.perf_counter() > end or all(median_is_known(taken, spread) for taken in samples.values()):
            break
    return samples


def _warmed_up(session: ort.InferenceSession, images: np.ndarray) -> float:
    """Seconds of the first run; where it is not LONG, others follow."""
    start = time.perf_counter()
    runtime.run(session, images)
    first = time.perf_counter() - start
    for _ in range(WARM_UP_RUNS - 1 if first < LONG else 0):
        runtime.run(session, images)
    return first


def median_is_known(samples: list[float], spread: float) -> bool:
    """Whether the standard error of the median, of normally distributed samples 0.93 interquartile ranges over sqrt(n), is below `spread` of it."""
    if len(samples) < FEWEST_ROUNDS:
        return False
    p25, median, p75 = np.percentile(samples, (25, 50, 75))
    return bool(0.93 * (p75 - p25) / np.sqrt(len(samples)) < spread * median)


def _timed(session: ort.InferenceSession, images: np.ndarray) -> float:
    feed = {session.get_inputs()[0].name: images}
    start = time.perf_counter()
    session.run(None, feed)
    return time.perf_counter() - start
