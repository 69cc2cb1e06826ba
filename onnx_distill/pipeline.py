"""The whole way of a model, read top to bottom: cut, quantize, train, export, measure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np
import onnx

from onnx_distill import __version__, runtime
from onnx_distill.adopt import adopt
from onnx_distill.artifacts import class_count
from onnx_distill.budget import Budget, mixed
from onnx_distill.calibrated import calibrated, drawn, image_shape, quantized, ready
from onnx_distill.config import DistillConfig, QuantizeConfig, TrainConfig
from onnx_distill.cut import cut, put_back_tail
from onnx_distill.data import Given, Images, Preprocess, images_from, split
from onnx_distill.data.preprocess import METADATA_KEY
from onnx_distill.ensemble import agreed_logits
from onnx_distill.errors import InputError
from onnx_distill.evaluate import evaluate, latency, predict, top_k, with_output
from onnx_distill.export import export
from onnx_distill.features import check_names, choose
from onnx_distill.logits import MARK, find_logits
from onnx_distill.lookup import data_inputs, image_input, producers, shape_of
from onnx_distill.model import save
from onnx_distill.normalize.image_form import as_images, back_to, is_nhwc, logits_back_to
from onnx_distill.normalize.prepare import constants_of, pinned_to, prepare
from onnx_distill.normalize.trace import check_divisions
from onnx_distill.preflight import IMAGES, preflight
from onnx_distill.provenance import data_sha256, provenance, stamp
from onnx_distill.qdq import is_quantized
from onnx_distill.result import Row, write_result
from onnx_distill.state import StateStore
from onnx_distill.targets import DEFAULT, target_of
from onnx_distill.train import Checkpoint, Progress, Trained, check_fit, train
from onnx_distill.verify.agree import Verification, logits_value, verify
from onnx_distill.verify.environments import Runtime


@dataclass(frozen=True)
class Watch:
    """Where a long run tells how it stands; each is called with what its name says."""

    stage: Callable[[str], None] = lambda text: None
    step: Callable[[Progress], None] = lambda progress: None
    evaluation: Callable[[Checkpoint], None] = lambda checkpoint: None
    warning: Callable[[str], None] = lambda text: None
    note: Callable[[str], None] = lambda text: None

    def also(self, step: Callable[[Progress], None], evaluation: Callable[[Checkpoint], None]) -> Watch:
        """One that tells others too."""

        def both_step(progress: Progress) -> None:
            self.step(progress)
            step(progress)

        def both_evaluation(checkpoint: Checkpoint) -> None:
            self.evaluation(checkpoint)
            evaluation(checkpoint)

        return replace(self, step=both_step, evaluation=both_evaluation)


def quantize_with_images(
    model: onnx.ModelProto,
    images: Given,
    config: QuantizeConfig,
    samples: int = 512,
    seed: int = 0,
    threads: int = 0,
    budget: Budget | None = None,
) -> onnx.ModelProto:
    """The QDQ form of a float model that ends in its logits, calibrated on `samples` images drawn at random.

    The model is normalized first; height and width that it leaves free are pinned to the images' own. images: see images_from.
    budget: with it, a ranking of the layers chooses the bits of each.
    """
    images = images_from(images)
    source = calibrated(model, drawn(images, samples, seed), config, threads)
    return quantized(source, mixed(source, images, config, budget, threads) if budget else config)


def deployable(
    student: onnx.ModelProto, teacher: onnx.ModelProto, target: str | None = None, weight_storage: str = "int8"
) -> onnx.ModelProto:
    """The QDQ student in integers with the teacher's own tail: a drop-in replacement for the teacher.

    It takes what the teacher takes, but for height and width that the student was pinned to and inputs that it has constants for.
    target: a name of targets.py; None: the one that it was quantized for. weight_storage: see export.
    """
    if not is_quantized(student):
        raise InputError("the student has no quantizers; wanted a QDQ model. Make one with `onnx-distill quantize`.")
    original, logits = like(student, teacher), student.graph.output[0].name
    runs_on = target_of(target or provenance(student).get("target", DEFAULT))
    integers = back_to(export(student, runs_on, weight_storage), original)
    made = put_back_tail(logits_back_to(integers, original), original)
    origin = provenance(teacher).get("teacher_sha256")
    storage = weight_storage if weight_storage != "int8" else None
    return stamp(made, tool=__version__, teacher_sha256=origin, logits=logits, target=runs_on.name, weight_storage=storage)


def like(student: onnx.ModelProto, teacher: onnx.ModelProto) -> onnx.ModelProto:
    """The teacher with the student's constants in place of the inputs that the student has none of, and with its height and width."""
    made = prepare(teacher, constants=constants_of(student, teacher))
    if len(data_inputs(made)) != 1:
        return made
    image, shape = image_input(student), shape_of(image_input(student))
    sizes = [axis for axis in shape[1:] if isinstance(axis, int)]
    if is_nhwc(image_input(made)) and not is_nhwc(image):
        sizes = [*sizes[1:], *sizes[:1]]
    fixed = len(sizes) + 1 == len(shape) == len(shape_of(image_input(made)))
    return pinned_to(made, sizes) if fixed else made


