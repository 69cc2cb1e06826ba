"""Images and labels held in arrays: .npz, .npy and IDX files, told apart by what they contain, not by their names."""

from __future__ import annotations

import copy
import os
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from onnx_distill.closest import closest
from onnx_distill.data.idx import looks_like_idx, read_idx, sibling_labels
from onnx_distill.data.images import Images, middle, stretched
from onnx_distill.data.labels import checked_labels, parse_labels
from onnx_distill.data.preprocess import AS_STORED, Preprocess
from onnx_distill.errors import InputError, first_line

NPY, ZIP = b"\x93NUMPY", b"PK"
IMAGE_KEYS, LABEL_KEYS = ("images", "x"), ("labels", "y")
UNREADABLE = (  # what numpy and zipfile raise for damaged files
    *(ValueError, OSError, EOFError, KeyError, MemoryError, NotImplementedError, RuntimeError, SyntaxError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)


class ArrayImages(Images):
    """Images in one array, kept as stored (uint8 stays uint8, a memory map stays one) and preprocessed when read.

    labels: as stored, without the offset; [n] or [n, 1], or None. classes: how many the model has, to check labels by.
    names: of the images, [n]. class_names: of labels as stored.
    Raises InputError when pixels, labels and preprocess do not fit together.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        labels=None,
        preprocess: Preprocess = AS_STORED,
        classes: int | None = None,
        names: Sequence[str] = (),
        class_names: Mapping[int, str] | None = None,
    ):
        if pixels.dtype.kind not in "buif":
            raise InputError(f"the images are of type {pixels.dtype}; wanted integers or floats.")
        self.layout = preprocess.layout_of(pixels.shape)
        if not pixels.size:
            raise InputError(f"there are no images in an array of shape {list(pixels.shape)}.")
        self.pixels, self.preprocess = pixels, preprocess
        self.labels = None if labels is None else checked_labels(labels, len(pixels), preprocess.label_offset, classes)
        self.class_names = {label + preprocess.label_offset: name for label, name in (class_names or {}).items()}
        self._names = names
        self._rows = np.arange(len(pixels))

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """As Images.read; raises InputError for an image with pixels that are not finite."""
        batch = self.preprocess.apply(self.pixels[self._rows[indices]])
        if self.pixels.dtype.kind == "f":
            self._check_finite(batch, indices)
        return batch

    def _check_finite(self, batch: np.ndarray, indices: np.ndarray) -> None:
        if np.isfinite(batch).all():
            return
        first = int(np.argmin(np.isfinite(batch).all(axis=(1, 2, 3))))
        name = self.name(int(np.arange(len(self))[indices][first]))
        raise InputError(f"{name} has pixels that are NaN or infinite; wanted finite numbers. Leave it out, or mend it.")

    def stored(self, indices: np.ndarray, most: int | None = None) -> np.ndarray:
        rows = self._rows[indices]
        if self.pixels.flags.c_contiguous:  # a memory map is read only where it is looked at
            return middle(self.pixels.reshape(len(self.pixels), -1), most)[rows]
        return middle(self.pixels[rows].reshape(len(rows), -1), most)

    def subset(self, indices: np.ndarray) -> ArrayImages:
        part = copy.copy(self)
        part._rows = self._rows[indices]
        part.labels = None if self.labels is None else self.labels[indices]
        return part

    def name(self, position: int) -> str:
        row = int(self._rows[position])
        return self._names[row] if self._names else f"image {row}"

    def picture(self, position: int) -> np.ndarray:
        pixels = np.asarray(self.pixels[self._rows[position]])
        pixels = {"NHW": pixels[..., None], "NHWC": pixels, "NCHW": np.moveaxis(pixels, 0, -1)}[self.layout]
        return pixels if pixels.dtype == np.uint8 else stretched(pixels.astype(np.float32))

    @property
    def fill(self) -> np.ndarray:
        return self.preprocess.apply(np.zeros_like(self.pixels[:1]))[0, :, 0, 0]


def open_arrays(
    path: str | os.PathLike,
    labels: str | os.PathLike | None = None,
    preprocess: Preprocess = AS_STORED,
    classes: int | None = None,
) -> Images:
    """The images in a file, with labels where there are any.

    path: .npy (memory mapped); .npz with `images` or `x` (or a single array), and perhaps `labels` or `y`; IDX, plain or gzipped.
    labels: .npy, .npz, IDX or text with one whole number a line. Without it: the labels in the .npz, or for an IDX file
    named *-images-idx3-ubyte[.gz] the *-labels-idx1-ubyte[.gz] beside it.
    classes: of the model; with it, every label with its offset must be in 0..classes - 1.
    Raises InputError for what is missing, damaged, or does not fit together. Pickled objects are never read.
    """
    path = Path(path)
    pixels = _read(path, IMAGE_KEYS)
    labels = labels if labels is not None else sibling_labels(path)
    found = _read(Path(labels), LABEL_KEYS, text=True) if labels is not None else _own_labels(path)
    return ArrayImages(pixels, found, preprocess, classes)


def _read(path: Path, keys: tuple[str, ...], text: bool = False) -> np.ndarray:
    """The array in a file: the one with one of these keys in an .npz; where text is allowed, numbers in text."""
    head = _head(path)
    if looks_like_idx(head):
        return read_idx(path)
    if head.startswith((NPY, ZIP)):
        return _read_numpy(path, keys)
    if text:
        return parse_labels(path)
    raise InputError(f"{path} starts with bytes {head[:4].hex(' ')}; wanted an .npz, .npy or IDX file.")


def _head(path: Path) -> bytes:
    if path.is_dir():
        raise InputError(f"{path} is a folder; wanted an .npz, .npy or IDX file.")
    if not path.exists():
        beside = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        raise InputError(f"no file {path}{closest(path.name, beside)}")
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    if not head:
        raise InputError(f"{path} is empty.")
    return head


def _read_numpy(path: Path, keys: tuple[str, ...]) -> np.ndarray:
    try:
        loaded = np.load(str(path), mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded as archive:
            return _member(archive, _key(path, archive.files, keys))
    except UNREADABLE as error:
        reason = first_line(error)
        raise InputError(f"{path} cannot be read, or is truncated: {reason}") from None


def _key(path: Path, files: list[str], keys: tuple[str, ...]) -> str:
    found = [name for name in files if name.lower() in keys] or (files if len(files) == 1 else [])
    if len(found) == 1:
        return found[0]
    wanted = " or ".join(repr(key) for key in keys)
    raise InputError(f"{path} holds {', '.join(map(repr, files)) or 'nothing'}; wanted one array named {wanted}.")


def _own_labels(path: Path) -> np.ndarray | None:
    if not _head(path).startswith(ZIP):
        return None
    with np.load(str(path), allow_pickle=False) as archive:
        names = [name for name in archive.files if name.lower() in LABEL_KEYS]
    return _read_numpy(path, LABEL_KEYS) if names else None


def _member(archive: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    member = archive[key]
    if not isinstance(member, np.ndarray):
        raise zipfile.BadZipFile(f"{key!r} in it is not an array")
    return member
