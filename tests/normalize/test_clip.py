import numpy as np
import pytest
from classifier import becomes, classifier, stays

from onnx_distill.lookup import initializers

NUMBERS = {
    "six": np.float32(6),
    "zero": np.float32(0),
    "minus": np.float32(-0.5),
    "one": np.float32(0.25),
    "wide": np.float32([[[[0.25]]]]),
}


def bounds(made) -> tuple:
    (clip,) = [node for node in made.graph.node if node.op_type in ("Clip", "Relu")]
    known = {name: onnx_value(made, name) for name in clip.input[1:]}
    return (clip.op_type, *known.values())


def onnx_value(model, name):
    return float(np.frombuffer(initializers(model)[name].raw_data, np.float32)[0]) if name else None


def numbers_in(body: str) -> dict:
    return {name: value for name, value in NUMBERS.items() if name in body}


@pytest.mark.parametrize(
    "body, wanted",
    [
        ("b = Max(a, zero)", ("Relu",)),
        ("b = Max(zero, a)", ("Relu",)),
        ("b = Min(a, wide)", ("Clip", None, 0.25)),
        ("b = Max(a, minus)", ("Clip", -0.5)),
        ("r = Relu(a) b = Min(r, six)", ("Clip", 0.0, 6.0)),
        ("l = Max(a, minus) b = Min(six, l)", ("Clip", -0.5, 6.0)),
        ("c = Clip(a, minus, one) b = Relu(c)", ("Clip", 0.0, 0.25)),
        ("c = Clip(a, minus) d = Clip(c, zero, one) b = Min(d, six)", ("Clip", 0.0, 0.25)),
        ("c = Relu(a) b = Relu(c)", ("Relu",)),
    ],
)
def test_bounds_become_one_node(body, wanted):
    assert bounds(becomes(classifier(body, **numbers_in(body)), "clip")) == wanted


@pytest.mark.parametrize(
    "body",
    [
        "b = Relu(a)",
        "b = Clip(a, minus, six)",
        "b = Max(a, x)",
        "b = Max(a, a, a)",
        "c = Relu(a) d = Min(c, x) e = Min(c, c) b = Add(d, e)",
        "c = Clip(a, six, minus) b = Relu(c)",
        "i = Cast<to = 7>(a) j = Max(i, i) b = Cast<to = 1>(j)",
    ],
    ids=["Relu", "Clip", "a value", "three", "more readers", "empty range", "integers"],
)
def test_what_is_no_row_of_bounds_stays(body):
    stays(classifier(body, **numbers_in(body)), "clip")


def test_attribute_form_is_clip_with_bounds_as_inputs():
    made = becomes(classifier("c = Clip<min = -0.5, max = 6.0>(a) b = Relu(c)", opset=10), "clip")
    assert bounds(made) == ("Clip", 0.0, 6.0)


@pytest.mark.parametrize("low, high", [([-0.5], [6.0]), ([-0.5], 6.0)])
def test_bounds_that_are_tensors_of_one_number_become_scalars(low, high):
    given = classifier("b = Clip(a, low, high)", low=np.array(low, np.float32), high=np.array(high, np.float32))
    made = becomes(given, "clip")
    assert bounds(made) == ("Clip", -0.5, 6.0)
    (node,) = (node for node in made.graph.node if node.op_type == "Clip")
    assert all(list(tensor.dims) == [] for tensor in made.graph.initializer if tensor.name in node.input[1:])
