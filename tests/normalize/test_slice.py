import numpy as np
import pytest
from classifier import becomes, classifier, stays
from equal import operators


@pytest.mark.parametrize(
    "start, end, axis, step",
    [(-1, -100, 1, -1), (3, 0, 1, -1), (100, 1, 3, -2), (-2, -7, 2, -3), (-1, -(2**63) + 1, -1, -1), (6, -9, 3, -2)],
)
def test_steps_backwards_become_a_gather(start, end, axis, step):
    values = {"s": [start], "e": [end], "x0": [axis], "t": [step]}
    model = classifier("b = Slice(a, s, e, x0, t)", **{name: np.array(value) for name, value in values.items()})
    assert "Slice" not in operators(becomes(model, "slice"))


def test_steps_forward_on_other_axes_stay_a_slice():
    values = {"s": [1, -1, 0], "e": [100, -100, 7], "x0": [1, 2, 3], "t": [1, -2, 2]}
    model = classifier("b = Slice(a, s, e, x0, t)", **{name: np.array(value) for name, value in values.items()})
    assert {"Slice", "Gather"} <= operators(becomes(model, "slice"))


@pytest.mark.parametrize("body, image", [("b = Slice(a, one, far, two)", "float[n,4,8,8] x"), ("b = Slice(a, far, one, two, back)", "float[n,4,h,w] x"), ("z = Shape<start = 2, end = 3>(a) b = Slice(a, z, one, two, back)", "float[n,4,h,w] x")], ids=["forward", "free size", "computed"])  # fmt: skip
def test_it_does_not_fire(body, image):
    values = {"one": np.array([1]), "two": np.array([2]), "far": np.array([100]), "back": np.array([-1])}
    stays(classifier(body, image, head=False, **values), "slice")
