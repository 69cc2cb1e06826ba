"""What a set of images is, whatever it is stored in; and how to split one in two."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from onnx_distill.errors import InputError


class Images(ABC):
    """n images, read and preprocessed on demand, with their labels where known.

    labels: int64 [n], the label offset added, or None. class_names: class -> its name, of those that are known.
    """

    labels: np.ndarray | None
    class_names: dict[int, str] = {}

    @abstractmethod
    def __len__(self) -> int:
        """How many images there are."""

    @abstractmethod
    def read(self, indices: np.ndarray) -> np.ndarray:
        """The preprocessed images at these positions: float32 [len(indices), channels, height, width], contiguous."""

    def stored(self, indices: np.ndarray, most: int | None = None) -> np.ndarray:
        """[len(indices), values] of the images at these positions as they are kept, `most` of each, from its middle (None: all): to tell
        images from others. Here as they are read."""
        return middle(self.read(indices).reshape(len(indices), -1), most)

    @abstractmethod
    def subset(self, indices: np.ndarray) -> Images:
        """The images (and labels) at these positions, in that order; shares what is stored."""

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.read(np.arange(1)).shape[1:])) if len(self) else "of no size"
        labels = (
            "no labels" if self.labels is None or not len(self) else f"labels {self.labels.min()} to {self.labels.max()}"
        )
        return f"{type(self).__name__}({len(self):,} images {shape}, {labels})"

    def name(self, position: int) -> str:
        """What to call the image at this position before a reader."""
        return f"image {position}"

    def picture(self, position: int) -> np.ndarray:
        """The image as one would look at it: uint8 [height, width, channels]; here its values stretched from black to white."""
        return stretched(self.read(np.array([position]))[0].transpose(1, 2, 0))

    @property
    @abstractmethod
    def fill(self) -> np.ndarray:
        """float32 [channels]: what a pixel of 0 becomes; fills what a shift uncovers."""


def middle(rows: np.ndarray, most: int | None) -> np.ndarray:
    """Of each row the `most` values in its middle; None: all."""
    first = 0 if most is None else max(0, (rows.shape[1] - most) // 2)
    return rows[:, first : None if most is None else first + most]


def stretched(pixels: np.ndarray) -> np.ndarray:
    """uint8 of the same shape: the smallest value black, the largest white."""
    low, high = float(pixels.min()), float(pixels.max())
    return np.rint((pixels - low) * (255 / max(high - low, 1e-9))).astype(np.uint8)


MOST_HELD_OUT, FEW_HELD_OUT = 5000, 128  # images: standard errors of 0.3 and of 3 points at 95 %


def held_out_count(images: int) -> int:
    """How many of so many images are held out where nobody says: a tenth, but at least 128 or a quarter, and at most 5,000."""
    return min(MOST_HELD_OUT, max(1, images // 10, min(FEW_HELD_OUT, images // 4)))


def checked_count(images: int, count: int | None) -> int:
    """How many of so many images are held out: `count`, None: held_out_count. Raises InputError unless that leaves some on both sides."""
    count = held_out_count(images) if count is None else count
    if not 0 < count < images:
        raise InputError(f"cannot hold out {count} of {images} images; wanted 1 to {images - 1}: --validation.")
    return count


def split(images: Images, count: int | None, seed: int) -> tuple[Images, Images]:
    """(rest, held_out): random, disjoint, together everything; held_out has `count` images (None: held_out_count). Same seed, same split.

    Both keep the order in which the images are stored. Raises InputError unless both get at least one image.
    """
    count = checked_count(len(images), count)
    order = np.random.default_rng(seed).permutation(len(images))
    return images.subset(np.sort(order[count:])), images.subset(np.sort(order[:count]))
