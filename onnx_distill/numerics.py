"""Rounding, clipping, scales and zero points: the only definition of them in this project.

    quantize:    q = clamp(round_half_even(x / scale) + zero_point, qmin, qmax)
    dequantize:  x = (q - zero_point) * scale

as in ONNX QuantizeLinear and DequantizeLinear, but with a range [qmin, qmax] that may be narrower than the
container's type. All arithmetic is float32, as in the runtime. Graphs, exporter and tests are compared to this file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

INT32_MAX = 2**31 - 1
SMALLEST_SCALE = np.float32(2.0**-40)  # keeps x / scale finite in float32 for |x| < 2**87


@dataclass(frozen=True)
class IntegerRange:
    """Integers from qmin to qmax that live in a container of the numpy type `dtype` (int8 or uint8)."""

    qmin: int
    qmax: int
    dtype: str

    @property
    def fills_container(self) -> bool:
        """True when saturation of the container's type alone keeps values within qmin and qmax."""
        info = np.iinfo(self.dtype)
        return (self.qmin, self.qmax) == (info.min, info.max)

    @property
    def bits(self) -> int:
        """Bits that hold every integer of the range: 4 for -7..7, for 0..7 in int8, and for 0..15 in uint8."""
        if self.dtype == "uint8":
            return self.qmax.bit_length()
        return max(self.qmax, -self.qmin - 1).bit_length() + 1


def weight_range(bits: int, limit: int = 127) -> IntegerRange:
    """Symmetric narrow range: -127..127 for 8 bits, -7..7 for 4, -1..1 for 2, never beyond `limit`; int8."""
    limit = min(2 ** (bits - 1) - 1, limit)
    return IntegerRange(-limit, limit, "int8")


def activation_range(bits: int, symmetric: bool = False, nonnegative: bool = False, fills: bool = False) -> IntegerRange:
    """Asymmetric: 0..2**bits - 1 in uint8. Symmetric: zero point 0 in int8, and 0..qmax where no value is negative.

    fills: 8 symmetric bits are all of int8, -128..127, whatever the values.
    """
    if not symmetric:
        return IntegerRange(0, 2**bits - 1, "uint8")
    if fills and bits == 8:
        return IntegerRange(-128, 127, "int8")
    limit = 2 ** (bits - 1) - 1
    return IntegerRange(0 if nonnegative else -limit, limit, "int8")


def broadcastable(scale: np.ndarray, rank: int, axis: int | None) -> np.ndarray:
    """The scale reshaped so that it broadcasts against a tensor of `rank` along `axis` (None: per tensor)."""
    if axis is None:
        return np.asarray(scale, np.float32).reshape(())
    shape = [1] * rank
    shape[axis] = -1
    return np.asarray(scale, np.float32).reshape(shape)


def quantize(x, scale, zero_point, qmin: int, qmax: int) -> np.ndarray:
    """Integers (as int32) of x; scale and zero_point broadcast against x. Exactly representable for |q| < 2**24."""
    rounded = np.rint(np.asarray(x, np.float32) / np.asarray(scale, np.float32))
    return np.clip(rounded.astype(np.float64) + zero_point, qmin, qmax).astype(np.int32)


def rounds_into(low, high) -> tuple[np.ndarray, np.ndarray]:
    """(least, most): the float32 numbers that round, half to even, to the integers low to high are those from least to most.

    low, high: integers of any shape; -0.5 and 15 - an ulp + 0.5 for 0 and 15, as -0.5 rounds to 0 and 15.5 to 16.
    """
    ends = []
    for end, half in ((low, np.float32(-0.5)), (high, np.float32(0.5))):
        tie = np.asarray(end, np.float32) + half
        ends.append(np.where(np.rint(tie) == end, tie, np.nextafter(tie, np.asarray(end, np.float32))))
    return ends[0], ends[1]


def dequantize(q, scale, zero_point) -> np.ndarray:
    """Float32 values (q - zero_point) * scale; scale and zero_point broadcast against q."""
    return (np.asarray(q, np.int32) - np.asarray(zero_point, np.int32)).astype(np.float32) * np.asarray(scale, np.float32)


