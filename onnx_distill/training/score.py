"""What a student is worth on held-out images, and whether another one is better by more than chance.

The mean KL to the teacher decides: it moves with every image, where a share of right answers moves with the few near a border
(of 200 images, one is half a point).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

SURE = 2.0  # standard errors that a paired mean must lie from 0 to count as no chance: about 95 %
LIKELY = 1.0  # standard errors by which one student is taken for the better one: about 84 %


@dataclass(frozen=True, eq=False, repr=False)
class Score:
    """share: of right answers, or without labels of answers like the teacher's, 0..1. kl: KL(teacher || student) of each image [n], in nats."""

    share: float
    kl: np.ndarray

    def __repr__(self) -> str:
        return f"Score({100 * self.share:.2f} % of {len(self.kl):,} images, KL {self.mean_kl:.3g})"

    @property
    def mean_kl(self) -> float:
        return float(self.kl.mean())


def share_error(share: float, count: int) -> float:
    """Standard error of a share 0..1 of `count` images; with the one of a single image where all or none are right."""
    inside = min(max(share, 1 / (count + 1)), count / (count + 1))
    return math.sqrt(inside * (1 - inside) / count)


def fall(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """(mean, standard error) of before - after, the KL [n] of the same images; an infinite error for a single image."""
    change = before - after
    error = float(change.std(ddof=1)) / math.sqrt(len(change)) if len(change) > 1 else math.inf
    return float(change.mean()), error


def fell(before: np.ndarray, after: np.ndarray, errors: float = SURE) -> bool:
    """Whether KL [n] fell from `before` to `after`, in the mean and by more than so many standard errors.

    Chance is judged by the roots: the KL is of second order in what was added to the logits, so that its root is in proportion to that
    and a few images far off do not hide what all others say.
    """
    mean, error = fall(*(np.sqrt(np.maximum(kl, 0)) for kl in (before, after)))
    return float(after.mean()) < float(before.mean()) and mean > errors * error
