import numpy as np
import onnx
import pytest
from equal import same_outputs
from folds import NORM, NORM4, folded, images, net, sequence

from onnx_distill.normalize import normalize

IN_FRONT = {
    "Conv": ("a = Conv(x, w, b)", None, ["Conv"]),
    "Conv without bias": ("a = Conv<pads = [1, 1, 1, 1]>(x, w)", None, ["Conv"]),
    "Conv in groups": ("a = Conv<group = 2>(x, grouped)", None, ["Conv"]),
    "Conv 1D": ("a = Conv(x, line)", "float[n,4,9] x", ["Conv"]),
    "Conv and Identity": ("i = Conv(x, w) a = Identity(i)", None, ["Conv"]),
    "Conv and Dropout": ("i = Conv(x, w) a = Dropout(i)", None, ["Conv"]),
    "ConvTranspose": ("a = ConvTranspose(x, transposed, b)", "float[n,4,h,w] x", ["ConvTranspose"]),
    "ConvTranspose in groups": (
        "a = ConvTranspose<group = 2>(x, transposed_grouped)",
        "float[n,4,h,w] x",
        ["ConvTranspose"],
    ),
    "Gemm": ("a = Gemm(x, rows, b)", "float[n,4] x", ["Gemm"]),
    "Gemm, transB": ("a = Gemm<transB = 1>(x, columns)", "float[n,4] x", ["Gemm"]),
    "Gemm with factors": ("a = Gemm<alpha = 0.5, beta = 2.0>(x, rows, b)", "float[n,4] x", ["Gemm"]),
    "MatMul": ("a = MatMul(x, rows)", "float[n,4] x", ["Gemm"]),
    "MatMul and Add": ("m = MatMul(x, rows) a = Add(m, b)", "float[n,4] x", ["Gemm"]),
    "Add and MatMul": ("m = MatMul(x, rows) a = Add(row, m)", "float[n,4] x", ["Gemm"]),
}


@pytest.mark.parametrize("body, image, wanted", IN_FRONT.values(), ids=IN_FRONT)
def test_it_goes_into_the_layer_in_front(body, image, wanted):
    model = net(f"{body} y = {NORM.format('a')}", *([image] if image else []))
    assert sequence(folded(model)) == wanted


BEHIND = {
    "Conv": ("y = Conv(a, w, b)", None, ["Conv"]),
    "Conv without bias": ("y = Conv(a, w)", None, ["Conv"]),
    "Conv in groups": ("y = Conv<group = 2>(a, grouped)", None, ["Conv"]),
    "Gemm": ("y = Gemm(a, rows)", "float[n,4] x", ["Gemm"]),
    "Gemm, transB": ("y = Gemm<transB = 1>(a, columns, b)", "float[n,4] x", ["Gemm"]),
    "MatMul and Add": ("m = MatMul(a, rows) y = Add(m, b)", "float[n,4] x", ["Gemm"]),
    "Pad and Conv": ("p = Pad<mode = \"edge\">(a, pads) y = Conv(p, w)", None, ["Gather", "Gather", "Conv"]),
}  # fmt: skip