def fake_quantize(x, scale, zero_point, qmin: int, qmax: int) -> np.ndarray:
    """dequantize(quantize(x)): within scale / 2 of x inside the range, clipped outside, idempotent, zero maps to zero."""
    return dequantize(quantize(x, scale, zero_point, qmin, qmax), scale, zero_point)


def range_scale(low: float, high: float, integers: IntegerRange, symmetric: bool = False) -> tuple[np.float32, int]:
    """(scale, zero_point) for which the integers cover low..high, widened to hold 0.

    Asymmetric: the zero point is the integer nearest to that of real 0, so the ends move by at most scale / 2.
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if symmetric:
        scale = max(abs(low), high) / integers.qmax
        return np.maximum(np.float32(scale), SMALLEST_SCALE), 0
    scale = np.maximum(np.float32((high - low) / (integers.qmax - integers.qmin)), SMALLEST_SCALE)
    zero_point = int(np.clip(np.rint(integers.qmin - low / float(scale)), integers.qmin, integers.qmax))
    return scale, zero_point


def max_weight_scale(weights: np.ndarray, axis: int | None, qmax: int) -> np.ndarray:
    """max |w| / qmax, per slice of `axis` (shape [n]) or per tensor (shape [])."""
    rows = _rows(weights, axis)
    scale = np.maximum(np.abs(rows).max(axis=1) / np.float32(qmax), SMALLEST_SCALE).astype(np.float32)
    return scale if axis is not None else scale.reshape(())


def mse_weight_scale(weights: np.ndarray, axis: int | None, qmax: int, ratios: int = 80) -> np.ndarray:
    """The scale of least squared error among `ratios` fractions (0.2 to 1) of max |w| / qmax; shape as max_weight_scale."""
    rows = _rows(weights, axis)
    largest = np.maximum(np.abs(rows).max(axis=1, keepdims=True) / np.float32(qmax), SMALLEST_SCALE)
    best, best_error = largest.copy(), np.full_like(largest, np.inf)
    for ratio in np.linspace(0.2, 1.0, ratios, dtype=np.float32):
        scale = np.maximum(largest * ratio, SMALLEST_SCALE)
        error = np.square(fake_quantize(rows, scale, 0, -qmax, qmax) - rows).sum(axis=1, keepdims=True)
        best, best_error = np.where(error < best_error, scale, best), np.minimum(error, best_error)
    return best[:, 0] if axis is not None else best.reshape(())


def _rows(weights: np.ndarray, axis: int | None) -> np.ndarray:
    weights = np.asarray(weights, np.float32)
    return weights.reshape(1, -1) if axis is None else np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)


def safe_weight_scale(weight_scale, input_scale, bias) -> np.ndarray:
    """weight_scale, raised where bias / (input_scale * weight_scale) would not fit int32.

    The bound leaves a factor of two for the sum of products that is added to the bias in the same accumulator.
    """
    needed = np.abs(np.asarray(bias, np.float64)) / (float(input_scale) * (INT32_MAX // 2))
    needed = needed if np.ndim(weight_scale) else needed.max(initial=0.0)
    return np.maximum(np.asarray(weight_scale, np.float32), np.nextafter(needed.astype(np.float32), np.float32(np.inf)))


def quantize_bias(bias, input_scale, weight_scale) -> np.ndarray:
    """int32 bias in steps of input_scale * weight_scale (shape [channels] or []), the unit of the integer accumulator."""
    step = np.asarray(input_scale, np.float32) * np.asarray(weight_scale, np.float32)
    rounded = np.rint(np.asarray(bias, np.float32) / step).astype(np.float64)
    return np.clip(rounded, -INT32_MAX, INT32_MAX).astype(np.int32)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log(softmax(logits)) of each row [n, classes], float64; finite for logits thousands apart."""
    shifted = np.asarray(logits, np.float64) - np.max(logits, axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
