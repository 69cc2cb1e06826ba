"""Gradients of reductions: to the extreme value, of the sum of sizes, of the sum of squares."""

from __future__ import annotations

from onnx_distill.gradients.formula import Value
from onnx_distill.gradients.site import Rule, Site


def _extreme(f: Site) -> Value:
    """The gradient goes to the extreme value, in equal parts where there are several."""
    chosen = f.formula.mask(f("Equal", f.x, f.kept(f.y)))
    return chosen * (f.kept(f.dy) / f.sum(chosen, f.reduced_axes()))


def _reduce_l1(f: Site) -> Value:
    """dx = sign(x) * dy."""
    return f("Sign", f.x) * f.kept(f.dy)


def _reduce_sum_square(f: Site) -> Value:
    """dx = 2 * x * dy."""
    return f.x * f.kept(f.dy) * 2.0


REDUCE_RULES: dict[str, Rule] = {
    **dict.fromkeys(("ReduceMax", "ReduceMin"), _extreme),
    "ReduceL1": _reduce_l1,
    "ReduceSumSquare": _reduce_sum_square,
}