def scorer(
    validation: Images, teachers: Sequence[onnx.ModelProto], threads: int = 0, temperature: float = 1.0
) -> Callable[[onnx.ModelProto], float]:
    """A function that scores a QDQ student in its exported form: top-1, or without labels agreement with the teachers, see ensemble.py."""
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


def logits_model(student: onnx.ModelProto, teacher: onnx.ModelProto) -> onnx.ModelProto:
    """The teacher cut where the student ends, or, when that is an output of the whole teacher, where its Softmax is fed."""
    teacher = like(student, teacher)
    end, marked = student.graph.output[0].name, any(entry.key == MARK for entry in student.metadata_props)
    if marked and producers(student)[end].op_type in ("Softmax", "LogSoftmax"):
        raise InputError(
            "the student ends in a Softmax, as exported ones do; wanted the QDQ model that ends in its logits, such as run/trained.qdq.onnx."
        )
    if marked or end not in {output.name for output in teacher.graph.output}:
        return cut(teacher, end)
    try:
        return cut(teacher, find_logits(teacher).value)
    except InputError:  # no Softmax behind the teacher's logits: they are its output
        return cut(teacher, end)


def classes_of(model: onnx.ModelProto) -> int:
    """Number of classes of a model that ends in its logits. Raises InputError for logits of another shape."""
    return class_count(model.graph.output[0])


def measure(
    models: dict[str, onnx.ModelProto],
    images: Given,
    threads: int = 0,
    batch_sizes: tuple[int, ...] = (1, 64),
    logits: str | None = None,
) -> list[Row]:
    """Top-1, top-5, agreement with the first model, size and latency of each; all in one run, latency interleaved."""
    images = images_from(images)
    return rows_of(models, scores_of(models, images, threads, logits), images, threads, batch_sizes)


def scores_of(
    models: dict[str, onnx.ModelProto], images: Images, threads: int = 0, logits: str | None = None
) -> dict[str, np.ndarray]:
    """Logits [n, classes] of each model."""
    return {name: logits_of(model, images, threads, logits) for name, model in models.items()}


def rows_of(
    models: dict[str, onnx.ModelProto],
    scores: dict[str, np.ndarray],
    images: Images,
    threads: int = 0,
    batch_sizes: tuple[int, ...] = (1, 64),
) -> list[Row]:
    """What `measure` gives, of models whose logits on the images are known."""
    sizes, forms = _possible(batch_sizes, models), {name: as_images(prepare(model)) for name, model in models.items()}
    timings = latency(forms, image_shape(images), sizes, threads or None) if sizes else {}
    teacher = next(iter(scores.values()))
    rows = []
    for name, model in models.items():
        seconds = {size: timing.median_seconds for size, timing in timings[name].items()} if timings else None
        rows.append(Row(name, evaluate(scores[name], images.labels, teacher, model.ByteSize(), seconds)))
    return rows


