"""Random flips and shifts of a batch, each image its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_distill.errors import InputError


@dataclass(frozen=True)
class Augment:
    """What is varied in training; off by default, because not every set of images is the same when mirrored."""

    flip: bool = False  # left to right, with probability 1/2; fine for clothes and animals, wrong for digits and text
    shift: int = 0  # up to so many pixels each way, up and down too; 2 for 28x28, 4 for 32x32

    def __post_init__(self):
        if isinstance(self.shift, bool) or not isinstance(self.shift, int) or self.shift < 0:
            raise InputError(f"shift is {self.shift!r}; wanted a whole number of pixels, 0 or more.")

    @property
    def changes(self) -> bool:
        """Whether an image may differ from one epoch to the next."""
        return self.flip or self.shift > 0

    def __call__(self, images: np.ndarray, rng: np.random.Generator, fill: float | np.ndarray = 0.0) -> np.ndarray:
        """float32 [n, c, h, w] like `images`, which it does not change (and returns as they are when all is off).

        fill: for the pixels that a shift uncovers, preprocessed; one value or one per channel (see Images.fill).
        """
        if self.flip:
            images = _flipped(images, rng.random(len(images)) < 0.5)
        if self.shift:
            down, right = rng.integers(-self.shift, self.shift + 1, (2, len(images)))
            images = _shifted(images, down, right, self.shift, fill)
        return images


def _flipped(images: np.ndarray, which: np.ndarray) -> np.ndarray:
    flipped = images.copy()
    flipped[which] = images[which, :, :, ::-1]
    return flipped


def _shifted(images: np.ndarray, down: np.ndarray, right: np.ndarray, margin: int, fill) -> np.ndarray:
    """Each image moved by its own (down, right), both within -margin..margin: a window cut out of a padded copy."""
    n, c, h, w = images.shape
    padded = np.empty((n, c, h + 2 * margin, w + 2 * margin), images.dtype)
    padded[...] = np.asarray(fill, images.dtype).reshape(-1, 1, 1)
    padded[:, :, margin : margin + h, margin : margin + w] = images
    windows = np.lib.stride_tricks.sliding_window_view(padded, (h, w), axis=(2, 3))
    return np.ascontiguousarray(windows[np.arange(n), :, margin - down, margin - right])
