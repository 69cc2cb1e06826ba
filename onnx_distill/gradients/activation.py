"""Gradients of activations: dx from x, y and dy, each the formula of its docstring."""

from __future__ import annotations

import math

from onnx_distill.gradients.formula import Value
from onnx_distill.gradients.site import Rule, Site


def _thresholded_relu(f: Site) -> Value:
    """y' = 1 where x > alpha, else 0."""
    return f.dy * (f.x > f.attribute("alpha", 1.0))


def _elu(f: Site) -> Value:
    """y' = y + alpha where x < 0, else 1."""
    alpha = f.attribute("alpha", 1.0)
    below = f("Min", f.y, 0.0) + alpha
    return f.dy * (below if alpha == 1 else below + (1 - alpha) * (f.x > 0.0))


def _selu(f: Site) -> Value:
    """y' = y + alpha * gamma where x < 0, else gamma."""
    gamma = f.attribute("gamma", 1.0507009873554805)
    both = f.attribute("alpha", 1.6732632423543772) * gamma
    return f.dy * (f("Min", f.y, 0.0) + both + (gamma - both) * (f.x > 0.0))


def _celu(f: Site) -> Value:
    """y' = exp(min(x, 0) / alpha) = min(y, 0) / alpha + 1."""
    return f.dy * (f("Min", f.y, 0.0) / f.attribute("alpha", 1.0) + 1.0)


def _softplus(f: Site) -> Value:
    """y' = sigmoid(x)."""
    return f.dy * f("Sigmoid", f.x)


def _softsign(f: Site) -> Value:
    """y' = 1 / (1 + |x|)^2."""
    size = f("Abs", f.x) + 1.0
    return f.dy / (size * size)


def _mish(f: Site) -> Value:
    """y = x * t, t = tanh(softplus(x)); y' = t + x * sigmoid(x) * (1 - t^2)."""
    t = f("Tanh", f("Softplus", f.x))
    return f.dy * (t + f.x * f("Sigmoid", f.x) * (1.0 - t * t))


def _hard_sigmoid(f: Site) -> Value:
    """y' = alpha where 0 < y < 1, else 0."""
    return f.dy * ((f.y > 0.0) * (f.y < 1.0) * f.attribute("alpha", 0.2))


def _hard_swish(f: Site) -> Value:
    """y' = clip(x / 6 + 0.5, 0, 1) + x / 6 where |x| < 3."""
    line = f.x / 6.0
    return f.dy * (f("Clip", line + 0.5, 0.0, 1.0) + line * (f("Abs", f.x) < 3.0))


def _gelu_tanh(f: Site) -> Value:
    """y = x * (1 + t) / 2, t = tanh(u), u = c * (x + 0.044715 x^3), c = sqrt(2 / pi)
    y' = (1 + t) / 2 + x * (1 - t^2) * c * (1 + 3 * 0.044715 x^2) / 2. The runtime gives it the other Gelu's (1.19.2)."""
    c, square = math.sqrt(2 / math.pi), f.x * f.x
    t = f("Tanh", f.x * (square * (c * 0.044715) + c))
    return f.dy * (0.5 * t + 0.5 + f.x * (1.0 - t * t) * (square * (c * 3 * 0.044715 / 2) + c / 2))


def _flat(f: Site) -> Value:
    """Steps: 0 wherever there is a derivative."""
    return f.dy * 0.0


def _prelu(f: Site) -> list[Value | None]:
    """y = max(x, 0) + slope * min(x, 0)."""
    below = f("Min", f.x, 0.0)
    return [f("Where", f("Less", f.x, 0.0), f.dy * f.inputs[1], f.dy), f.sum_to(f.dy * below, 1)]


def _where(f: Site) -> list[Value | None]:
    """dy goes to the choice that was taken, summed over what was broadcast."""
    chosen = f.formula.mask(f.inputs[0])
    return [None, f.sum_to(f.dy * chosen, 1), f.sum_to(f.dy * (1.0 - chosen), 2)]


ACTIVATION_RULES: dict[str, Rule] = {
    "Elu": _elu,
    "Selu": _selu,
    "Celu": _celu,
    "Softplus": _softplus,
    "Softsign": _softsign,
    "Mish": _mish,
    "ThresholdedRelu": _thresholded_relu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Gelu": _gelu_tanh,
    "PRelu": _prelu,
    "Where": _where,
    **dict.fromkeys(("Sign", "Floor", "Ceil", "Round"), _flat),
}
