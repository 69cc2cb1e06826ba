"""parameters.py: which constants of a student are trained: what was learned, as it stands or through its quantizer; never what a formula is made of."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import CONV, FEATURES, net, student_of

from onnx_distill.artifacts import trainable

EIGHT = np.linspace(0.5, 1.2, 8, dtype=np.float32)
LEARNED = {
    "gain and bias of a LayerNormalization": (
        "l = LayerNormalization(a, p, q) y = Conv(l, w2, b2)",
        {"p": EIGHT, "q": EIGHT},
    ),
    "bias of a MatMul": ("m = MatMul(a, left) y = Add(m, p)", {"p": EIGHT}),
    "position embedding": ("l = LayerNormalization(a, eights) y = Add(l, p)", {"p": np.ones((1, 4, 8, 8), np.float32)}),
    "class token": (
        "m = LayerNormalization(a, eights) g = ReduceMean<axes = [2]>(m) s = Shape(g) t = Expand(p, s) y = Concat<axis = 2>(t, m)",
        {"p": np.ones((1, 1, 1, 8), np.float32)},
    ),
    "scale of a layer": ("m = MatMul(a, left) y = Mul(m, p)", {"p": EIGHT}),
    "slopes": ("y = PRelu(a, p)", {"p": np.full((4, 1, 1), 0.2, np.float32)}),
    "slope of all channels": ("y = PRelu(a, p)", {"p": np.full(1, 0.2, np.float32)}),
    "factors of channels": ("m = Mul(a, p) y = Conv(m, w2, b2)", {"p": np.full((4, 1, 1), 2, np.float32)}),
    "bias of one channel": (
        "y = Conv(a, narrow, p)",
        {"p": np.ones(1, np.float32), "narrow": np.ones((1, 4, 1, 1), np.float32)},
    ),
}
FIXED = {
    "number": ("m = Mul(a, p) y = Tanh(m)", np.float32(0.125)),
    "number of rank 1": ("m = Mul(a, p) y = Tanh(m)", np.float32([0.125])),
    "number of rank 4": ("m = Add(a, p) y = Tanh(m)", np.full((1, 1, 1, 1), 3, np.float32)),
    "number that is quantized": ("m = Mul(a, p) y = Conv(m, w2, b2)", np.float32([0.125])),
    "divisor": ("t = Tanh(a) y = Div(t, p)", np.float32([8])),
    "exponent": ("t = Tanh(a) y = Pow(t, p)", np.float32([2])),
    "exponents": ("t = Tanh(a) y = Pow(t, p)", np.full((1, 4, 8, 8), 2, np.float32)),
    "bound": ("t = Tanh(a) y = Clip(t, , p)", np.float32(6)),
    "value of a Pad": ("y = Pad(a, wider, p)", np.float32(1)),
    "sizes of a Resize": ("y = Resize(a, , p)", np.float32([1, 1, 2, 2])),
    "threshold": ("g = Greater(a, p) c = Cast<to = 1>(g) y = Mul(c, a)", np.full(8, 0.5, np.float32)),
    "mask": ("m = MatMul(a, left) s = Add(m, p) y = Softmax(s)", np.triu(np.full((8, 8), -1e9, np.float32), 1)),
    "mask of infinities": ("m = MatMul(a, left) s = Add(m, p) y = Softmax(s)", np.float32([0] * 7 + [-np.inf])),
}


def trained(body: str, **values) -> tuple[str, ...]:
    values = {"wider": np.int64([0, 0, 1, 1, 0, 0, 1, 1]), "eights": EIGHT, **values}
    return trainable(student_of(net(CONV + body, FEATURES, **values)), "all").all


@pytest.mark.parametrize(("body", "values"), LEARNED.values(), ids=LEARNED)
def test_what_was_learned_is_trained(body, values):
    names = trained(body, **values)
    assert "p" in names or any(name.startswith("/") or "/factors" in name for name in names)


@pytest.mark.parametrize(("body", "value"), FIXED.values(), ids=FIXED)
def test_what_a_formula_is_made_of_is_not(body, value):
    names = trained(body, p=value)
    assert {"w", "b"} <= set(names) and not {"p", "p/scale"} & set(names)
