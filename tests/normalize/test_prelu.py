import numpy as np
import pytest
from classifier import becomes, classifier, stays
from equal import operators

FORMS = {
    "minus slope * Relu(-x)": "r = Relu(a) n = Neg(a) m = Relu(n) s = Mul(slope, m) b = Sub(r, s)",
    "Keras": "r = Relu(a) n = Neg(a) m = Relu(n) g = Neg(m) s = Mul(g, slope) b = Add(s, r)",
    "Keras, folded": "r = Relu(a) n = Neg(a) m = Relu(n) s = Mul(m, slope) b = Add(r, s)",
    "by minus one": "r = Relu(a) n = Mul(a, minus) m = Relu(n) s = Mul(slope, m) b = Sub(r, s)",
    "x - |x|": "r = Relu(a) z = Abs(a) d = Sub(a, z) s = Mul(slope, d) h = Mul(s, half) b = Add(r, h)",
    "half first": "r = Relu(a) z = Abs(a) d = Sub(a, z) h = Mul(d, half) s = Mul(slope, h) b = Add(r, s)",
}
NUMBERS = {"minus": np.float32(-1), "half": np.float32(0.5)}


def model_of(body: str, slope=(4, 1, 1)):
    return classifier(body, slope=slope, **{name: value for name, value in NUMBERS.items() if name in body})


@pytest.mark.parametrize("body", FORMS.values(), ids=FORMS)
def test_prelu_written_out_is_one_operator(body):
    made = becomes(model_of(body), "prelu")
    assert "PRelu" in operators(made) and not {"Relu", "Abs"} & operators(made)


@pytest.mark.parametrize("body", FORMS.values(), ids=FORMS)
def test_one_slope_for_all_is_leaky_relu(body):
    made = becomes(model_of(body, np.float32([-0.3 if body == FORMS["Keras, folded"] else 0.3])), "prelu")
    assert "LeakyRelu" in operators(made) and not {"Relu", "Abs"} & operators(made)


@pytest.mark.parametrize(
    "body, slope",
    [
        ("r = Relu(a) n = Neg(x) m = Relu(n) s = Mul(slope, m) b = Sub(r, s)", (4, 1, 1)),
        ("r = Relu(a) n = Neg(a) m = Relu(n) t = Tanh(slope) u = Mul(t, r) s = Mul(u, m) b = Sub(r, s)", (4, 1, 1)),
        (FORMS["Keras"], (1, 1, 4, 1, 1)),
        ("r = Relu(a) n = Neg(a) m = Relu(n) s = Mul(slope, m) b = Sub(s, r)", (4, 1, 1)),
    ],
    ids=["of another value", "computed slope", "a slope that widens", "the other way round"],
)
def test_other_sums_stay(body, slope):
    stays(model_of(body, slope), "prelu")