@pytest.mark.parametrize("body, image, wanted", BEHIND.values(), ids=BEHIND)
def test_it_goes_into_the_layer_behind(body, image, wanted):
    model = net(f"a = {NORM4.format('x')} {body}", *([image] if image else []), pads=np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    assert sequence(folded(model)) == wanted


def without_shift() -> dict[str, np.ndarray]:
    return {name: np.zeros(4, np.float32) for name in ("offset4", "mean4")}


@pytest.mark.parametrize(
    "body",
    [
        "y = Conv<pads = [1, 1, 1, 1]>(a, w)",
        'y = Conv<auto_pad = "SAME_UPPER">(a, w)',
        "p = Pad(a, pads) y = Conv(p, w)",
        "y = ConvTranspose(a, transposed, b)",
    ],
    ids=["own pads", "auto_pad", "Pad", "ConvTranspose"],
)
def test_in_front_of_zeros_it_goes_into_the_layer_where_it_shifts_nothing(body):
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    image = "float[n,4,h,w] x" if "ConvTranspose" in body else "float[n,4,6,6] x"
    assert sequence(folded(net(f"a = {NORM4.format('x')} {body}", image, pads=pads, **without_shift()))) in (
        ["Conv"],
        ["ConvTranspose"],
    )
    assert sequence(folded(net(f"a = {NORM4.format('x')} {body}", image, pads=pads)))[:2] == ["Mul", "Add"]


@pytest.mark.parametrize("value, stays", [(0.0, True), (1.5, True)])
def test_behind_a_pad_of_one_number_it_becomes_that_of_each_channel(value, stays):
    """Where each channel would be padded with a number of its own, the BatchNormalization stays behind the Pad."""
    body = f"a = Conv(x, w) p = Pad(a, pads, value) y = {NORM.format('p')}"
    given = dict(pads=np.array([0, 0, 1, 1, 0, 0, 1, 1]), value=np.float32(value))
    assert sequence(folded(net(body, **given))) == ["Conv", "Pad", "Mul", "Add"]
    alike = {
        name: np.full(6, content, np.float32)
        for name, content in (("gain", 2), ("offset", 1), ("mean", 0.5), ("variance", 1))
    }
    assert sequence(folded(net(body, **given, **alike))) == ["Conv", "Pad"]


def test_it_goes_across_a_transpose():
    body = f"t = Transpose<perm = [0, 2, 3, 1]>(x) a = MatMul(t, rows) s = Transpose<perm = [0, 3, 1, 2]>(a) y = {NORM.format('s')}"
    assert sequence(folded(net(body))) == ["Transpose", "MatMul", "Add", "Transpose"]
    body = f"a = {NORM4.format('x')} t = Transpose<perm = [0, 2, 3, 1]>(a) y = MatMul(t, rows)"
    assert sequence(folded(net(body))) == ["Transpose", "MatMul", "Add"]


def test_with_what_follows_it_is_one_factor_and_one_shift():
    body = f"a = Relu(x) c = {NORM4.format('a')} d = Mul(c, channels4) e = Add(d, channels4) y = Relu(e)"
    assert sequence(folded(net(body))) == ["Relu", "Mul", "Add", "Relu"]


@pytest.mark.parametrize(
    "body, outputs, wanted",
    [
        (f"a = Conv(x, w) y = {NORM.format('a')}", "y, a", ["Conv", "Mul", "Add"]),
        (f"a = Conv(x, w) c = {NORM.format('a')} r = Relu(a) y = Add(c, r)", "y", ["Conv", "Relu", "Mul", "Add", "Add"]),
        (f"a = {NORM4.format('x')} y = Conv(a, w)", "y, a", ["Mul", "Add", "Conv"]),
        (f"a = {NORM4.format('x')} c = Conv(a, w) d = Conv(a, w) y = Add(c, d)", "y", ["Mul", "Add", "Conv", "Conv", "Add"]),
        (f"k = ReduceMean(x) e = Mul(w, k) a = Conv(x, e) y = {NORM.format('a')}", "y", None),
    ],
    ids=["an output in between", "read elsewhere", "its result is an output", "two layers", "a weight that is computed"],
)
def test_where_it_cannot_go_into_a_layer_it_is_mul_and_add(body, outputs, wanted):
    made = folded(net(body, outputs=outputs))
    if wanted is not None:
        assert sorted(sequence(made)) == sorted(wanted)
    assert {"Mul", "Add"} <= set(sequence(made)) and "BatchNormalization" not in sequence(made)


def test_a_weight_that_others_read_gets_a_name_of_its_own():
    model = net(f"a = Conv(x, w, b) c = {NORM.format('a')} d = Conv(x, w, b) y = Add(c, d)")
    made = folded(model)
    assert sequence(made) == ["Conv", "Conv", "Add"]
    before, after = ({t.name: t for t in m.graph.initializer} for m in (model, made))
    assert before["w"] == after["w"] and before["b"] == after["b"]
    assert made.graph.node[0].input[1:] != ["w", "b"] and made.graph.node[1].input[1:] == ["w", "b"]


@pytest.mark.parametrize(
    "normalization",
    ["y, o1, o2 = BatchNormalization<training_mode = 1>(a, gain, offset, mean, variance)",
     "k = ReduceMean<axes = [0, 2, 3], keepdims = 0>(a) y = BatchNormalization(a, gain, offset, k, variance)"],
    ids=["training mode", "computed statistics"],
)  # fmt: skip
def test_it_stays_in(normalization):
    model = net(f"a = Conv(x, w) {normalization}")
    made, done = normalize(model)
    assert "BatchNormalization" in sequence(made) and "batch_norm" not in {rewrite.rule for rewrite in done}
    same_outputs(model, made, images(model))


def test_statistics_that_give_no_number_stay():
    model = net(f"a = Conv(x, w) y = {NORM.format('a')}", variance=np.full(6, -1, np.float32))
    assert "BatchNormalization" in sequence(normalize(model)[0])


def test_channels_that_gain_nothing_are_shut_off():
    given = dict(gain=np.float32([0, 1, 1, 1, 1, 1]), gain4=np.float32([0, 1, 1, 1]))
    assert sequence(folded(net(f"a = Conv(x, w) y = {NORM.format('a')}", **given))) == ["Conv"]
    assert sequence(folded(net(f"a = {NORM4.format('x')} y = Conv(a, w)", **given))) == ["Conv"]


def test_results_keep_their_names_and_contents():
    """A value that keeps its name keeps what is in it: those who cut by name cut where they did."""
    made, _ = normalize(net(f"a = Conv(x, w) n = {NORM.format('a')} y = Relu(n)"))
    assert [list(node.output) for node in made.graph.node] == [["n"], ["y"]]


def test_old_models_too():
    """Opset 8 and attributes of its time."""
    body = "a = Conv(x, w) y = BatchNormalization<momentum = 0.9, spatial = 1>(a, gain, offset, mean, variance)"
    model = net(body, opset=8)
    model.ir_version = 4
    made, _ = normalize(model)
    assert sequence(made) == ["Conv"]
    onnx.checker.check_model(made, full_check=True)
    same_outputs(model, made, images(model))