def _possible(batch_sizes: tuple[int, ...], models: dict[str, onnx.ModelProto]) -> tuple[int, ...]:
    """The batch sizes that every model takes; where one takes a single other size, that."""
    fixed = {size for model in models.values() if isinstance(size := shape_of(image_input(model))[0], int)}
    return tuple(fixed) if len(fixed) == 1 and batch_sizes else () if fixed else batch_sizes


def logits_of(model: onnx.ModelProto, images: Given, threads: int = 0, logits: str | None = None) -> np.ndarray:
    """Logits [n, classes] of any classifier, whole or cut, float or quantized; at the node or value named, or as found."""
    images, model = images_from(images), as_images(prepare(model))
    check_divisions(pinned_to(model, image_shape(images)))
    value = find_logits(model, logits).value
    return predict(runtime.open_session(with_output(model, value), threads or None), images, output=value)


def verified(
    student: onnx.ModelProto,
    runtimes: Sequence[Runtime],
    images: Images,
    teacher: onnx.ModelProto | None = None,
    simulation: onnx.ModelProto | None = None,
    bound: float | None = None,
    trace: int = 20,
    threads: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> Verification:
    """An exported student of any input form under each runtime, beside its simulation and its teacher; see verify.verify."""
    shipped = as_images(student)
    theirs = logits_of(teacher, images, threads, logits_value(shipped)) if teacher is not None else None
    return verify(shipped, runtimes, images, theirs, simulation, bound, trace, threads, tell)


def choices(quantization: QuantizeConfig, loss: DistillConfig, config: TrainConfig) -> dict[str, Any]:
    """What result.json says that the models were made with."""
    return {"quantize": asdict(quantization), "distill": asdict(loss), "train": asdict(config)}


@dataclass(frozen=True)
class Outcome:
    """The student's file, what was measured on the test images, the logits behind that (by row), and how it was trained."""

    student: Path
    rows: list[Row]
    scores: dict[str, np.ndarray]
    trained: Trained


def run(
    teacher: onnx.ModelProto,
    train_images: Given,
    test_images: Given,
    folder: Path,
    quantization: QuantizeConfig,
    loss: DistillConfig,
    config: TrainConfig,
    logits: str | None = None,
    samples: int = 512,
    validation: int = 5000,
    watch: Watch = Watch(),
    store: StateStore | None = None,
    weight_storage: str = "int8",
    also: Sequence[onnx.ModelProto] = (),
    budget: Budget | None = None,
    distill_with: Callable[..., Trained] | None = None,
) -> Outcome:
    """teacher -> logits.onnx -> student.qdq.onnx -> trained.qdq.onnx -> student.int8.onnx and result.json in `folder`.

    weight_storage: int4 makes it student.int4.onnx; see export. also: further teachers, see distill. budget: see
    quantize_with_images. distill_with: what to call in place of distill, with the same arguments.
    """
    train_images, test_images = images_from(train_images), images_from(test_images)
    watch.stage("cut")
    float_model = cut(teacher, logits)
    if loss.features:
        check_names(ready(float_model, image_shape(train_images)), loss.features)

    watch.stage("quantize")
    seed = config.held_out_seed
    student = quantize_with_images(float_model, train_images, quantization, samples, seed, config.threads, budget)
    split(train_images, validation, seed)  # what can be refused is refused before anything is written
    check_fit(student, [float_model], train_images, loss)
    logits_of(float_model, test_images.subset(np.arange(1)))
    save(float_model, folder / "logits.onnx")
    save(student, folder / "student.qdq.onnx")

    watch.stage("train")
    trained = (distill_with or distill)(student, teacher, train_images, validation, loss, config, watch, store, also)
    save(trained.best.student, folder / "trained.qdq.onnx")

    watch.stage("export")
    result, exported = (
        deployable(trained.best.student, teacher, None, weight_storage),
        folder / f"student.{weight_storage}.onnx",
    )
    save(result, exported)

    watch.stage("measure")
    models = {"float": teacher, "PTQ": deployable(student, teacher, None, weight_storage), "distilled": result}
    scores = scores_of(models, test_images, config.threads, float_model.graph.output[0].name)
    rows = rows_of(models, scores, test_images, config.threads)
    write_result(folder, rows, choices(quantization, loss, config))
    return Outcome(exported, rows, scores, trained)
