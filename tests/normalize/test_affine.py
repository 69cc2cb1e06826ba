import numpy as np
import pytest
from folds import folded, net, sequence
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_distill.normalize import normalize

IN_FRONT = {
    "Mul": ("a = Conv(x, w) y = Mul(a, channels)", None, ["Conv"]),
    "Mul by one number": ("a = Conv(x, w, b) y = Mul(one, a)", None, ["Conv"]),
    "Div": ("a = Conv(x, w, b) y = Div(a, channels)", None, ["Conv"]),
    "Add": ("a = Conv(x, w, b) y = Add(channels, a)", None, ["Conv"]),
    "Sub": ("a = Conv(x, w) y = Sub(a, channels)", None, ["Conv"]),
    "c - x": ("a = Conv(x, w, b) y = Sub(channels, a)", None, ["Conv"]),
    "Mul and Add": ("a = Conv(x, w) c = Mul(a, channels) y = Add(c, channels)", None, ["Conv"]),
    "ConvTranspose": ("a = ConvTranspose(x, transposed) y = Mul(a, channels)", "float[n,4,h,w] x", ["ConvTranspose"]),
    "Gemm": ("a = Gemm(x, rows) c = Mul(a, row) y = Add(c, vector)", "float[n,4] x", ["Gemm"]),
    "MatMul of rank 3": ("a = MatMul(x, rows) c = Add(a, vector) y = Mul(c, vector)", "float[n,3,4] x", ["MatMul", "Add"]),
    "MatMul and Mul": ("a = MatMul(x, rows) y = Mul(a, one)", "float[n,3,4] x", ["MatMul"]),
    "across a Transpose": (
        "t = Transpose<perm = [0, 2, 3, 1]>(x) m = MatMul(t, rows) a = Add(m, b) s = Transpose<perm = [0, 3, 1, 2]>(a) y = Mul(s, channels)",
        None,
        ["Transpose", "MatMul", "Add", "Transpose"],
    ),
}


@pytest.mark.parametrize("body, image, wanted", IN_FRONT.values(), ids=IN_FRONT)
def test_arithmetic_goes_into_the_layer_in_front(body, image, wanted):
    assert sequence(folded(net(body, *([image] if image else [])))) == wanted


BEHIND = {
    "Mul": ("a = Mul(x, channels4) y = Conv<pads = [1, 1, 1, 1]>(a, w)", ["Conv"]),
    "Add": ("a = Add(x, channels4) y = Conv(a, w)", ["Conv"]),
    "Sub and Div": ("a = Sub(x, one) c = Div(a, channels4) y = Conv(c, w, b)", ["Conv"]),
    "the Div alone": ("a = Sub(x, channels4) c = Div(a, channels4) y = Conv<pads = [1, 1, 1, 1]>(c, w)", ["Add", "Conv"]),
}


@pytest.mark.parametrize("body, wanted", BEHIND.values(), ids=BEHIND)
def test_arithmetic_goes_into_the_layer_behind(body, wanted):
    assert sequence(folded(net(body))) == wanted


@pytest.mark.parametrize(
    "body",
    [
        "a = Div(x, big) y = Conv(a, w)",
        "a = Sub(x, mean) b2 = Div(a, big) y = Conv(b2, w)",
        "a = Add(x, big) y = Conv(a, w)",
    ],
    ids=["/ 255", "(x - 120) / 255", "+ 255"],
)
def test_raw_pixels_are_not_handed_to_the_weights(body):
    """Exact, but a step of SGD that suited the weights would be far too long."""
    made = folded(net(body, big=np.float32(255), mean=np.float32(120)))
    assert sequence(made)[-1] == "Conv" and len(made.graph.node) > 1


def test_what_is_left_is_mul_and_add():
    """Which have integer kernels; Div and Sub have none."""
    assert sequence(folded(net("a = Relu(x) c = Div(a, channels4) y = Relu(c)"))) == ["Relu", "Mul", "Relu"]
    assert sequence(folded(net("a = Relu(x) c = Sub(a, channels4) y = Relu(c)"))) == ["Relu", "Add", "Relu"]
    assert sequence(folded(net("a = Relu(x) c = Mul(a, one) d = Div(c, channels4) y = Relu(d)"))) == ["Relu", "Mul", "Relu"]


def test_what_changes_nothing_goes():
    values = dict(zero=np.float32(0), none=np.float32(1))
    assert sequence(folded(net("a = Relu(x) c = Add(a, zero) d = Mul(c, none) y = Neg(d)", **values))) == ["Relu", "Neg"]


def test_a_factor_for_all_stays_one_number():
    """A vector would be trained, one number is not."""
    made = folded(net("f = Relu(x) a = Sub(f, channels4) c = Div(a, sixty) y = Relu(c)", sixty=np.float32(60)))
    (factor,) = [t for t in made.graph.initializer if t.name == made.graph.node[1].input[1]]
    assert sequence(made) == ["Relu", "Mul", "Add", "Relu"] and list(factor.dims) == []


