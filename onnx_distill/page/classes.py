"""How right teacher and student are, class by class, and how sure that is: shares with their 95 % intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np

Z = 1.959964  # standard errors to each side of a normal mean that hold 95 %
Interval = Tuple[float, float]


@dataclass(frozen=True)
class ClassResult:
    """Of the images with one label: how many there are, and on how many teacher and student say so."""

    number: int
    images: int
    teacher_right: int
    student_right: int


def by_class(teacher: np.ndarray, student: np.ndarray, labels: Optional[np.ndarray]) -> list[ClassResult]:
    """Answers [n] beside labels [n], for each class that has images; none without labels."""
    if labels is None:
        return []
    size = int(labels.max()) + 1
    count = lambda holds: np.bincount(labels[holds], minlength=size)  # noqa: E731
    every, theirs, ours = count(slice(None)), count(teacher == labels), count(student == labels)
    return [ClassResult(int(c), int(every[c]), int(theirs[c]), int(ours[c])) for c in np.flatnonzero(every)]


def share_interval(right: int, count: int) -> Interval:
    """Wilson's 95 % interval of a share 0..1: the shares p that `right` of `count` is within Z standard errors of, by p's own error."""
    share, z2 = right / count, Z * Z / count
    middle, half = share + z2 / 2, Z * math.sqrt(share * (1 - share) / count + z2 / (4 * count))
    return max(0.0, min(share, (middle - half) / (1 + z2))), min(1.0, max(share, (middle + half) / (1 + z2)))


def change_interval(lost: int, won: int, count: int) -> Interval:
    """95 % interval of (won - lost) / count, the change of a share on the same images (Agresti and Min 2005: half an image added to
    each of the four cells): lost, won: images that only the first, only the second has right."""
    lost_, won_, count_ = lost + 0.5, won + 0.5, count + 2
    middle = (won_ - lost_) / count_
    half = Z * math.sqrt((lost_ + won_) / count_ - middle**2) / math.sqrt(count_)
    return max(-1.0, middle - half), min(1.0, middle + half)
