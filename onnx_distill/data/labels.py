"""Labels: read from text, and checked to be one class number for each image."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from onnx_distill.errors import InputError


def parse_labels(path: Path) -> np.ndarray:
    """int64 [n] from a text file with one whole number a line; blank lines at its end are fine."""
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path} is not .npy, .npz, IDX or text, which are what labels can be read from.") from None
    return np.array([_parse_line(path, number, line) for number, line in enumerate(lines, 1)], np.int64)


def _parse_line(path: Path, number: int, line: str) -> np.int64:
    try:
        return np.int64(line.strip())
    except (ValueError, OverflowError):
        raise InputError(f"{path} line {number} is {line[:40]!r}; wanted one whole number a line.") from None


def read_class_names(path: Path, offset: int = 0, classes: int | None = None) -> dict[int, str]:
    """Class -> name, from a text file with one a line: of every class, or of the stored labels (class minus offset)."""
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; wanted text, a class's name a line.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text; wanted a class's name a line.") from None
    first = 0 if classes is None or len(lines) == classes else offset
    if classes is not None and len(lines) + first != classes:
        raise InputError(f"{path} names {len(lines)} classes; wanted {classes}, as the model has, or {classes - offset}.")
    return {number: line.strip() for number, line in enumerate(lines, start=first)}


def checked_labels(labels, count: int, offset: int, classes: int | None) -> np.ndarray:
    """int64 [count], the offset added; raises InputError unless each is a whole number in 0..classes - 1 (no top if None)."""
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise InputError(
            f"labels have shape {list(labels.shape)}; wanted [{count}], one class number an image (argmax of one-hot)."
        )
    if len(labels) != count:
        raise InputError(
            f"{len(labels)} labels for {count} images; wanted one label an image. Do the two files belong together?"
        )
    if labels.dtype.kind not in "iuf" or (labels.dtype.kind == "f" and not (labels == np.rint(labels)).all()):
        raise InputError(f"labels are of type {labels.dtype}; wanted whole numbers.")
    shifted = labels.astype(np.int64) + offset
    _check_range(shifted, offset, classes)
    return shifted


def _check_range(labels: np.ndarray, offset: int, classes: int | None) -> None:
    outside = (labels < 0) if classes is None else (labels < 0) | (labels >= classes)
    if outside.any():
        index = int(np.argmax(outside))
        limits = "0 and up" if classes is None else f"0..{classes - 1}, the model's {classes} classes"
        raise InputError(
            f"label {labels[index]} at index {index} with offset {offset} is outside {limits}: "
            f"stored labels run from {labels.min() - offset} to {labels.max() - offset}; give another --label-offset."
        )
