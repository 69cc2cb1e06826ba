import numpy as np
import pytest
from classifier import becomes, classifier, stays
from equal import operators, outputs


@pytest.mark.parametrize("addition", ["Add(e, one)", "Add(one, e)"])
def test_log_of_one_plus_exp_is_softplus(addition):
    made = becomes(classifier(f"e = Exp(a) s = {addition} b = Log(s)", one=np.float32(1)), "softplus")
    assert "Softplus" in operators(made) and not {"Log", "Exp"} & operators(made)


def test_softplus_does_not_overflow():
    model = classifier(
        "h = Mul(a, much) e = Exp(h) s = Add(e, one) b = Log(s)", one=np.float32(1), much=np.float32(100), head=False
    )
    made = becomes_unchecked(model)
    assert np.isfinite(outputs(made, {"x": np.full((1, 4, 8, 8), 9, np.float32)})[0]).all()


def becomes_unchecked(model):
    from onnx_distill.normalize import normalize

    return normalize(model)[0]


@pytest.mark.parametrize(
    "body", ["e = Exp(a) s = Add(e, two) b = Log(s)", "e = Exp(a) s = Sub(two, e) t = Abs(s) u = Add(t, two) b = Log(u)"]
)
def test_other_logarithms_stay(body):
    stays(classifier(body, two=np.float32(2)), "softplus")
