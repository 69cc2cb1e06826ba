"""The checker itself: it must see the wrong gradients that the rewrites are there for."""

import numpy as np
import pytest
from classifier import SLOPE, classifier, slope_error

from onnx_distill.normalize import normalize

SHUFFLE = "r = Reshape(c, apart) t = Transpose<perm = [0, 2, 1, 3, 4]>(r) s = Reshape(t, joined)"
STRUCTURES = {
    "elementwise": "b = Tanh(a)",
    "grouped": "b = Conv<group = 2, strides = [2, 2]>(a, grouped)",
    "depthwise": "b = Conv<group = 4, dilations = [2, 2]>(a, depthwise)",
    "channel shuffle": f"c = Conv<group = 2>(a, grouped) {SHUFFLE} b = Conv<group = 2>(s, grouped)",
    "class token": "n1 = Shape<start = 0, end = 1>(a) z = Concat<axis = 0>(n1, one, four) e = Expand(token, z) r = Reshape(a, rows) "
    "k = Concat<axis = 1>(e, r) m = MatMul(k, square) g = Gather<axis = 1>(m, zeroth) b = Tanh(g)",
    "attention": "r = Reshape(a, rows) t = Transpose<perm = [0, 2, 1]>(r) q = MatMul(r, t) p = Softmax<axis = -1>(q) b = MatMul(p, r)",
    "squeeze and excite": "m = GlobalAveragePool(a) f = Conv(m, point) g = Sigmoid(f) b = Mul(a, g)",
    "split": "p, q = Split<axis = 1>(a) t = Tanh(q) b = Concat<axis = 1>(t, p)",
    "residual and two pools": "p = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(a) d = Add(p, a) b = MaxPool<kernel_shape = [2, 2]>(d)",
    "gemm": "f = Flatten(a) b = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(f, dense, bias)",
    "channels last": "t = Transpose<perm = [0, 2, 3, 1]>(a) b = MatMul(t, square)",
}
VALUES = {
    "grouped": (4, 2, 3, 3), "depthwise": (4, 1, 3, 3), "point": (4, 4, 1, 1), "square": (4, 4), "token": (1, 1, 4), "dense": (5, 256),
    "bias": (5,), "apart": np.array([0, 2, 2, 6, 6]), "joined": np.array([0, 4, 6, 6]), "rows": np.array([0, -1, 4]),
    "one": np.array([1]), "four": np.array([4]), "zeroth": np.array(0),
}  # fmt: skip


@pytest.mark.parametrize("body", STRUCTURES.values(), ids=STRUCTURES)
def test_structures_that_are_left_alone_have_right_gradients(body):
    values = {name: value for name, value in VALUES.items() if f"{name})" in body or f"{name}," in body}
    assert slope_error(normalize(classifier(body, **values))[0]) < SLOPE


def test_pixels_normalized_inside_the_graph_have_right_gradients():
    body = "f = Cast<to = 1>(x) t = Transpose<perm = [0, 3, 1, 2]>(f) s = Sub(t, mean) d = Div(s, deviation) a = Conv(d, w) b = Tanh(a)"
    model = classifier(
        body, "uint8[n,8,8,3] x", first="", w=(4, 3, 3, 3), mean=np.full((1, 3, 1, 1), 120, "f"), deviation=np.float32(60)
    )
    assert slope_error(normalize(model)[0]) < SLOPE


@pytest.mark.parametrize(
    "body, values",
    [
        ('b = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(a, w2)', {"w2": (4, 4, 3, 3)}),
        ("b, c = Split<axis = 1>(a, two)", {"two": np.array([2, 2])}),
        ("b = MaxPool<kernel_shape = [2, 2], strides = [2, 2], storage_order = 1>(a)", {}),
    ],
    ids=["auto_pad", "unused output of Split", "storage_order"],
)
def test_gradients_that_the_runtime_gets_wrong_fail(body, values):
    assert slope_error(classifier(body, **values)) > 5 * SLOPE
