"""Student, teachers and images, made fit for each other, held apart, checked and trained."""

from __future__ import annotations

from typing import Callable, Sequence

import numpy as np
import onnx

from onnx_distill import runtime
from onnx_distill.config import DistillConfig, TrainConfig
from onnx_distill.cut import cut
from onnx_distill.data import Given, Images, Preprocess, images_from, split
from onnx_distill.data.preprocess import METADATA_KEY
from onnx_distill.errors import InputError
from onnx_distill.evaluate import predict, top_k
from onnx_distill.export import export
from onnx_distill.facts.provenance import data_sha256, stamp
from onnx_distill.preflight import IMAGES, preflight
from onnx_distill.ready.adopt import adopt
from onnx_distill.ready.calibrated import image_shape, ready
from onnx_distill.ready.deployable import deployable, logits_model
from onnx_distill.run.watch import Watch
from onnx_distill.train import train
from onnx_distill.trainable.features import choose
from onnx_distill.training.ensemble import agreed_logits
from onnx_distill.training.state import StateStore
from onnx_distill.training.trained import Trained


def scorer(
    validation: Images, teachers: Sequence[onnx.ModelProto], threads: int = 0, temperature: float = 1.0
) -> Callable[[onnx.ModelProto], float]:
    """A function that scores a QDQ student in its exported form: top-1, or without labels agreement with the teachers, see training/ensemble.py."""
    if validation.labels is None:
        logits = [predict(runtime.open_session(teacher, threads or None), validation) for teacher in teachers]
        labels = agreed_logits(logits, temperature).argmax(axis=1)
    else:
        labels = validation.labels

    def score(student: onnx.ModelProto) -> float:
        return top_k(predict(runtime.open_session(export(student), threads or None), validation), labels, 1)

    return score


def distill(
    student: onnx.ModelProto,
    teacher: onnx.ModelProto,
    images: Given,
    validation: int,
    loss: DistillConfig,
    config: TrainConfig,
    watch: Watch = Watch(),
    store: StateStore | None = None,
    also: Sequence[onnx.ModelProto] = (),
) -> Trained:
    """Train the student; `validation` of the images are held out and choose the best. store: see train.

    images: see images_from. also: further teachers, whole classifiers that read the same images; the exported tail and the
    features are the first one's.
    """
    images = images_from(images)
    float_model = logits_model(student, teacher)
    student = adopt(student, float_model)
    float_model, others = (
        ready(float_model, image_shape(images)),
        [_further(one, teacher, image_shape(images)) for one in also],
    )
    features = choose(float_model, student, loss.features)
    deployable(student, teacher)  # refuses now what could not be exported after the training
    rest, held_out = split(images, validation, config.held_out_seed)
    score = scorer(held_out, [float_model, *others], config.threads, loss.temperature)
    if features:
        watch.note("features: " + ", ".join(feature.teacher for feature in features))
    if config.preflight:
        _warn_of_dead(preflight(student, rest.read(np.arange(min(IMAGES, len(rest)))), config), watch)
    trained = train(student, float_model, rest, score, loss, config, watch.step, watch.evaluation, store, others)
    kind = "top-1" if held_out.labels is not None else "agreement with the teacher"
    stamp(
        trained.best.student,
        temperature=loss.temperature,
        alpha=loss.alpha,
        epochs=f"{trained.best.epoch:g}",
        data_sha256=data_sha256(images),
        score_of=f"{kind} on {len(held_out)} held-out images",
        score_before=f"{trained.scores[0][1]:.6f}",
        score_after=f"{trained.best.score:.6f}",
    )
    return trained


def _further(teacher: onnx.ModelProto, first: onnx.ModelProto, shape: tuple[int, ...]) -> onnx.ModelProto:
    """A further teacher, normalized and ending in its logits. Raises InputError where its images are prepared otherwise."""
    wanted, found = (Preprocess.of(model).replace(label_offset=0) for model in (first, teacher))
    if METADATA_KEY in {entry.key for entry in teacher.metadata_props} and found != wanted:
        raise InputError(
            f"a further teacher wants its images prepared as {found}, the first one as {wanted}; wanted teachers of the same images."
        )
    return ready(cut(teacher), shape)


def _warn_of_dead(parameters: list[str], watch: Watch) -> None:
    if parameters:
        watch.warning(
            f"{len(parameters)} parameters do not move the logits on the first images, {parameters[0]!r} among them: "
            "their Relus are closed, or weights behind them are 0. They train once that changes."
        )
