"""The checker itself: it must see the wrong gradients that the rewrites are there for."""

import numpy as np
import pytest
from classifier import SLOPE, classifier, slope_error


@pytest.mark.parametrize("body", ["b = Tanh(a)", "t = Transpose<perm = [0, 2, 3, 1]>(a) b = Mul(t, t)"])
def test_right_gradients_pass(body):
    assert slope_error(classifier(body)) < SLOPE


@pytest.mark.parametrize(
    "body, values",
    [
        ('b = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(a, w2)', {"w2": (4, 4, 3, 3)}),
        ("b, c = Split<axis = 1>(a, two)", {"two": np.array([2, 2])}),
        ("z = Greater(x, half) b = Where(z, a, p)", {"half": np.float32(0.5), "p": (4, 1, 1)}),
        ("b = MaxPool<kernel_shape = [2, 2], strides = [2, 2], storage_order = 1>(a)", {}),
    ],
    ids=["auto_pad", "unused output of Split", "broadcast in Where", "storage_order"],
)
def test_gradients_that_the_runtime_gets_wrong_fail(body, values):
    assert slope_error(classifier(body, **values)) > 5 * SLOPE
