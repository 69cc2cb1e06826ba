import numpy as np
import pytest
from classifier import becomes, classifier, stays
from equal import operators


@pytest.mark.parametrize(
    "body, opset",
    [
        ("b, q = Split<axis = 1>(a, sizes)", 17),
        ("p, b = Split<axis = -3>(a, sizes)", 17),
        ("p, b = Split<axis = 1>(a)", 17),
        ("p, q, r = Split<axis = 3, num_outputs = 3>(a) b = Concat<axis = 3>(r, p)", 18),
    ],
    ids=["first", "last", "equal", "uneven"],
)
def test_a_split_with_an_unused_output_becomes_slices(body, opset):
    assert "Split" not in operators(becomes(classifier(body, opset=opset, sizes=np.array([1, 3])), "split"))


@pytest.mark.parametrize(
    "body, image",
    [("p, q = Split<axis = 1>(a) b = Sub(p, q)", "float[n,4,8,8] x"), ("b, q = Split<axis = 2>(a)", "float[n,4,h,w] x")],
    ids=["all used", "free size"],
)
def test_it_does_not_fire(body, image):
    stays(classifier(body, image, head=False), "split")
