"""Gradients of normalizations: over space, and over neighbouring channels."""

from __future__ import annotations

from typing import Sequence

from onnx_distill.errors import InputError
from onnx_distill.facts.logits import label
from onnx_distill.gradients.formula import Value
from onnx_distill.gradients.site import Rule, Site


def _lrn(f: Site) -> Value:
    """y = x * d^-beta, d = bias + alpha * W(x^2), W the mean over the channels around
    dx = dy * d^-beta - 2 * alpha * beta * x * W'(dy * y / d), W' the same with its window the other way round."""
    alpha, beta = f.attribute("alpha", 1e-4), f.attribute("beta", 0.75)
    scale = f.attribute("bias", 1.0) + alpha * _window_mean(f, f.x * f.x)
    spread = _window_mean(f, f.dy * f.y / scale, turned=True)
    return f.dy * f("Pow", scale, -beta) - (2 * alpha * beta) * f.x * spread


def _window_mean(f: Site, value: Value, turned: bool = False) -> Value:
    """Over `size` channels, zeros beyond the ends counted: pooling along the channels as if they were space."""
    size, others = f.attribute("size", 1), [0] * (len(f.shape(0)) - 2)
    ends = [(size - 1) // 2, size // 2]
    before, after = reversed(ends) if turned else ends
    window = {"kernel_shape": [size, *(1 for _ in others)], "pads": [before, *others, after, *others]}
    return f("Squeeze", f("AveragePool", f("Unsqueeze", value, [1]), **window, count_include_pad=1), [1])


def _instance_normalization(f: Site) -> list[Value | None]:
    """y = scale * n + b, n = (x - mean) / d, over space; dn = scale * dy, dscale = sum dy * n, db = sum dy."""
    axes = f.spatial_axes()
    if not axes:
        raise InputError(
            f"InstanceNormalization {label(f.node)!r} reads no image: a channel has one value, and nothing to normalize"
        )
    centred = f.x - f.mean(f.x, axes)
    d = f("Sqrt", f.mean(centred * centred, axes) + f.attribute("epsilon", 1e-5))
    n, others = centred / d, [0, *axes]
    dn = f.dy * f("Unsqueeze", f.inputs[1], [axis - 1 for axis in axes])
    return [_through_normalization(f, dn, n, d, axes), f.sum(f.dy * n, others, 0), f.sum(f.dy, others, 0)]


def _through_normalization(f: Site, dn: Value, n: Value, d: Value, axes: Sequence[int]) -> Value:
    """dx for n = (x - mean) / d over axes: (dn - mean(dn) - n * mean(dn * n)) / d."""
    return (dn - f.mean(dn, axes) - n * f.mean(dn * n, axes)) / d


NORM_RULES: dict[str, Rule] = {"LRN": _lrn, "InstanceNormalization": _instance_normalization}
