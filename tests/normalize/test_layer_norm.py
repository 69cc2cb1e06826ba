import numpy as np
import pytest
from classifier import becomes, classifier, stays
from equal import operators

from onnx_distill.lookup import attribute

NUMBERS = {"eps": np.float32(1e-3), "two": np.float32(2), "root": np.float32(0.5), "inverse": np.float32(-0.5)}
MEAN = "m = ReduceMean<axes = [-1]>(a) d = Sub(a, m) "
VARIANCE = "v = ReduceMean<axes = [-1]>(q) u = Add(v, eps) "
NORMALIZED = MEAN + "q = Mul(d, d) " + VARIANCE + "s = Sqrt(u) n = Div(d, s) "
FORMS = {
    "Pow and Sqrt": MEAN + "q = Pow(d, two) " + VARIANCE + "s = Sqrt(u) n = Div(d, s) g = Mul(n, scale) b = Add(g, bias)",
    "Mul and Sqrt": NORMALIZED + "g = Mul(scale, n) b = Add(bias, g)",
    "Pow for the root": MEAN + "q = Mul(d, d) " + VARIANCE + "s = Pow(u, root) n = Div(d, s) g = Mul(n, scale) b = Add(g, bias)",
    "inverse root": MEAN + "q = Mul(d, d) " + VARIANCE + "s = Pow(u, inverse) n = Mul(d, s) g = Mul(n, scale) b = Add(g, bias)",
    "Reciprocal": MEAN + "q = Mul(d, d) " + VARIANCE + "s = Sqrt(u) r = Reciprocal(s) n = Mul(r, d) g = Mul(n, scale) b = Add(g, bias)",
    "subtracted twice": MEAN + "e = Sub(a, m) q = Mul(e, e) " + VARIANCE + "s = Sqrt(u) n = Div(d, s) g = Mul(n, scale) b = Add(g, bias)",
    "without bias": NORMALIZED + "b = Mul(n, scale)",
    "bare": NORMALIZED + "b = Identity(n)",
}  # fmt: skip


def model_of(body: str, opset: int = 17, **weights):
    words = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    given = {**NUMBERS, "scale": (8,), "bias": (8,), **weights}
    return classifier(body, opset=opset, **{name: value for name, value in given.items() if name in words})


@pytest.mark.parametrize("body", FORMS.values(), ids=FORMS)
def test_layer_normalization_written_out_is_one_operator(body):
    made = becomes(model_of(body), "layer_norm")
    (node,) = [node for node in made.graph.node if node.op_type == "LayerNormalization"]
    assert attribute(node, "epsilon") == pytest.approx(1e-3) and attribute(node, "axis") == -1
    assert not {"ReduceMean", "Sqrt", "Pow", "Div"} & operators(made)


def test_parameters_keep_their_names():
    made = becomes(model_of(FORMS["Mul and Sqrt"]), "layer_norm")
    (node,) = [node for node in made.graph.node if node.op_type == "LayerNormalization"]
    assert list(node.input[1:]) == ["scale", "bias"]


def test_two_axes_and_axes_as_inputs():
    body = NORMALIZED.replace("<axes = [-1]>(a)", "(a, axes)").replace("<axes = [-1]>(q)", "(q, axes)")
    model = model_of(
        body + "g = Mul(n, scale) b = Add(g, bias)", 18, axes=np.array([2, -1]), scale=(8, 8), bias=(1, 1, 8, 8)
    )
    (node,) = [n for n in becomes(model, "layer_norm").graph.node if n.op_type == "LayerNormalization"]
    assert attribute(node, "axis") == -2


@pytest.mark.parametrize(
    "body, weights",
    [
        (NORMALIZED.replace("[-1]", "[1]") + "g = Mul(n, scale) b = Add(g, bias)", {"scale": (4, 1, 1), "bias": (4, 1, 1)}),
        (NORMALIZED.replace("Sub(a, m)", "Sub(m, a)") + "b = Mul(n, scale)", {}),
        (NORMALIZED.replace("[-1]>(q)", "[-2]>(q)") + "b = Mul(n, scale)", {}),
        (NORMALIZED.replace("Mul(d, d)", "Mul(d, a)") + "b = Mul(n, scale)", {}),
        (NORMALIZED.replace("Sub(a, m)", "Sub(x, m)") + "b = Mul(n, scale)", {}),
    ],
    ids=["over channels", "the other way round", "over two different axes", "no square", "another mean"],
)
def test_other_quotients_stay(body, weights):
    stays(model_of(body, **weights), "layer_norm")


@pytest.mark.parametrize("scale", [(4, 1, 1), (4, 8, 8), (1,)])
def test_scales_of_other_shapes_stay_behind_it(scale):
    made = becomes(model_of(NORMALIZED + "h = Mul(n, scale) b = Tanh(h)", scale=scale), "layer_norm")
    assert "Mul" in operators(made)


def test_what_is_read_in_between_stays_readable():
    made = becomes(model_of(NORMALIZED + "g = Mul(n, scale) b = Add(g, n)"), "layer_norm")
    assert {"LayerNormalization", "Add"} <= operators(made)