STAYS = {
    "two axes": ("a = Conv(x, w) y = Mul(a, plane)", "y"),
    "rows of an image": ("a = Conv<pads = [1, 1, 1, 1]>(x, w) y = Mul(a, vector)", "y"),
    "more than there is": ("a = ReduceMean<axes = [1]>(x) y = Mul(a, channels)", "y"),
    "another axis": ("a = Relu(x) y = Mul(a, deep)", "y"),
    "c / x": ("a = Exp(x) y = Div(channels4, a)", "y"),
    "an output in between": ("a = Conv(x, w) y = Mul(a, channels)", "y, a"),
    "read elsewhere": ("a = Conv(x, w) c = Mul(a, channels) y = Add(a, c)", "y"),
    "two values": ("a = Conv(x, w) c = Relu(a) y = Mul(a, c)", "y"),
    "a bias of MatMul": ("t = Transpose<perm = [0, 2, 3, 1]>(x) a = MatMul(t, rows) y = Add(a, vector)", "y"),
    "a bias in front of MatMul": ("t = Transpose<perm = [0, 2, 3, 1]>(x) a = Add(t, vector4) y = MatMul(a, rows)", "y"),
    "infinite": ("a = Conv(x, w) y = Mul(a, huge)", "y"),
}


@pytest.mark.parametrize("body, outputs", STAYS.values(), ids=STAYS)
def test_arithmetic_stays_where_it_is(body, outputs):
    values = dict(
        deep=np.ones((1, 1, 1, 1, 2), np.float32), huge=np.full((6, 1, 1), np.inf, np.float32), plane=np.ones((4, 4), "f")
    )
    model = net(body, outputs=outputs, **values)
    made, done = normalize(model)
    assert "affine" not in {rewrite.rule for rewrite in done}
    assert sequence(made) == sequence(model)


def test_whole_numbers_stay():
    model = net("s = Shape(x) t = Mul(s, two) f = Cast<to = 1>(t) y = ReduceSum(f)", "float[n,4,h,w] x", two=np.array([2]))
    assert "Mul" in sequence(normalize(model)[0])


def test_numbers_too_large_for_a_weight_stay():
    made, _ = normalize(
        net("a = Conv(x, w) y = Mul(a, huge)", huge=np.float32(3e38), w=np.full((6, 4, 3, 3), 3e5, np.float32))
    )
    assert sequence(made) == ["Conv", "Mul"]


# ---- graphs made by Hypothesis

NODES = {  # what follows a value of 4 or 6 channels, and how many it makes
    4: [
        ("Conv(%s, w, b)", 6),
        ("Conv<pads = [1, 1, 1, 1]>(%s, w)", 6),
        ("Conv<group = 2, pads = [1, 1, 1, 1]>(%s, grouped)", 6),
        ("Mul(%s, channels4)", 4),
        ("Add(channels4, %s)", 4),
        ("Div(%s, one)", 4),
        ("Sub(one, %s)", 4),
        ("BatchNormalization(%s, gain4, offset4, mean4, variance4)", 4),
        ("Relu(%s)", 4),
    ],
    6: [
        ("Conv<pads = [1, 1, 1, 1], group = 6>(%s, depthwise, b)", 6),
        ("Conv<pads = [0, 0, 1, 1]>(%s, narrow)", 4),
        ("Mul(channels, %s)", 6),
        ("Add(%s, channels)", 6),
        ("Div(%s, channels)", 6),
        ("Sub(%s, one)", 6),
        ("BatchNormalization(%s, gain, offset, mean, variance)", 6),
        ("Pad(%s, pads)", 6),
        ("Tanh(%s)", 6),
        ("Identity(%s)", 6),
    ],
}


@st.composite
def graphs(draw):
    """A tree of layers, arithmetic and normalizations that share weights; some values are outputs too."""
    channels, body = {"x": 4}, []
    for number in range(draw(st.integers(2, 9))):
        source = draw(st.sampled_from(sorted(channels)[-2:]))
        node, made = draw(st.sampled_from(NODES[channels[source]]))
        body.append(f"v{number} = {node % source}")
        channels[f"v{number}"] = made
    last = f"v{len(body) - 1}"
    ends = draw(st.lists(st.sampled_from([name for name in channels if name != "x"]), max_size=2))
    narrow = np.random.default_rng(5).standard_normal((4, 6, 2, 2)).astype(np.float32) / 5
    return net(" ".join(body), "float[n,4,8,8] x", ", ".join(dict.fromkeys([last, *ends])), narrow=narrow, pads=np.array([0, 0, 1, 0, 0, 0, 0, 1]))  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(graphs())
def test_folding_keeps_the_outputs_of_any_graph(model):
    made = folded(model)
    assert not {"BatchNormalization", "Div", "Identity"} & set(sequence(made)) - {"Identity"}
    assert len(made.graph.node) <= len(model.graph.node) + sequence(model).count("BatchNormalization")
