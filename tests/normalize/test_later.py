import numpy as np
import pytest
from classifier import becomes, classifier, stays
from equal import operators

from onnx_distill.lookup import attribute, opset

NUMBERS = {
    "root": np.float32(np.sqrt(2)), "inverse": np.float32(1 / np.sqrt(2)), "half": np.float32(0.5), "one": np.float32(1),
    "cube": np.float32(0.044715), "pi": np.float32(np.sqrt(2 / np.pi)), "two": np.float32(2), "exponent": np.float32(3),
}  # fmt: skip
ERF = "d = Div(a, root) e = Erf(d) s = Add(e, one) "
TANH = "q = Pow(a, exponent) r = Mul(cube, q) u = Add(a, r) v = Mul(pi, u) t = Tanh(v) s = Add(one, t) "
FORMS = {
    "torch": (ERF + "m = Mul(a, s) b = Mul(m, half)", "none"),
    "half of x first": (ERF + "h = Mul(half, a) b = Mul(h, s)", "none"),
    "half of the rest": (ERF + "h = Mul(s, half) b = Mul(h, a)", "none"),
    "divided by two": (ERF + "m = Mul(s, a) b = Div(m, two)", "none"),
    "Mul by the inverse": ("d = Mul(inverse, a) e = Erf(d) s = Add(one, e) m = Mul(a, s) b = Mul(half, m)", "none"),
    "half in both": ("d = Div(a, root) e = Erf(d) f = Mul(e, half) s = Add(f, half) b = Mul(a, s)", "none"),
    "tanh": (TANH + "m = Mul(a, s) b = Mul(m, half)", "tanh"),
    "tanh, half of x": (TANH + "h = Mul(a, half) b = Mul(h, s)", "tanh"),
    "tanh, by products": (
        "p = Mul(a, a) q = Mul(cube, p) r = Add(one, q) k = Mul(a, pi) v = Mul(k, r) t = Tanh(v) s = Add(t, one) h = Mul(half, a) b = Mul(h, s)",
        "tanh",
    ),
}  # fmt: skip


def model_of(body: str, opset: int = 17):
    words = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    return classifier(body, opset=opset, **{name: value for name, value in NUMBERS.items() if name in words})


@pytest.mark.parametrize("body, approximate", FORMS.values(), ids=FORMS)
def test_gelu_written_out_is_one_operator(body, approximate):
    made = becomes(model_of(body), "later")
    (node,) = [node for node in made.graph.node if node.op_type == "Gelu"]
    assert opset(made) == 20 and attribute(node, "approximate") == approximate.encode()
    assert not {"Erf", "Tanh"} & operators(made)


@pytest.mark.parametrize("opset_before", [13, 20, 21])
def test_the_opset_rises_only_where_it_must(opset_before):
    assert opset(becomes(model_of(FORMS["torch"][0], opset_before), "later")) == max(20, opset_before)


@pytest.mark.parametrize("softplus", ["Softplus(a)", "Log(f)"], ids=["by Softplus", "by Log"])
@pytest.mark.parametrize("product", ["Mul(a, t)", "Mul(t, a)"])
def test_mish_written_out_is_one_operator(softplus, product):
    before = "e = Exp(a) f = Add(e, one) " if "Log" in softplus else ""
    made = becomes(model_of(f"{before}s = {softplus} t = Tanh(s) b = {product}"), "later")
    assert "Mish" in operators(made) and opset(made) == 18


@pytest.mark.parametrize(
    "body",
    [
        "d = Div(a, root) e = Erf(d) s = Add(e, one) b = Mul(x, s)",
        "d = Div(a, two) e = Erf(d) s = Add(e, one) m = Mul(a, s) b = Mul(m, half)",
        "d = Div(a, root) e = Erf(d) s = Add(e, half) m = Mul(a, s) b = Mul(m, half)",
        ERF + "b = Mul(a, s)",
        "s = Softplus(x) t = Tanh(s) b = Mul(a, t)",
        "s = Softplus(a) t = Sigmoid(s) b = Mul(a, t)",
    ],
    ids=["of another value", "another width", "another offset", "not halved", "mish of another value", "no tanh"],
)
def test_others_stay_and_so_does_the_opset(body):
    stays(model_of(body), "later")
