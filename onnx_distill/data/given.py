"""Images that a Python program hands over: arrays, any iterable of images or batches, a CalibrationDataReader.

They are gone through once and kept in a temporary file, because calibration draws at random and training comes back to each image.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Union

import numpy as np

from onnx_distill.data.arrays import LABEL_KEYS, ArrayImages
from onnx_distill.data.images import Images
from onnx_distill.data.preprocess import AS_STORED, CHANNEL_COUNTS, Preprocess
from onnx_distill.errors import InputError

Given = Union[Images, np.ndarray, Iterable[Any], Any]  # the last: an object with get_next()


class _Part(NamedTuple):
    pixels: np.ndarray  # [n, ...]
    labels: np.ndarray | None  # [n]


def images_from(
    source: Given,
    labels=None,
    preprocess: Preprocess | None = None,
    classes: int | None = None,
    count: int | None = None,
) -> Images:
    """Images from what a program has; Images come back as they are.

    source: an array [n, height, width], [n, channels, height, width] or [n, height, width, channels]; or an iterable of such
    batches, of single images (two or three axes), of (images, labels) tuples or of {"input name": images}; or an object whose
    get_next() gives one of these and None at the end, such as onnxruntime's CalibrationDataReader. All images are of one size
    and type; floats become float32. Without `preprocess` they are taken to be what the model reads.
    labels: whole numbers [n], where the source is an array or gives none. classes: of the model, to check labels by.
    count: how many images to take of an iterable; None: all, so it must end.
    Raises InputError for what is no image, and where sizes, types or labels do not fit together.
    """
    if isinstance(source, Images):
        return source
    pixels, found = (source, None) if isinstance(source, np.ndarray) else _kept(_until(_parts(source), count))
    if found is not None and labels is not None:
        raise InputError("labels come with the images and are given too; wanted them once.")
    return ArrayImages(pixels, labels if found is None else found, preprocess or _as_read(pixels.shape), classes)


def _as_read(shape: tuple[int, ...]) -> Preprocess:
    """What may be channels where a model reads channels are channels; see Preprocess.layout for the rest."""
    return Preprocess(layout="NCHW") if len(shape) == 4 and shape[1] in CHANNEL_COUNTS else AS_STORED


def _parts(source: Given) -> Iterator[_Part]:
    try:
        items: Iterator[Any] = iter(source.get_next, None) if hasattr(source, "get_next") else iter(source)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(
            f"the images are a {type(source).__name__}; wanted an array, an iterable of arrays, or an object with get_next()."
        ) from None
    for number, item in enumerate(items):
        yield _part(item, f"item {number} of the images")


def _part(item: Any, where: str) -> _Part:
    pixels, labels = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
    if isinstance(pixels, dict):
        pixels, labels = _of_names(pixels, labels, where)
    array = _array(pixels, where)
    batch = array if array.ndim == 4 else array[None]
    if labels is None:
        return _Part(batch, None)
    each = np.asarray(labels).reshape(-1)
    if len(each) != len(batch):
        raise InputError(f"{where} has {len(batch)} images and {len(each)} labels; wanted one label an image.")
    return _Part(batch, each)


def _of_names(item: dict, labels: Any, where: str) -> tuple[Any, Any]:
    """The images in {"input name": images}, and labels where that has some."""
    named = {str(name).lower(): value for name, value in item.items()}
    labels = next((named.pop(name) for name in LABEL_KEYS if name in named and len(named) > 1), labels)
    if len(named) != 1:
        raise InputError(f"{where} has values for {', '.join(map(repr, item)) or 'nothing'}; wanted the images alone.")
    return next(iter(named.values())), labels


def _array(pixels: Any, where: str) -> np.ndarray:
    try:
        array = np.asarray(pixels)
    except ValueError:  # lists of unequal lengths
        array = np.empty(0, object)
    if array.dtype.kind not in "buif":
        raise InputError(f"{where} is a {type(pixels).__name__} of type {array.dtype}; wanted integers or floats.")
    if not 2 <= array.ndim <= 4 or not array.size:
        raise InputError(
            f"{where} has shape {list(array.shape)}; wanted an image of two or three axes, or a batch of four, not empty."
        )
    if array.dtype.kind == "f":
        array = array.astype(np.float32, copy=False)
        if not np.isfinite(array).all():
            raise InputError(f"{where} has values that are not finite; wanted pixels.")
    return array


def _until(parts: Iterator[_Part], count: int | None) -> Iterator[_Part]:
    taken = 0
    for part in parts:
        left = len(part.pixels) if count is None else count - taken
        taken += len(part.pixels)
        yield _Part(part.pixels[:left], None if part.labels is None else part.labels[:left])
        if count is not None and taken >= count:
            return


def _kept(parts: Iterator[_Part]) -> tuple[np.ndarray, np.ndarray | None]:
    """(all pixels in a memory map that is gone with it, all labels or None)."""
    first: _Part | None = None
    total, labels = 0, list[np.ndarray]()
    with tempfile.NamedTemporaryFile(prefix="onnx-distill-images-") as file:
        for part in parts:
            first = first or part
            _check_alike(part, first, total)
            _write(file, part.pixels)
            total += len(part.pixels)
            labels += [] if part.labels is None else [part.labels]
        if first is None:
            raise InputError("the images are empty; wanted at least one. An iterator that was used up before gives nothing.")
        file.flush()
        shape = (total, *first.pixels.shape[1:])
        pixels = np.memmap(file, first.pixels.dtype, "r+", shape=shape)  # the mapping outlives the file's name
    return pixels, np.concatenate(labels) if labels else None


def _check_alike(part: _Part, first: _Part, before: int) -> None:
    for what, found, wanted in (
        ("shape", list(part.pixels.shape[1:]), list(first.pixels.shape[1:])),
        ("type", part.pixels.dtype, first.pixels.dtype),
        ("labels", part.labels is not None, first.labels is not None),
    ):
        if found != wanted:
            raise InputError(f"image {before} has {what} {found}, those before it {wanted}; wanted all alike.")


def _write(file, pixels: np.ndarray) -> None:
    try:
        file.write(np.ascontiguousarray(pixels).tobytes())
    except OSError as error:
        raise InputError(
            f"the images cannot be kept in {tempfile.gettempdir()}: {error.strerror or error}. Free space, or set TMPDIR."
        ) from None
