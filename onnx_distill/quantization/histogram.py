"""What is kept of the values a tensor takes: exact ends, and counts in bins that nest when their width doubles.

Bin k of width w = 2**(exponent - 12) holds the values whose x / w, rounded towards zero, is k. So bin 0 is (-w, w) with its
centre at zero, where Relu puts half of all values; k > 0 is [k w, (k + 1) w); k < 0 mirrors it. Rounding towards zero
nests: trunc(x / 2w) = trunc(trunc(x / w) / 2). With widths that are powers of two all of it is exact in float32, so

    merge(of(a), of(b)) equals of(a and b together), whatever the split.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from onnx_distill.errors import InputError

BINS = 2**12  # on each side of zero; the largest value lies in the upper half of them: 8 or more to a step of 8 bits
SMALLEST_EXPONENT = -40  # values below 2**-40 count as zero: numerics.SMALLEST_SCALE is no smaller
CHUNK = 2**16  # values counted at once: 256 kB of float32 and 512 kB of int64 stay in the second-level cache


@dataclass(frozen=True, eq=False)
class Histogram:
    """Exact smallest and largest value (low, high), and counts [2 * BINS - 1] of the bins over (-2**exponent, 2**exponent)."""

    low: float
    high: float
    exponent: int
    counts: np.ndarray

    @property
    def width(self) -> float:
        return math.ldexp(1.0, self.exponent) / BINS

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    @property
    def centres(self) -> np.ndarray:
        """Float32 middle of each bin, at least low and at most high: exact for a tensor of one value."""
        index = np.arange(1 - BINS, BINS)
        middle = (index + 0.5 * np.sign(index)) * self.width
        return np.clip(middle, min(self.low, self.high), self.high).astype(np.float32)

    @property
    def upper_edges(self) -> np.ndarray:
        """Where each bin ends, in the order of counts; bin 0 ends at width. The lower edges are these, reversed, times -1."""
        index = np.arange(1 - BINS, BINS)
        return np.where(index < 0, index, index + 1) * self.width


EMPTY = Histogram(math.inf, -math.inf, SMALLEST_EXPONENT, np.zeros(2 * BINS - 1, np.int64))


def of(values: np.ndarray, name: str = "?") -> Histogram:
    """The histogram of an array of floats, any shape. Raises InputError, with the value's name, for NaN and infinity."""
    flat = np.asarray(values, np.float32).reshape(-1)
    if not flat.size:
        return EMPTY
    low, high = float(flat.min()), float(flat.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError(
            f"value {name!r} holds NaN or infinity on the calibration images; wanted finite numbers. "
            "Check the model's weights, and the images' mean and scale."
        )
    exponent = math.frexp(max(-low, high, math.ldexp(0.5, SMALLEST_EXPONENT)))[1]
    return Histogram(low, high, exponent, _count(flat, exponent))


def _count(flat: np.ndarray, exponent: int) -> np.ndarray:
    per_unit = np.float32(math.ldexp(BINS, -exponent))
    counts = np.zeros(2 * BINS - 1, np.int64)
    for start in range(0, flat.size, CHUNK):
        index = (flat[start : start + CHUNK] * per_unit).astype(np.intp)
        index += BINS - 1
        counts += np.bincount(index, minlength=counts.size)
    return counts


def merge(one: Histogram, other: Histogram) -> Histogram:
    """The histogram of both sets of values together."""
    exponent = max(one.exponent, other.exponent)
    counts = _widened(one, exponent) + _widened(other, exponent)
    return Histogram(min(one.low, other.low), max(one.high, other.high), exponent, counts)


def _widened(histogram: Histogram, exponent: int) -> np.ndarray:
    index = np.arange(1 - BINS, BINS)
    wider = np.sign(index) * (np.abs(index) >> min(exponent - histogram.exponent, 62))
    counts = np.zeros_like(histogram.counts)
    np.add.at(counts, wider + BINS - 1, histogram.counts)
    return counts
