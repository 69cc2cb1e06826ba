"""integer_form: each rewrite fires where its docstring says and nowhere else, and the outputs stay equal."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import CONV, FEATURES, IMAGES, net, random_images, relative_error, simulated, student_of

from onnx_distill import qdq
from onnx_distill.evaluate import with_output
from onnx_distill.integer_form import integer_form
from onnx_distill.lookup import array, initializers, producers

VECTOR = np.float32([1, -2, 0.5, 3])
GATED = "h = HardSwish(a) y = Conv(h, w2, b2)"
FIRES = {  # nodes, operators afterwards
    "HardSwish": (CONV + GATED, "Conv Clip Add Clip Mul Conv"),
    "HardSwish behind a Conv without bias": ("a = Conv(x, w) " + GATED, "Conv Clip Add Clip Mul Conv"),
    "HardSwish behind a Gemm": ("r = Flatten(x) g = Gemm(r, big, b2) y = HardSwish(g)", "Reshape Gemm Clip Add Clip Mul"),
    "HardSigmoid": (CONV + "y = HardSigmoid<alpha = 0.3, beta = 0.6>(a)", "Conv Clip"),
    "HardSigmoid behind a Conv without bias": ("a = Conv(x, w) y = HardSigmoid(a)", "Conv Clip"),
    "a gate in parts": (
        CONV + "s = Add(a, half) g = Clip(s, zero, six) m = Mul(g, a) y = Conv(m, w2, b2)",
        "Conv Clip Add Clip Mul Conv",
    ),
    "Mul by channel": (CONV + "y = Mul(a, gain)", "Conv Conv"),
    "Mul by channel from the left": (CONV + "y = Mul(three, a)", "Conv Conv"),
    "Mul and Add by channel": (CONV + "m = Mul(a, gain) s = Add(three, m) y = Relu(s)", "Conv Conv Relu"),
    "Mul by channel, and Add of another form": (CONV + "m = Mul(a, gain) y = Add(m, rows_of_8)", "Conv Conv Add"),
    "Flatten": (CONV + "y = Flatten(a)", "Conv Reshape"),
    "Relu behind MaxPool": (CONV + "p = MaxPool<kernel_shape = [2, 2]>(a) y = Relu(p)", "Conv Relu MaxPool"),
    "Clip behind layout operators": (
        CONV + "t = Transpose<perm = [0, 2, 3, 1]>(a) u = Unsqueeze(t, axis) y = Clip(u, minus, six)",
        "Conv Clip Transpose Unsqueeze",
    ),
    "chain of bounds": (
        CONV + "p = MaxPool<kernel_shape = [2, 2]>(a) r = Relu(p) y = Clip(r, , six)",
        "Conv Relu Clip MaxPool",
    ),
}
STAYS = {
    "a gate that is no gate: it opens above 0": CONV
    + "s = Add(a, minus) g = Clip(s, zero, six) m = Mul(a, g) y = Conv(m, w2, b2)",
    "a gate that lets some of everything through": CONV
    + "s = Add(a, half) g = Clip(s, half, six) m = Mul(a, g) y = Conv(m, w2, b2)",
    "a gate beside another reader": CONV + "s = Add(a, half) g = Clip(s, zero, six) m = Mul(a, g) y = Add(m, a)",
    "a gate of another value": CONV
    + "c = Conv<pads = [1, 1, 1, 1]>(a, w2, b2) s = Add(c, half) g = Clip(s, zero, six) y = Mul(a, g)",
    "HardSwish whose input another node reads": CONV + "h = HardSwish(a) y = Add(a, h)",
    "HardSwish of an image": "y = HardSwish(x)",
    "HardSwish behind computed weights": "k = Abs(w) a = Conv(x, k) y = HardSwish(a)",
    "Mul by a number": CONV + "y = Mul(a, half)",
    "Mul by an activation": CONV + "g = GlobalAveragePool(a) y = Mul(a, g)",
    "Mul by a vector along the last axis": CONV + "y = Mul(a, rows_of_8)",
    "Mul by channel of three axes": CONV + "s = Reshape(a, three_axes) y = Mul(s, gain3)",
    "Mul by channel behind a float operator": CONV + "t = Tanh(a) y = Mul(t, gain)",
    "Flatten at another axis": CONV + "y = Flatten<axis = 2>(a)",
    "Relu behind a Split": CONV + "s, t = Split<axis = 3>(a, halves) u = Relu(s) y = Concat<axis = 3>(u, t)",
    "Relu behind a MaxPool that another node reads": CONV
    + "p = MaxPool<kernel_shape = [2, 2]>(a) r = Relu(p) y = Add(r, p)",
    "Relu behind a MaxPool beside another reader": CONV + "p = MaxPool<kernel_shape = [8, 8]>(a) r = Relu(p) y = Add(r, a)",
    "Clip of a computed bound": CONV
    + "m = ReduceMax<keepdims = 0>(x) p = MaxPool<kernel_shape = [2, 2]>(a) y = Clip(p, , m)",
}
VALUES = {
    "gain": VECTOR.reshape(1, 4, 1, 1), "three": VECTOR[::-1].reshape(4, 1, 1).copy(), "gain3": VECTOR.reshape(1, 4, 1),
    "rows_of_8": np.arange(8, dtype=np.float32), "three_axes": np.int64([0, 4, 64]),
    "big": np.random.default_rng(3).normal(0, 0.3, (192, 4)).astype(np.float32),
}  # fmt: skip


def model_of(body: str, outputs: str | None = None) -> onnx.ModelProto:
    used = {
        name: values
        for name, values in VALUES.items()
        if name in body.replace("(", " ").replace(",", " ").replace(")", " ").split()
    }
    return net(body, outputs or "float y", IMAGES, **used)


def kinds(model: onnx.ModelProto) -> str:
    return " ".join(node.op_type for node in model.graph.node)


@pytest.mark.parametrize(("body", "wanted"), FIRES.values(), ids=FIRES)
def test_it_fires_and_the_outputs_stay(body, wanted):
    model = shaped(model_of(body))
    made, images = integer_form(model), 4 * random_images(model)
    assert kinds(made) == wanted
    np.testing.assert_allclose(simulated(made, images)[0], simulated(model, images)[0], rtol=2e-6, atol=2e-5)
    onnx.checker.check_model(made, full_check=True)


@pytest.mark.parametrize("body", STAYS.values(), ids=STAYS)
def test_it_leaves_alone_what_would_not_gain_or_not_be_equal(body):
    model = shaped(model_of(body))
    assert kinds(integer_form(model)) == kinds(model)


def shaped(model: onnx.ModelProto) -> onnx.ModelProto:
    """The output has the shape that it has."""
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(model)


def test_done_twice_it_is_done_once_and_edits_no_argument():
    model = net(CONV + GATED)
    before = model.SerializeToString(deterministic=True)
    once = integer_form(model)
    assert integer_form(once) == once and model.SerializeToString(deterministic=True) == before


def test_names_of_kept_nodes_and_of_outputs_stay_and_changed_weights_get_new_ones():
    model = net(CONV + GATED)
    made = integer_form(model)
    assert {model.graph.node[0].name, model.graph.node[2].name} <= {node.name for node in made.graph.node}
    assert "h" in {name for node in made.graph.node for name in node.output}
    assert {"w", "b"}.isdisjoint(initializers(made)) and array(initializers(made)["w2"]).any()


@pytest.mark.parametrize("pattern", ["gate", "stem", "g*"])
def test_excluded_nodes_stay_and_so_does_what_would_change_them(pattern):
    model = net("[stem] a = Conv(x, w, b) [gate] h = HardSwish(a) y = Conv(h, w2, b2)")
    assert kinds(integer_form(model, (pattern,))) == "Conv HardSwish Conv"


def test_what_a_gate_closes_is_cut_off_but_where_zero_is_the_middle_of_the_range():
    """Where it is, the Clip could not be absorbed and would keep the layer in floats."""
    model = net(CONV + GATED)
    assert kinds(integer_form(model, symmetric=True)) == "Conv Add Clip Mul Conv"
    made = integer_form(model)
    assert array(initializers(made)[made.graph.node[1].input[1]]) == np.float32(-np.sqrt(1.5))


def test_a_gate_lends_its_range_to_what_it_lets_through():
    """Of values down to -10 those above -sqrt(3/2) have all 255 steps."""
    student = student_of(net(CONV + GATED, b=np.float32([-10, -10, 0, 0])))
    q = next(q for q in qdq.find(student) if q.source.endswith("/scaled"))
    constants = initializers(student)
    assert -float(array(constants[q.scale])) * int(array(constants[q.zero_point])) == pytest.approx(-np.sqrt(1.5), rel=0.01)


def test_no_value_that_a_rewrite_scaled_keeps_the_name_of_the_teachers():
    model = net(CONV + GATED)
    made, images = integer_form(model), random_images(model)
    for name in producers(model).keys() & producers(made).keys():
        ours, theirs = (simulated(with_output(each, name), images)[-1] for each in (made, model))
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6)


def test_a_weight_that_another_layer_reads_keeps_its_values_there():
    model = net(
        "a = Conv<pads = [1, 1, 1, 1]>(x, w, b) c = Conv<pads = [1, 1, 1, 1]>(a, w2, b2) h = HardSwish(c) y = Conv(h, w2, b2)",
        FEATURES,
    )
    images = random_images(model)
    assert relative_error(simulated(integer_form(model), images)[0], simulated(model, images)[0]) < 1e-11
