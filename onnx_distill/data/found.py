"""Images that were found and not decoded yet: whether they are there and fit the model is known before the first one is opened."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onnx_distill.data.arrays import open_arrays
from onnx_distill.data.images import Images
from onnx_distill.data.labels import checked_labels
from onnx_distill.data.listing import Listing
from onnx_distill.data.open import Decoding, fixed_shape, listed, open_images
from onnx_distill.data.preprocess import AS_STORED, Preprocess


@dataclass(frozen=True)
class Found:
    """Image files in a listing, or images in arrays, which need no decoding. shape: [channels, height, width] that files are decoded to."""

    path: Path
    labels: str | os.PathLike | None
    preprocess: Preprocess
    classes: int | None
    shape: tuple[int, ...] | None
    listing: Listing | None
    arrays: Images | None
    missing: tuple[str, ...] = ()  # classes of `names` that no folder is of

    @property
    def class_names(self) -> dict[int, str]:
        """Class -> name of its folder."""
        found = self.listing.class_names if self.listing is not None else {}
        return {label + self.preprocess.label_offset: name for label, name in found.items()}

    def __len__(self) -> int:
        return len(self.listing.entries) if self.listing is not None else len(self.arrays or ())

    @property
    def decoded_bytes(self) -> int:
        """That the files will take once they are decoded; 0 for arrays."""
        if self.listing is None or self.shape is None:
            return 0
        channels, height, width = self.shape
        return len(self) * channels * height * width

    def open(self, decoding: Decoding = Decoding()) -> Images:
        """The images; as open_images, see there."""
        if self.arrays is not None:
            return self.arrays
        return open_images(self.path, self.labels, self.preprocess, self.classes, self.shape, decoding, self.listing)


def find_images(
    path: str | os.PathLike,
    labels: str | os.PathLike | None = None,
    preprocess: Preprocess = AS_STORED,
    classes: int | None = None,
    shape: tuple[int, ...] | None = None,
    names: Mapping[int, str] | None = None,
    whose: str = "",
    foreign: bool = False,
) -> Found:
    """What open_images would open, arguments as there. Raises InputError as it does, for all but files that turn out to be broken.

    names: class -> name; class folders are then numbered by their names, not by their order. whose: where the names are from. foreign:
    folders of which none has one of the names may be, too, and are numbered by their order.
    """
    path = Path(path)
    listing, missing = _named(listed(path, labels), preprocess.label_offset, names or {}, whose, foreign)
    if listing is None:
        return Found(path, labels, preprocess, classes, None, None, open_arrays(path, labels, preprocess, classes))
    channels, height, width = shape = fixed_shape(path, shape)
    preprocess.replace(layout="NHWC").layout_of((len(listing.entries), height, width, channels))
    if listing.labels is not None:
        checked_labels(listing.labels, len(listing.entries), preprocess.label_offset, classes)
    return Found(path, labels, preprocess, classes, shape, listing, None, missing)


def _named(
    listing: Listing | None, offset: int, names: Mapping[int, str], whose: str, foreign: bool
) -> tuple[Listing | None, tuple[str, ...]]:
    """(the listing with class folders numbered by their names, the names that no folder has)."""
    stored = {number - offset: name for number, name in names.items() if number >= offset}
    if listing is None or not listing.class_names or not stored or (foreign and not listing.knows(stored)):
        return listing, ()
    made = listing.numbered_as(stored, whose)
    return made, tuple(name for label, name in stored.items() if label not in made.class_names)
