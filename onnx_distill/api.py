"""The stages as functions for a Python program: models and images in, models and numbers out.

Models are onnx.ModelProto, in memory; onnx.save writes them. What a user can do something about is raised as InputError. Functions
have names of their own beside the modules that do the work, because a package cannot have a function and a module of one name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Callable, Optional, Union

import numpy as np
import onnx

from onnx_distill import model as models
from onnx_distill import pipeline
from onnx_distill.closest import closest
from onnx_distill.config import DistillConfig, QuantizeConfig, TrainConfig
from onnx_distill.cut import cut
from onnx_distill.data import PRESETS, Decoding, Images, Preprocess, images_from, is_collection, open_images
from onnx_distill.data.given import Given
from onnx_distill.errors import InputError
from onnx_distill.facts.provenance import contents_sha256, file_sha256, provenance, stamp
from onnx_distill.inspection import Inspection, inspect
from onnx_distill.mixed.budget import Budget
from onnx_distill.normalize.prepare import image_shape, prepare
from onnx_distill.pipeline import Outcome
from onnx_distill.ready.deployable import deployable
from onnx_distill.ready.distillation import distill
from onnx_distill.ready.measure import measure
from onnx_distill.report import Evaluations
from onnx_distill.run.folder import RunFolder, made_folder
from onnx_distill.run.shown import shown
from onnx_distill.training.trained import Checkpoint, Progress, Trained


def load_model(
    path: Union[str, os.PathLike],
    input_shape: Optional[Sequence[int]] = None,
    constants: Optional[Mapping[str, np.ndarray]] = None,
) -> onnx.ModelProto:
    """The classifier in an ONNX file (external data read in), checked, with the file's sha256 in its metadata.

    input_shape: (channels, height, width) for a model that leaves them free. constants: the value of each input that is not the
    images. Raises InputError for a file that is missing, damaged, no ONNX, of an opset below 7 or above what can be read.
    """
    loaded = models.load(path)
    if "teacher_sha256" not in provenance(loaded):
        stamp(loaded, teacher_sha256=file_sha256(path))
    return prepare(loaded, tuple(input_shape) if input_shape else None, dict(constants or {}))


def inspect_model(model: onnx.ModelProto, logits: Optional[str] = None) -> Inspection:
    """Facts about any model, float or quantized, as a frozen dataclass: inputs, outputs, where it would be cut, its layers with
    their bits, what would be rewritten and what is in the way of training it. Nothing is run.

    logits: node or value to cut at; None looks for what feeds the final Softmax. Raises InputError for a name that is not there.
    """
    return inspect(model, logits)


def read_images(
    source: Union[str, os.PathLike, Given],
    model: Optional[onnx.ModelProto] = None,
    labels: Union[str, os.PathLike, np.ndarray, None] = None,
    preprocess: Union[Preprocess, str, None] = None,
    workers: int = 0,
) -> Images:
    """Images that are read when they are needed: float32 [n, channels, height, width] as the model reads them.

    source: a path (a folder per class, a flat folder, a tar, .npz, .npy, IDX); or an array [n, height, width], [n, channels,
    height, width] or [n, height, width, channels]; or an iterable of images, of batches, or of (images, labels); or an object
    with get_next(), such as onnxruntime's CalibrationDataReader.
    model: its metadata say how pixels become its input, x = (pixel - mean) * scale; without it they stay as they are.
    preprocess: instead of those, one of your own, or the name of a preset (imagenet, mobilenet, raw).
    labels: whole numbers [n], or a path to them; default: those beside or in the source. workers: processes that decode files.
    Raises InputError for what is missing, damaged, no image, or does not fit together.
    """
    how = _preprocess(preprocess, model)
    if not isinstance(source, (str, os.PathLike)):
        return images_from(source, labels, how)
    if labels is not None and not isinstance(labels, (str, os.PathLike)):
        raise InputError(f"the labels of {source} are a {type(labels).__name__}; wanted a path, as the images are one.")
    shape = image_shape(model) if is_collection(Path(source)) and model is not None else None
    return open_images(source, labels, how or Preprocess(), None, shape, Decoding(workers))


def _preprocess(given: Union[Preprocess, str, None], model: Optional[onnx.ModelProto]) -> Optional[Preprocess]:
    """The one given, or the model's own, over which a preset goes; None: the images stay as they are."""
    if isinstance(given, Preprocess):
        return given
    own = Preprocess.of(model) if model is not None else None
    if given is None:
        return own
    if given not in PRESETS:
        raise InputError(f"no preset {given!r}{closest(given, list(PRESETS))}; wanted one of {', '.join(PRESETS)}.")
    return (own or Preprocess()).replace(**PRESETS[given])


def cut_model(model: onnx.ModelProto, logits: Optional[str] = None) -> onnx.ModelProto:
    """A copy of the classifier truncated at its logits, float [n, classes]: what quantize_model takes.

    logits: node or value to cut at; None: what feeds the final Softmax. Raises InputError where there is none, or several.
    """
    return cut(model, logits)


def quantize_model(
    model: onnx.ModelProto,
    images: Given,
    config: QuantizeConfig = QuantizeConfig(),
    *,
    samples: int = 512,
    seed: int = 0,
    threads: int = 0,
    budget: Optional[Budget] = None,
    validation: Optional[int] = None,
) -> onnx.ModelProto:
    """The student: a QDQ model with calibrated activations and float weights, which stock runtimes run (the PTQ baseline).

    model: float, cut at its logits. images: see read_images; labels are not needed. samples: images to calibrate on, drawn at
    random with the seed. threads: of the runtime; 0 is its own choice. budget: of mixed precision, see budget.Budget. validation: how
    many images train_model will hold out with the same seed; they are not calibrated on.
    Raises InputError where nothing can be quantized, and for images that do not fit the model.
    """
    return pipeline.quantize_with_images(model, images, config, samples, seed, threads, budget, validation)


