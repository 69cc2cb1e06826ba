"""What models are worth side by side, in whatever form they come: whole or cut, float or quantized."""

from __future__ import annotations

from typing import Callable, Sequence

import numpy as np
import onnx

from onnx_distill import runtime
from onnx_distill.data import Given, Images, images_from
from onnx_distill.errors import InputError
from onnx_distill.evaluate import evaluate, latency, predict, with_output
from onnx_distill.facts.logits import find_logits
from onnx_distill.lookup import image_input, shape_of
from onnx_distill.normalize.image_form import as_images
from onnx_distill.normalize.prepare import pinned_to, prepare
from onnx_distill.normalize.trace import check_divisions
from onnx_distill.ready.calibrated import image_shape
from onnx_distill.run.result import Row
from onnx_distill.verify.agree import Verification, logits_value, verify
from onnx_distill.verify.environments import Runtime


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
    found = predict(runtime.open_session(with_output(model, value), threads or None), images, output=value)
    if found.ndim == 2 and found.shape[1] == 1:
        raise InputError(
            f"logits {value!r} are of one class, whose softmax is always 1; wanted two or more, one answer an image."
        )
    return found


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
