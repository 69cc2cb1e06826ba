import numpy as np
import pytest
from classifier import becomes, classifier, stays
from equal import operators

from onnx_distill.lookup import attribute

NUMBERS = {
    "three": np.float32(3), "zero": np.float32(0), "six": np.float32(6), "one": np.float32(1), "half": np.float32([0.5]),
    "sixth": np.float32(1 / 6), "fifth": np.float32(0.2), "tenth": np.float32(0.1),
}  # fmt: skip
GATE = "p = Add(a, three) c = Clip(p, zero, six) "
SWISHES = {
    "torch": GATE + "m = Mul(a, c) b = Div(m, six)",
    "gate divided": GATE + "g = Div(c, six) b = Mul(a, g)",
    "gate times a sixth, first": GATE + "g = Mul(sixth, c) b = Mul(g, a)",
    "x divided": GATE + "g = Div(a, six) b = Mul(c, g)",
    "all times a sixth": GATE + "m = Mul(c, a) b = Mul(sixth, m)",
    "clip of a sixth": "s = Mul(a, sixth) p = Add(half, s) c = Clip(p, zero, one) b = Mul(a, c)",
    "min and max": "p = Add(three, a) r = Relu(p) c = Min(r, six) m = Mul(a, c) b = Div(m, six)",
    "HardSigmoid": "g = HardSigmoid<alpha = 0.1666667>(a) b = Mul(a, g)",
    "channels scaled before": "y = Mul(a, fifth) p = Add(y, three) c = Clip(p, zero, six) m = Mul(y, c) b = Div(m, six)",
}
SIGMOIDS = {
    "gate alone": (GATE + "b = Div(c, six)", 1 / 6),
    "Keras": ("s = Mul(a, fifth) p = Add(s, half) b = Clip(p, zero, one)", 0.2),
}


def model_of(body: str, **more):
    return classifier(
        body,
        **{
            name: value
            for name, value in NUMBERS.items()
            if name in body.replace(",", " ").split(" ") or f"({name}" in body or f"{name})" in body
        },
        **more,
    )


@pytest.mark.parametrize("body", SWISHES.values(), ids=SWISHES)
def test_hard_swish_written_out_is_one_operator(body):
    made = becomes(model_of(body), "hard_swish")
    assert "HardSwish" in operators(made) and not {"Clip", "HardSigmoid", "Div"} & operators(made)


@pytest.mark.parametrize("body, alpha", SIGMOIDS.values(), ids=SIGMOIDS)
def test_hard_sigmoid_written_out_is_one_operator(body, alpha):
    made = becomes(model_of(body), "hard_swish")
    (node,) = [node for node in made.graph.node if node.op_type == "HardSigmoid"]
    assert attribute(node, "alpha") == pytest.approx(alpha) and attribute(node, "beta") == 0.5


@pytest.mark.parametrize(
    "body",
    [
        "b = Clip(a, zero, one)",
        "p = Mul(a, fifth) b = Clip(p, zero, one)",
        "p = Add(a, tenth) b = Clip(p, zero, one)",
        "p = Add(a, three) m = ReduceMin<keepdims = 0>(x) c = Clip(p, m, six) b = Div(c, six)",
        "g = HardSigmoid<alpha = 0.2>(a) b = Mul(a, g)",
        "g = HardSigmoid<alpha = 0.1666667>(x) b = Mul(a, g)",
        GATE + "b = Mul(a, c)",
    ],
    ids=["Clip", "no offset", "brighter", "computed bound", "another slope", "of another value", "not divided"],
)
def test_others_stay(body):
    stays(model_of(body), "hard_swish")


def test_both_outputs_of_squeeze_and_excite_are_kept():
    made = becomes(model_of(GATE + "g = Div(c, six) h = Mul(g, x) b = Add(h, c)"), "hard_swish")
    assert {"HardSigmoid", "Clip"} <= operators(made)
