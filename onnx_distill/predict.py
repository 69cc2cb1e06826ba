"""What a classifier answers for each image: the likeliest classes with their probabilities, as lines, as JSON, for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_distill.columns import aligned
from onnx_distill.numerics import log_softmax


@dataclass(frozen=True)
class Answer:
    """A class, and the probability that a model gives it, 0..1."""

    number: int
    share: float


def answers(logits: np.ndarray, most: int) -> list[list[Answer]]:
    """Of each image, from logits [n, classes]: the `most` likeliest classes, the likeliest first, of equal ones the first."""
    shares = np.exp(log_softmax(logits))
    best = np.argsort(-shares, axis=1, kind="stable")[:, :most]
    return [[Answer(int(number), float(row[number])) for number in order] for row, order in zip(shares, best)]


def as_data(images: Sequence[str], found: Sequence[Sequence[Answer]], names: Mapping[int, str]) -> list[dict[str, Any]]:
    """For JSON. images: what to call each; names: class -> its name, null for one that has none."""
    return [
        {
            "image": image,
            "answers": [{"class": a.number, "name": names.get(a.number), "probability": a.share} for a in answered],
        }
        for image, answered in zip(images, found)
    ]


def as_csv(images: Sequence[str], found: Sequence[Sequence[Answer]], names: Mapping[int, str]) -> str:
    """A row for each image: its likeliest class, that class's name and probability, then those of the second, and so on."""
    most = len(found[0]) if found else 0
    heads = [
        f"{head}_{place}" if place > 1 else head for place in range(1, most + 1) for head in ("class", "name", "probability")
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", *heads])
    for image, answered in zip(images, found):
        cells = [(answer.number, names.get(answer.number, ""), f"{answer.share:.6g}") for answer in answered]
        writer.writerow([image, *(cell for three in cells for cell in three)])
    return text.getvalue()


def as_text(images: Sequence[str], found: Sequence[Sequence[Answer]], names: Mapping[int, str]) -> str:
    """A line for each image, in columns."""
    lines = [
        [image, *(cell for answer in answered for cell in _cells(answer, names))] for image, answered in zip(images, found)
    ]
    return aligned(lines, left=max(map(len, lines), default=0))


def _cells(answer: Answer, names: Mapping[int, str]) -> tuple[str, str]:
    return names.get(answer.number, f"class {answer.number}"), f"{100 * answer.share:6.2f} %"
