"""Student, teachers and images, made fit for each other, held apart, checked and trained."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Callable, Sequence

import numpy as np
import onnx

from onnx_distill import runtime
from onnx_distill.config import DistillConfig, TrainConfig
from onnx_distill.cut import cut
from onnx_distill.data import Given, Images, Preprocess, images_from, split
from onnx_distill.data.preprocess import METADATA_KEY
from onnx_distill.errors import InputError
from onnx_distill.evaluate import kl_of_rows, predict, top_k
from onnx_distill.export import export
from onnx_distill.facts.provenance import contents_sha256, data_sha256, stamp
from onnx_distill.facts.reading import describe
from onnx_distill.integer_form.equalize import as_equalized
from onnx_distill.preflight import IMAGES, preflight
from onnx_distill.ready.adopt import adopt
from onnx_distill.ready.calibrated import image_shape, ready
from onnx_distill.ready.deployable import deployable, logits_model
from onnx_distill.ready.teacher_check import teacher_check
from onnx_distill.run.watch import Watch
from onnx_distill.train import train
from onnx_distill.trainable.features import choose
from onnx_distill.training.ensemble import agreed_logits
from onnx_distill.training.fit import check_fit
from onnx_distill.training.score import LIKELY, Score, fell
from onnx_distill.training.state import StateStore
from onnx_distill.training.trained import Trained, checkpoint_of

EQUAL = 0.003  # nats: by Pinsker's inequality probabilities are within 0.039 of the teacher's, in the mean within less
LOOKED_AT = 512  # held-out images by which a training that makes the student worse is noticed
FEW, SHORT = 200, 5000  # held-out images, and images trained on, that are named where training did not help


class Scorer:
    """Scores QDQ students in their exported form on held-out images, beside their teachers (training/ensemble.py)."""

    def __init__(self, held_out: Images, teachers: Sequence[onnx.ModelProto], threads: int = 0, temperature: float = 1.0):
        self.images, self.threads = held_out, threads
        logits = [predict(runtime.open_session(teacher, threads or None), held_out) for teacher in teachers]
        self.teacher = agreed_logits(logits, temperature)
        self._first: tuple[onnx.ModelProto, Score] | None = None  # what training begins with is scored before it, and by it

    def __call__(self, student: onnx.ModelProto) -> Score:
        """Share of right answers, or without labels of answers like the teachers', and the KL of each image."""
        if self._first is not None and self._first[0] is student:
            return self._first[1]
        logits = self._logits(student, self.images)
        labels = self.teacher.argmax(axis=1) if self.images.labels is None else self.images.labels
        score = Score(top_k(logits, labels, 1), kl_of_rows(self.teacher, logits))
        self._first = self._first or (student, score)
        return score

    @property
    def of_teacher(self) -> float:
        """The teachers' own share of right answers; without labels 1."""
        return 1.0 if self.images.labels is None else top_k(self.teacher, self.images.labels, 1)

    def look(self, student: onnx.ModelProto) -> np.ndarray:
        """KL of the first few images, in nats."""
        few = np.arange(min(LOOKED_AT, len(self.images)))
        return kl_of_rows(self.teacher[few], self._logits(student, self.images.subset(few)))

    def _logits(self, student: onnx.ModelProto, images: Images) -> np.ndarray:
        return predict(runtime.open_session(export(student), self.threads or None), images)


