"""What a set of images is, whatever it is stored in; and how to split one in two."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from onnx_distill.errors import InputError


class Images(ABC):
    """n images, read and preprocessed on demand, with their labels where known.

    labels: int64 [n], the label offset added, or None.
    """

    labels: np.ndarray | None

    @abstractmethod
    def __len__(self) -> int:
        """How many images there are."""

    @abstractmethod
    def read(self, indices: np.ndarray) -> np.ndarray:
        """The preprocessed images at these positions: float32 [len(indices), channels, height, width], contiguous."""

    @abstractmethod
    def subset(self, indices: np.ndarray) -> Images:
        """The images (and labels) at these positions, in that order; shares what is stored."""

    @property
    @abstractmethod
    def fill(self) -> np.ndarray:
        """float32 [channels]: what a pixel of 0 becomes; fills what a shift uncovers."""


def split(images: Images, count: int, seed: int) -> tuple[Images, Images]:
    """(rest, held_out): random, disjoint, together everything; held_out has `count` images. Same seed, same split.

    Both keep the order in which the images are stored. Raises InputError unless both get at least one image.
    """
    if not 0 < count < len(images):
        raise InputError(f"cannot hold out {count} of {len(images)} images; wanted 1 to {len(images) - 1}.")
    order = np.random.default_rng(seed).permutation(len(images))
    return images.subset(np.sort(order[count:])), images.subset(np.sort(order[:count]))
