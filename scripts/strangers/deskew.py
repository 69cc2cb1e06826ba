"""`deskew`: by how much is a page turned, once more? OriNet, as occular-deskew ships it, on rendered pages.

A plain network of eight convolutions, exported by PyTorch with BatchNorm folded, that ends in its logits, with no Softmax.
Preprocessed as its occular_deskew/orient_onnx.py does it: long side to 320, the rest filled with white.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from acceptance_text import get_fonts
from PIL import Image

from strangers.kept import draw_each, keep_images
from strangers.packages import take_from_wheel
from strangers.pages import draw_page

PACKAGE, VERSION = "occular-deskew", "0.5.0"
MEMBER = "occular_deskew/weights/orientation_orinet_fp32.onnx"
SIZE, WHITE = 320, (255, 255, 255)


def prepare(folder: Path, count: int, seed: int) -> tuple[Path, Path]:
    """(teacher, pages): uint8 [count, 320, 320, 3], RGB; page i is turned anticlockwise by 90 (i mod 4) degrees; no labels."""
    teacher = take_from_wheel(folder, PACKAGE, VERSION, MEMBER)
    fonts = get_fonts(folder)
    return teacher, keep_images(folder, "deskew", count, seed, lambda: draw_pages(count, seed, fonts))


def draw_pages(count: int, seed: int, fonts: list[Path]) -> np.ndarray:
    return draw_each(count, seed, lambda rng, number: frame(draw_page(rng, fonts).rotate(90 * (number % 4), expand=True)))


def frame(page: Image.Image) -> np.ndarray:
    """uint8 [320, 320, 3]: the whole page in the middle of a white square."""
    share = SIZE / max(page.size)
    width, height = round(share * page.width), round(share * page.height)
    square = Image.new("RGB", (SIZE, SIZE), WHITE)
    square.paste(page.resize((width, height), Image.Resampling.BILINEAR), ((SIZE - width) // 2, (SIZE - height) // 2))
    return np.asarray(square)