def distill(
    student: onnx.ModelProto,
    teacher: onnx.ModelProto,
    images: Given,
    validation: int | None,
    loss: DistillConfig,
    config: TrainConfig,
    watch: Watch = Watch(),
    store: StateStore | None = None,
    also: Sequence[onnx.ModelProto] = (),
) -> Trained:
    """Train the student; `validation` of the images (None: see data.held_out_count) are held out and choose the best. store: see train.

    images: see images_from. also: further teachers, whole classifiers that read the same images; the exported tail and the
    features are the first one's. Where the student is its teacher's equal already, and where training did not make it better by
    more than chance, the student that comes back is the one that was given, and `kept` says why.
    """
    images = images_from(images)
    loss = loss.of_images(images.labels is not None)
    float_model = logits_model(student, teacher)
    student = adopt(student, float_model)
    float_model, others = (
        ready(float_model, image_shape(images)),
        [_further(one, teacher, image_shape(images)) for one in also],
    )
    if loss.features:  # inner values are like the teacher's where its channels are scaled as the student's
        float_model = as_equalized(float_model, student)
    features = choose(float_model, student, loss.features)
    deployable(student, teacher)  # refuses now what could not be exported after the training
    rest, held_out = split(images, validation, config.held_out_seed)
    check_fit(student, [float_model, *others], rest, loss)
    score = Scorer(held_out, [float_model, *others], config.threads, loss.temperature)
    answers = lambda batch: runtime.run(runtime.open_session(float_model, config.threads or None), batch)[0]  # noqa: E731
    teacher_check(score.teacher, held_out, answers, "held-out images").told(watch.note, watch.warning)
    before = score(student)
    enough = _enough(before) if config.train == "auto" and (store is None or store.newest() is None) else ""
    if enough:
        untrained = checkpoint_of(_copy(student), before, 0.0)
        watch.evaluation(untrained)
        trained = Trained(untrained, ((0.0, before.share),), 0, 0.0, False, kept=enough)
    else:
        if features:
            watch.note("features: " + ", ".join(feature.teacher for feature in features))
        if config.preflight:
            _warn_of_dead(preflight(student, rest.read(np.arange(min(IMAGES, len(rest)))), config), watch)
        trained = train(
            student,
            float_model,
            rest,
            score,
            loss,
            config,
            watch.step,
            watch.evaluation,
            store,
            others,
            score.look,
            watch.note,
            contents_sha256(images) if store is not None else "",
        )
        trained = _adopted(trained, student, before, score)
    describe(trained.best.student, images)
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
        score_teacher=f"{score.of_teacher:.6f}",
        kept=trained.kept or None,
    )
    return trained


def _enough(score: Score) -> str:
    """Why a student needs no training, or '': its probabilities are its teacher's, so far as they can be told apart."""
    if score.mean_kl + float(score.kl.std()) / math.sqrt(len(score.kl)) > EQUAL:
        return ""
    return (
        f"PTQ is enough: the KL to the teacher is {score.mean_kl:.2g} on {len(score.kl):,} held-out images, at most {EQUAL:g} counts "
        "as equal. The student is the PTQ model, nothing was trained (--train always trains all the same)"
    )


def _adopted(
    trained: Trained, student: onnx.ModelProto, before: Score, score: Callable[[onnx.ModelProto], Score]
) -> Trained:
    """The training, with the student that it began with as its best where no trained one is better by a standard error."""
    if trained.interrupted or trained.out_of_time:
        return trained  # it goes on
    after = score(trained.best.student) if trained.best.epoch else before
    if fell(before.kl, after.kl, LIKELY):
        return trained
    found = f"the KL to the teacher is {after.mean_kl:.3g} after {before.mean_kl:.3g}, which may be chance,"
    if not trained.best.epoch:
        found = f"no KL to the teacher was below the {before.mean_kl:.3g} that it began with,"
    why = " and ".join(_reasons(trained, before)) or "the recipe may not suit it: try another --lr, or more --epochs"
    kept = f"training did not help: {found} on {len(before.kl):,} held-out images. The student is the PTQ model. Likely because {why}"
    return replace(trained, best=checkpoint_of(_copy(student), before, 0.0), kept=kept)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made


def _reasons(trained: Trained, before: Score) -> list[str]:
    """What is known to keep training from helping, as far as it is seen here."""
    held_out, images = len(before.kl), trained.images
    return [
        reason
        for holds, reason in (
            (bool(trained.stopped), "it stopped early"),
            (before.mean_kl < 10 * EQUAL, "PTQ is close to the teacher already"),
            (held_out < FEW, f"{held_out} held-out images cannot show a small gain (give more images)"),
            (0 < images < SHORT, f"{images:,} images are a short training (give more --epochs)"),
        )
        if holds
    ]


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
