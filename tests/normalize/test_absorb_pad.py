import numpy as np
import pytest
from classifier import becomes, classifier, stays
from equal import operators

PADS = np.array([0, 0, 1, 0, 0, 0, 2, 1])
ZERO, LOWEST = np.float32(0), np.finfo(np.float32).min


@pytest.mark.parametrize(
    "body, values",
    [
        ("p = Pad(a, pads) b = Conv(p, w2)", {}),
        ("p = Pad(a, pads, zero) b = Conv<pads = [1, 1, 0, 0], strides = [2, 2]>(p, w2)", {"zero": ZERO}),
        ('p = Pad(a, pads) b = Conv<auto_pad = "VALID">(p, w2)', {}),
        ("p = Pad(a, pads, low) b = MaxPool<kernel_shape = [3, 3]>(p)", {"low": LOWEST}),
        ("r = Relu(a) p = Pad(r, pads) b = MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(p)", {}),
        ("r = Clip(a, zero) p = Pad(r, pads) b = MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(p)", {"zero": ZERO}),
        (
            "p = Pad(a, pads) c = Conv(p, w2) d = Conv<pads = [1, 1, 1, 1]>(p, w2) f = Flatten(c) g = Flatten(d) b = Concat<axis = 1>(f, g)",
            {},
        ),
    ],
    ids=["conv", "conv with pads", "conv VALID", "max of the lowest", "max behind Relu", "max behind Clip", "two readers"],
)
def test_pads_are_absorbed(body, values):
    assert "Pad" not in operators(becomes(classifier(body, w2=(4, 4, 3, 3), pads=PADS, **values), "absorb_pad"))


def test_pads_of_opset_18_are_absorbed():
    model = classifier(
        "p = Pad(a, pads, , axes) b = Conv(p, w2)",
        opset=18,
        w2=(4, 4, 3, 3),
        pads=np.ones(4, np.int64),
        axes=np.array([-2, 3]),
    )
    assert "Pad" not in operators(becomes(model, "absorb_pad"))


@pytest.mark.parametrize("counted", [0, 1])
def test_pads_of_averages_are_absorbed_and_counted(counted):
    body = f"p = Pad(a, pads) b = AveragePool<kernel_shape = [3, 3], count_include_pad = {counted}>(p)"
    assert "Pad" not in operators(becomes(classifier(body, pads=PADS), "absorb_pad", trains=False))


@pytest.mark.parametrize(
    "body",
    [
        "p = Pad(a, pads, one) b = Conv(p, w2)",
        "p = Pad(a, channel) b = Conv(p, w3)",
        "p = Pad(a, crop) b = Conv(p, w2)",
        'p = Pad<mode = "reflect">(a, crop) b = Conv(p, w2)',
        "p = Pad(a, pads) b = MaxPool<kernel_shape = [3, 3]>(p)",
        "r = Relu(a) p = Pad(r, pads) b = MaxPool<kernel_shape = [2, 2]>(p)",
        "p = Pad(a, pads) b = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(p)",
        "p = Pad(a, pads, one) b = AveragePool<kernel_shape = [3, 3]>(p)",
        "p = Pad(a, pads) b = AveragePool<kernel_shape = [3, 3], strides = [3, 3], ceil_mode = 1, count_include_pad = 1>(p)",
        'p = Pad(a, pads) b = Conv<auto_pad = "SAME_UPPER">(p, w2)',
    ],
    ids=lambda body: body[:60],
)
def test_it_does_not_fire(body):
    weights = {"w2": np.ones((4, 4, 3, 3), "f"), "w3": np.ones((4, 5, 3, 3), "f"), "one": np.float32(1), "pads": PADS}
    channel, crop = np.array([0, 1, 0, 0, 0, 0, 0, 0]), np.array([0, 0, 1, 1, 0, 0, -1, 0])
    image = "float[n,4,h,w] x" if "SAME" in body else "float[n,4,8,8] x"
    stays(classifier(body, image, head=False, channel=channel, crop=crop, **weights), "absorb_pad")
