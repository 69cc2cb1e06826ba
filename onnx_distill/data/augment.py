"""Random changes to a batch of preprocessed images, each image its own: crops, flips, shifts, colours, mixtures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_distill.errors import InputError

LONGEST_SIDE = 4 / 3  # of a random crop, against its other side; as torchvision and TF-slim have it


@dataclass(frozen=True)
class Augment:
    """What is varied in training; off by default, because not every set of images is the same when mirrored."""

    flip: bool = False  # left to right, with probability 1/2; fine for clothes and animals, wrong for digits and text
    shift: int = 0  # up to so many pixels each way, up and down too; 2 for 28x28, 4 for 32x32
    crop: float = 0.0  # a random part of at least this share of the area, at any place, resized to the whole; 0.5, 0 is off
    colour: float = 0.0  # strength of random brightness, contrast and saturation, 0 to 1; 0.4 is usual
    mixup: float = 0.0  # each image gets up to this share of another one, below 0.5 so that its label stays the right one

    def __post_init__(self):
        if isinstance(self.shift, bool) or not isinstance(self.shift, int) or self.shift < 0:
            raise InputError(f"shift is {self.shift!r}; wanted a whole number of pixels, 0 or more.")
        for name, low, high in (("crop", 0, 1), ("colour", 0, 1), ("mixup", 0, 0.5)):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name} is {getattr(self, name)!r}; wanted {low} to {high}.")

    @property
    def changes(self) -> bool:
        """Whether an image may differ from one epoch to the next."""
        return self != Augment()

    def __call__(self, images: np.ndarray, rng: np.random.Generator, fill: float | np.ndarray = 0.0) -> np.ndarray:
        """float32 [n, c, h, w] like `images`, which it does not change (and returns as they are when all is off).

        fill: for the pixels that a shift uncovers, preprocessed; one value or one per channel (see Images.fill).
        """
        if self.crop:
            images = _cropped(images, rng, self.crop)
        if self.flip:
            images = _flipped(images, rng.random(len(images)) < 0.5)
        if self.shift:
            down, right = rng.integers(-self.shift, self.shift + 1, (2, len(images)))
            images = _shifted(images, down, right, self.shift, fill)
        if self.colour:
            images = _coloured(images, rng, self.colour)
        if self.mixup:
            images = _mixed(images, rng, self.mixup)
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


def _cropped(images: np.ndarray, rng: np.random.Generator, least: float) -> np.ndarray:
    """Each image a random part of itself, of `least` to all of its area and a side ratio up to LONGEST_SIDE, resized."""
    n, _, h, w = images.shape
    area = rng.uniform(least, 1, n)
    ratio = np.exp(rng.uniform(-1, 1, n) * np.log(LONGEST_SIDE))
    height, width = np.minimum(h, h * np.sqrt(area / ratio)), np.minimum(w, w * np.sqrt(area * ratio))
    top, left = rng.random(n) * (h - height), rng.random(n) * (w - width)
    made = np.empty_like(images)
    for i, image in enumerate(images):
        rows = _resized(image, top[i], height[i], h, axis=1)
        made[i] = _resized(rows, left[i], width[i], w, axis=2)
    return made


def _resized(image: np.ndarray, start: float, length: float, size: int, axis: int) -> np.ndarray:
    """start..start + length along the axis, sampled at `size` pixel centres, linear between pixels (half-pixel centres)."""
    last = image.shape[axis] - 1
    where = np.clip(start + (np.arange(size) + 0.5) * (length / size) - 0.5, 0, last)
    low = np.minimum(where.astype(np.int64), max(last - 1, 0))
    share = (where - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(image.ndim)])
    a, b = image.take(low, axis), image.take(np.minimum(low + 1, last), axis)
    return a + share * (b - a)


def _coloured(images: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Brightness moved by up to strength / 2 standard deviations, contrast and saturation scaled by 1 - strength..1 + strength."""
    brightness, contrast, saturation = rng.uniform(-strength, strength, (3, len(images), 1, 1, 1)).astype(np.float32)
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    moved = mean + (images - mean) * (1 + contrast) + brightness / 2 * images.std(axis=(1, 2, 3), keepdims=True)
    grey = moved.mean(axis=1, keepdims=True)
    return grey + (moved - grey) * (1 + saturation)


def _mixed(images: np.ndarray, rng: np.random.Generator, most: float) -> np.ndarray:
    """Each image with a share of 0..most of another one (Zhang et al. 2018, the larger part always the image's own)."""
    share = rng.uniform(0, most, (len(images), 1, 1, 1)).astype(np.float32)
    return images + share * (images[rng.permutation(len(images))] - images)
