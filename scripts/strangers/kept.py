"""Images that were made once are kept: a file per name, count and seed."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import numpy as np

Draw = Callable[[np.random.Generator, int], np.ndarray]


def keep_images(folder: Path, name: str, count: int, seed: int, make: Callable[[], np.ndarray]) -> Path:
    """`folder`/NAME-COUNT-seedSEED.npz with `images` = make(), which is only called where the file is missing."""
    path = folder / f"{name}-{count}-seed{seed}.npz"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"partial-{path.name}")
        np.savez(partial, images=make())
        partial.replace(path)
    return path


def draw_each(count: int, seed: int, draw: Draw) -> np.ndarray:
    """draw(generator, number) of each image, stacked; image i depends on (seed, i) alone, so fewer images are the first of more."""
    return np.stack([draw(np.random.default_rng([seed, number]), number) for number in range(count)])