def train_model(
    student: onnx.ModelProto,
    teacher: onnx.ModelProto,
    images: Given,
    distillation: DistillConfig = DistillConfig(),
    training: TrainConfig = TrainConfig(),
    *,
    also_teachers: Sequence[onnx.ModelProto] = (),
    validation: Optional[int] = None,
    folder: Union[str, os.PathLike, None] = None,
    resume: bool = False,
    overwrite: bool = False,
    on_step: Callable[[Progress], None] = lambda progress: None,
    on_evaluation: Callable[[Checkpoint], None] = lambda checkpoint: None,
    progress: bool = False,
) -> Trained:
    """The student distilled: the float teacher's logits, and with alpha below 1 the labels, train its weights, biases and steps.

    student: a QDQ model, of quantize_model or of another tool. teacher: the original, whole or cut. also_teachers: further
    classifiers of the same images and classes, whole or cut; all answer together.
    validation: images held out to choose the best student, by its mean KL to the teachers; None: a tenth, but at least 128 or a
    quarter, and 5,000 at most.
    folder: checkpoints and a log go there, and resume continues a run that was interrupted there, to the same bytes. overwrite: replace
    an earlier run in the folder, which is refused otherwise.
    on_step is called after each step, on_evaluation after each evaluation (scores are shares, 0 to 1). progress: show a bar, in a
    notebook its own kind.
    Where the student is the teacher's equal already (training.train "auto"), or training does not make it better by more than
    chance, best.student is the student as it was given, and the result's `kept` says why.
    The result's best.student is a QDQ model for export_model; its scores are (epoch, score) pairs, the first before training.
    Raises InputError where student, teacher, images and labels do not fit together; a loss that is no longer finite ends the
    training, and the result's `stopped` says so.
    """
    images = images_from(images)
    watch = shown(progress).also(on_step, on_evaluation)
    if folder is None:
        return distill(student, teacher, images, validation, distillation, training, watch, None, also_teachers)
    with made_folder(folder) as path:
        run = RunFolder(path, resume, overwrite=overwrite)
        run.check_images(contents_sha256(images) if resume else "")
        watch = watch.also(run.step, run.evaluation)
        made = distill(student, teacher, images, validation, distillation, training, watch, run.store, also_teachers)
    if made.finished:
        run.finish()
    return made


def export_model(
    student: onnx.ModelProto, teacher: onnx.ModelProto, target: Optional[str] = None, weight_storage: str = "int8"
) -> onnx.ModelProto:
    """The student in integers with the teacher's own tail behind it: a drop-in replacement, same inputs, outputs and names.

    target: a runtime of docs/targets.md; None: the one it was quantized for. weight_storage: int4 keeps weights of 4 bits and
    fewer two to a byte. That, and sums for OpenVINO, want opset 21. Raises InputError for a model without quantizers, or one that the target does not run.
    """
    return deployable(student, teacher, target, weight_storage)


def evaluate_models(
    named: Mapping[str, onnx.ModelProto],
    images: Given,
    *,
    threads: int = 0,
    batch_sizes: Sequence[int] = (),
    logits: Optional[str] = None,
) -> Evaluations:
    """Each model on the same images, whole or cut, float or quantized; the first is what agreement and KL compare with.

    Top-1, top-5 and agreement are shares, 0 to 1, or None without labels; kl in nats; size_bytes of the file;
    latency_seconds: batch size -> median of one run, for each of batch_sizes, the models taking turns.
    Raises InputError for a model without logits, and for labels outside its classes.
    """
    rows = measure(dict(named), images, threads, tuple(batch_sizes), logits)
    return Evaluations({row.name: row.measured for row in rows})


def run_pipeline(
    teacher: onnx.ModelProto,
    train_images: Given,
    test_images: Optional[Given],
    folder: Union[str, os.PathLike],
    quantization: QuantizeConfig = QuantizeConfig(),
    distillation: DistillConfig = DistillConfig(),
    training: TrainConfig = TrainConfig(),
    *,
    logits: Optional[str] = None,
    samples: int = 512,
    also_teachers: Sequence[onnx.ModelProto] = (),
    validation: Optional[int] = None,
    weight_storage: str = "int8",
    budget: Optional[Budget] = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> Outcome:
    """The whole way: cut, quantize, train, export, and what float, PTQ and distilled are worth on the test images.

    Writes logits.onnx, student.qdq.onnx, trained.qdq.onnx, student.int8.onnx and result.json to the folder, which is made if need
    be. Arguments are those of the stages. test_images: None keeps a part of train_images for them, a tenth (of few images up to a quarter),
    on which nothing is trained, calibrated or chosen. resume, overwrite: as in train_model. progress: say each stage and show a bar.
    Raises InputError as they do, before anything is written where it can.
    """
    images = images_from(train_images)
    if test_images is None:
        images, test_images = pipeline.kept_for_the_table(images)
    with made_folder(folder) as path:
        run = RunFolder(path, resume, overwrite=overwrite)
        run.check_images(contents_sha256(images) if resume else "")
        made = pipeline.run(
            teacher,
            images,
            test_images,
            path,
            quantization,
            distillation,
            training,
            logits,
            samples,
            validation,
            shown(progress).also(run.step, run.evaluation),
            run.store,
            weight_storage,
            also_teachers,
            budget,
            make_way=run.make_way,
        )
    if made.trained.finished:
        run.finish()
    return made
