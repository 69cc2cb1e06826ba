"""Pages of text as a scanner or camera sees them: headings, columns, paragraphs, rules and figures, skewed, blurred, noisy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from render_lines import random_text, two_colours

SHORT_SIDE = 560  # pixels that a page is drawn with, before it is scaled down
ASPECTS = (0.707, 0.773, 1.0, 1.414, 1.6)  # width / height: A4, letter, square, A4 across, card
TEXT_SIZES = (6, 24)  # pixels of a paragraph's letters
LARGEST_BLUR = 3.0  # pixels, standard deviation
LARGEST_SKEW = 8.0  # degrees
LARGEST_NOISE = 30.0  # standard deviation, of 255


def draw_page(rng: np.random.Generator, fonts: list[Path]) -> Image.Image:
    """An upright page, RGB, short side SHORT_SIDE."""
    aspect = ASPECTS[rng.integers(len(ASPECTS))]
    width, height = round(SHORT_SIDE * max(1, aspect)), round(SHORT_SIDE * max(1, 1 / aspect))
    ground, ink = two_colours(rng)
    page = Image.new("RGB", (width, height), ground)
    draw, path = ImageDraw.Draw(page), fonts[rng.integers(len(fonts))]
    margin = int(rng.integers(15, 70))
    top = _heading(draw, rng, path, ink, (margin, margin, width - margin)) if rng.random() < 0.7 else margin
    columns, size = int(rng.integers(1, 4)), int(rng.integers(*TEXT_SIZES))
    gap = 2 * size
    column = (width - 2 * margin - gap * (columns - 1)) // columns
    for number in range(columns):
        left = margin + number * (column + gap)
        bottom = height - margin if rng.random() < 0.6 else top + int((height - margin - top) * rng.uniform(0.2, 1))
        _column(draw, rng, ImageFont.truetype(str(path), size), ink, (left, top, left + column, bottom))
    return spoil(page, rng, ground)


def _heading(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, path: Path, ink: tuple, place: tuple[int, int, int]
) -> int:
    """Where the columns begin, below a line or two of large letters."""
    left, top, right = place
    font = ImageFont.truetype(str(path), int(rng.integers(24, 48)))
    for _ in range(rng.integers(1, 3)):
        text = _fitting(random_text(rng), font, right - left)
        shift = rng.choice([0, (right - left - font.getlength(text)) / 2])
        draw.text((left + shift, top), text, font=font, fill=ink)
        top += int(1.3 * font.size)
    return top + font.size // 2


def _column(draw: ImageDraw.ImageDraw, rng: np.random.Generator, font, ink: tuple, box: tuple[int, int, int, int]) -> None:
    """Paragraphs, and now and then a figure or a rule, from the top of the box to its bottom."""
    left, top, right, bottom = box
    line = int(font.size * rng.uniform(1.15, 1.6))
    while top + line < bottom:
        kind = rng.random()
        if kind < 0.08:
            height = int(min(rng.uniform(3, 9) * line, bottom - top))
            draw.rectangle((left, top, right, top + height), fill=two_colours(rng)[0], outline=ink)
            top += height + line
        elif kind < 0.13:
            draw.line((left, top, right, top), fill=ink)
            top += line
        else:
            top = _paragraph(draw, rng, font, ink, (left, top, right, bottom), line)


def _paragraph(draw: ImageDraw.ImageDraw, rng: np.random.Generator, font, ink: tuple, box: tuple, line: int) -> int:
    """Where the next thing may stand, below lines of text of which the last is short."""
    left, top, right, bottom = box
    lines = min(int(rng.integers(1, 10)), (bottom - top) // line)
    for number in range(lines):
        width = (right - left) * (rng.uniform(0.2, 0.9) if number == lines - 1 else 1)
        draw.text((left, top), _fitting(_sentence(rng), font, width), font=font, fill=ink)
        top += line
    return top + line


def _sentence(rng: np.random.Generator) -> str:
    return " ".join(random_text(rng) for _ in range(4))


def _fitting(text: str, font, width: float) -> str:
    """As many letters of the text as fit into the width."""
    length = max(1.0, font.getlength(text))
    return text[: int(len(text) * min(1.0, width / length))]


def spoil(page: Image.Image, rng: np.random.Generator, ground: tuple) -> Image.Image:
    """The page as photographed: skewed, sometimes blurred, unevenly lit, noisy."""
    page = page.rotate(rng.uniform(-LARGEST_SKEW, LARGEST_SKEW), Image.Resampling.BILINEAR, fillcolor=ground)
    if rng.random() < 0.5:
        page = page.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, LARGEST_BLUR)))
    light = np.outer(np.linspace(*rng.uniform(0.7, 1.1, 2), page.height), np.linspace(*rng.uniform(0.8, 1.1, 2), page.width))
    noise = rng.normal(0, rng.uniform(0, LARGEST_NOISE), (page.height, page.width, 1))
    return Image.fromarray(np.clip(np.asarray(page) * light[..., None] + noise, 0, 255).astype(np.uint8))
