"""`text`: is a line of text upright or turned? The text-direction classifier of rapidocr-onnxruntime, on rendered lines.

Teacher, fonts and lines are those of scripts/acceptance_text.py: MobileNetV3 by PaddlePaddle, two classes (0, 180 degrees).
"""

from __future__ import annotations

from pathlib import Path

from acceptance_text import get_fonts, get_teacher
from render_lines import render

from strangers.kept import keep_images


def prepare(folder: Path, count: int, seed: int) -> tuple[Path, Path]:
    """(teacher, lines): float16 [count, 3, 48, 192], preprocessed, every other one turned; no labels."""
    folder.mkdir(parents=True, exist_ok=True)
    fonts = get_fonts(folder)
    return get_teacher(folder, None), keep_images(folder, "text", count, seed, lambda: render(count, fonts, seed))
