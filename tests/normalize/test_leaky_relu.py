import numpy as np
import pytest
from classifier import becomes, classifier, stays
from equal import operators

ALPHA = {"alpha": np.float32(0.1), "four": np.float32(4)}


def given(body: str) -> dict:
    return {name: value for name, value in ALPHA.items() if name in body}


@pytest.mark.parametrize(
    "body",
    [
        "s = Mul(a, alpha) b = Max(a, s)",
        "s = Mul(alpha, a) b = Max(s, a)",
        "s = Div(a, four) b = Max(a, s)",
        "s = Mul(a, four) b = Min(a, s)",
    ],
)
def test_the_larger_of_x_and_a_part_of_it_is_leaky_relu(body):
    made = becomes(classifier(body, **given(body)), "leaky_relu")
    assert "LeakyRelu" in operators(made) and not {"Max", "Min"} & operators(made)


@pytest.mark.parametrize(
    "body",
    ["s = Mul(a, four) b = Max(a, s)", "s = Mul(x, alpha) b = Max(a, s)", "s = Add(a, alpha) b = Max(a, s)",
     "s = Mul(a, alpha) b = Min(a, s)", "s = Mul(a, alpha) b = Max(a, s, x)"],
    ids=["larger than x", "of another value", "a sum", "the smaller one", "of three"],
)  # fmt: skip
def test_other_maxima_stay(body):
    stays(classifier(body, **given(body)), "leaky_relu")
