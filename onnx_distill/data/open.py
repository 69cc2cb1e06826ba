"""Images from whatever a user names: arrays, a folder, a list file beside a folder, tars."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

from onnx_distill.data.arrays import ArrayImages, open_arrays
from onnx_distill.data.decoded import Decoded, decode_all, refuse_broken
from onnx_distill.data.images import Images
from onnx_distill.data.listing import Listing, list_file, list_files, list_folder
from onnx_distill.data.preprocess import AS_STORED, Preprocess
from onnx_distill.data.shards import list_shards, shards_at
from onnx_distill.errors import InputError


@dataclass(frozen=True)
class Decoding:
    """How image files are decoded; has no influence on the pixels."""

    workers: int = 0  # processes; 0 decodes in this one
    cache: Optional[str] = None  # folder that keeps decoded images for the next run; None keeps nothing
    most_broken: float = 0.01  # share of images that may be unreadable
    on_progress: Callable[[int, int], None] = lambda done, total: None
    on_decoded: Callable[[Decoded], None] = lambda decoded: None  # told what was broken, if few enough were

    def __post_init__(self):
        if not 0 <= self.most_broken <= 1:
            raise InputError(f"the share of images that may be broken is {self.most_broken}; wanted 0 to 1: --max-broken.")


def open_images(
    path: str | os.PathLike,
    labels: str | os.PathLike | None = None,
    preprocess: Preprocess = AS_STORED,
    classes: int | None = None,
    shape: tuple[int, ...] | None = None,
    decoding: Decoding = Decoding(),
    listing: Listing | None = None,
) -> Images:
    """The images at `path`, with labels where there are any.

    path: .npy, .npz or IDX (see open_arrays); a folder per class, or one flat folder; a folder and as `labels` a text file of
    `name label` lines; uncompressed tars (WebDataset): one, a folder of them, or a pattern such as train-{000..003}.tar. shape: [channels, height, width] of the model, for image files. listing: what `listed` gives
    of the path and labels, where it is known.
    Raises InputError for what is missing, damaged, or does not fit together.
    """
    path = Path(path)
    listing = listing or listed(path, labels)
    if listing is None:
        return open_arrays(path, labels, preprocess, classes)
    return _decoded(listing, preprocess, classes, fixed_shape(path, shape), decoding)


def open_files(
    paths: Sequence[str | os.PathLike],
    preprocess: Preprocess = AS_STORED,
    shape: tuple[int, ...] | None = None,
    decoding: Decoding = Decoding(),
) -> Images:
    """Single image files, without labels, in the order given. shape, and what is raised: as in open_images."""
    return _decoded(list_files(paths), preprocess, None, fixed_shape("image files", shape), decoding)


def _decoded(
    listing: Listing, preprocess: Preprocess, classes: int | None, shape: tuple[int, ...], decoding: Decoding
) -> Images:
    decoded = decode_all(listing, preprocess.framing(shape), decoding.workers, decoding.cache, decoding.on_progress)
    refuse_broken(decoded, decoding.most_broken)
    decoding.on_decoded(decoded)
    names = [entry.name for entry in listing.entries]
    stored = preprocess.replace(layout="NHWC")
    images = ArrayImages(decoded.pixels, listing.labels, stored, classes, names, listing.class_names)
    return images if not decoded.broken else images.subset(decoded.rows)


def fixed_shape(what: str | Path, shape: tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape, where image files can be scaled to it. Raises InputError otherwise."""
    if shape is None or len(shape) != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
        raise InputError(
            f"images of {what} cannot be scaled to the model's input {shape}; wanted fixed sizes: --input-shape C,H,W."
        )
    return shape


def listed(path: Path, labels: str | os.PathLike | None) -> Listing | None:
    """The image files at `path`; None where it is no collection of files."""
    if not is_collection(path):
        return None
    if shards_at(path):
        if labels is not None:
            raise InputError(f"{path} is a tar, whose labels are the .cls members in it; leave out --labels.")
        return list_shards(path)
    return list_folder(path) if labels is None else list_file(path, labels)


def is_collection(path: Path) -> bool:
    """Whether there are image files in it, a folder or tars, which are decoded in the model's size."""
    return path.is_dir() or bool(shards_at(path))
