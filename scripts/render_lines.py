"""Lines of text, upright or turned by 180 degrees, as arrays for the text-direction classifier of PaddleOCR / RapidOCR.

    python scripts/render_lines.py --fonts DIR --count 2000 --seed 1 -o lines.npy

Random strings, fonts, sizes, colours, contrast, slight blur, tilt and noise; preprocessed as rapidocr-onnxruntime does it: 48 high, at
most 192 wide, (x / 255 - 0.5) / 0.5, filled up with 0 on the right. float16 [count, 3, 48, 192], half of it turned, no
labels. Needs Pillow.
"""

from __future__ import annotations

import argparse
import math
import string
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

HEIGHT, WIDTH = 48, 192
LETTERS = "eeeeeeeeeeeetttttttttaaaaaaaaooooooooiiiiiiinnnnnnnssssssrrrrrrhhhhhhddddlllluuucccmmmffyywwggppbbvkxqjz"  # as in English
LARGEST_NOISE = 10.0  # standard deviation, of 255
LARGEST_TILT = 2.0  # degrees
LEAST_CONTRAST = 60  # of 255, between text and ground


def render(count: int, fonts: list[Path], seed: int) -> np.ndarray:
    """float16 [count, 3, 48, 192]; every other line is turned."""
    rng = np.random.default_rng(seed)
    lines = np.zeros((count, 3, HEIGHT, WIDTH), np.float16)
    for number in range(count):
        image = draw_line(rng, fonts)
        lines[number] = preprocess(image.rotate(180) if number % 2 else image)
    return lines


def draw_line(rng: np.random.Generator, fonts: list[Path]) -> Image.Image:
    """An upright line of text, RGB, of any size, cropped as a text detector would."""
    font = ImageFont.truetype(str(fonts[rng.integers(len(fonts))]), int(rng.integers(14, 49)))
    text = random_text(rng)
    left, top, right, bottom = font.getbbox(text)
    margins = rng.integers(1, 2 + font.size // 4, 4)
    ground, ink = two_colours(rng)
    image = Image.new("RGB", (right - left + margins[0] + margins[1], bottom - top + margins[2] + margins[3]), ground)
    ImageDraw.Draw(image).text((margins[0] - left, margins[2] - top), text, font=font, fill=ink)
    image = image.rotate(rng.uniform(-LARGEST_TILT, LARGEST_TILT), Image.Resampling.BILINEAR, fillcolor=ground)
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.0)))
    noise = rng.normal(0, rng.uniform(0, LARGEST_NOISE), (image.height, image.width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def random_text(rng: np.random.Generator) -> str:
    """One to four words, codes, numbers or dates."""
    words = [_word(rng) for _ in range(rng.integers(1, 5))]
    text = " ".join(words)
    return text if len(text) >= 4 else text + _word(rng)


def _word(rng: np.random.Generator) -> str:
    kind = rng.integers(10)
    word = "".join(rng.choice(list(LETTERS), rng.integers(2, 11)))
    if kind < 5:
        return word if kind < 3 else word.capitalize()
    if kind < 7:
        return word.upper()
    if kind == 7:
        return f"{rng.integers(1, 5000)}.{rng.integers(100):02}"
    if kind == 8:
        return f"{rng.integers(1, 29)}/{rng.integers(1, 13)}/{rng.integers(1950, 2030)}"
    return "".join(rng.choice(list(string.ascii_letters + string.digits), rng.integers(4, 9)))


def two_colours(rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(ground, ink), mostly dark on light, with some tint."""
    light = rng.uniform(LEAST_CONTRAST, 255)
    dark = rng.uniform(0, light - LEAST_CONTRAST)
    pair = [tuple(int(v) for v in np.clip(grey + rng.normal(0, 12, 3), 0, 255)) for grey in (light, dark)]
    return (pair[0], pair[1]) if rng.random() < 0.75 else (pair[1], pair[0])


def preprocess(image: Image.Image) -> np.ndarray:
    """float32 [3, 48, 192], blue first as OpenCV reads images: rapidocr's resize_norm_img."""
    width = min(WIDTH, math.ceil(HEIGHT * image.width / image.height))
    pixels = np.asarray(image.resize((width, HEIGHT), Image.Resampling.BILINEAR), np.float32)[:, :, ::-1]
    line = np.zeros((3, HEIGHT, WIDTH), np.float32)
    line[:, :, :width] = (pixels.transpose(2, 0, 1) / 255 - 0.5) / 0.5
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fonts", type=Path, required=True, metavar="DIR", help="a folder with .ttf files, in it or below")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    np.save(options.output, render(options.count, sorted(options.fonts.rglob("*.ttf")), options.seed))


if __name__ == "__main__":
    main()
