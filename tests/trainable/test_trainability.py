"""trainability.py: what is refused, what is not; and the runtime's own behaviour, in processes of their own, behind the tables."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper, parser

from onnx_distill.errors import InputError
from onnx_distill.gradients import ONLY_WHERE, RULES
from onnx_distill.trainable.trainability import (
    CASES,
    CONSTANT_OUTPUT,
    EXACT,
    FAKE_QUANTIZED,
    OBSTACLES,
    find_obstacles,
    graph_of,
    refuse,
    settings,
    why_not_trainable,
)


def make_net(nodes: str, opset: int = 18, inputs: str = "float[2, 3, 4, 4] x", initializers: str = "") -> onnx.ModelProto:
    """The given nodes from x to y; weights for a convolution of 3 channels, in 1 and 2 dimensions, at hand."""
    zeros = ", ".join(["0"] * 9)
    model = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]>
        net ({inputs}) => (float[M] y)
        <float[3, 3, 1, 1] w2 = {{{zeros}}}, float[3, 1, 3] w1 = {{{zeros}}}, int64[1] one = {{1}}, int64[1] back = {{-1}},
        int64[8] around = {{0, 0, 1, 1, 0, 0, 1, 1}}, float scalar = {{2}}, int64 whole = {{2}}, float gain = {{2}} {initializers}> {{ {nodes} }}"""
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def complaints(nodes: str, logits: str | None = None, parameters=None, **kwargs) -> list[tuple[str, str]]:
    found = find_obstacles(make_net(nodes, **kwargs), logits, parameters)
    return [(obstacle.op, obstacle.reason) for obstacle in found]


LIVE = "h = Mul(x, gain) "  # from here on values depend on what is trained
FREE = "float[N, 3, 4, 4] x"
BAD = {
    "conv, auto_pad": ("y = Conv<auto_pad = \"SAME_UPPER\">(h, w2)", "Conv", "wrong gradient with auto_pad SAME_UPPER"),
    "conv 1D with groups": ("y = Conv<group = 3>(h, w1)", "Conv", "kills the process in 1D with groups"),
    "average pool of any size": ("s = Shape(h) r = Reshape(h, s) y = AveragePool<kernel_shape = [2, 2]>(r)", "AveragePool", "reads an image of free size"),
    "clip by what is trained": ("m = ReduceMean<keepdims = 0>(h) y = Clip(h, m)", "Clip", "a bound depends on what is trained"),
    "max pool by columns": ("y, i = MaxPool<kernel_shape = [2, 2], storage_order = 1>(h)", "MaxPool", "storage_order 1"),
    "leaky relu, falling": ("y = LeakyRelu<alpha = -0.5>(h)", "LeakyRelu", "alpha is negative"),
    "vector in a product": ("v = Reshape(h, back) y = MatMul(v, v)", "MatMul", "an operand is a vector"),
    "pad with axes": ("y = Pad(h, around, , one)", "Pad", "error with an axes input"),
    "pad by reflection": ('y = Pad<mode = "reflect">(h, around)', "Pad", "no gradient in mode reflect"),
    "slice backwards": ("y = Slice(h, one, back, one, back)", "Slice", "error with a negative step"),
    "split, an output unused": ("y, unused = Split<num_outputs = 2>(h)", "Split", "wrong gradient when an output is unused"),
    "split, an output left out": ("y, , z = Split<num_outputs = 3>(h)", "Split", "kills the process where an output is left out"),
    "computed exponent": ("y = Pow(h, h)", "Pow", "gradient for the base only"),
    "whole exponent": ("y = Pow(h, whole)", "Pow", "the exponent is an integer"),
    "power that widens": ("m = ReduceMean(h) k = ConstantOfShape(around) y = Pow(m, k)", "Pow", "the base broadcasts"),
    "dropout with a ratio": ("y = Dropout(h, scalar)", "Dropout", "with a ratio among its inputs"),
    "transpose without perm": ("y = Transpose(h)", "Transpose", "error without perm"),
    "maximum of any shape": ("s = NonZero(x) r = Reshape(h, s) y = ReduceMax(r)", "ReduceMax", "no shape is known"),
    "an operator nobody knows": ("y = Mystery(h)", "Mystery", "not among the operators known to train"),
    "another domain": ("y = com.microsoft.BiasGelu(h, w1)", "com.microsoft::BiasGelu", "not among the operators known"),
}  # fmt: skip
GOOD = {
    "conv, no padding": "y = Conv(h, w2)",
    "conv, auto_pad that pads nothing": 'y = Conv<auto_pad = "VALID">(h, w2)',
    "conv with pads": 'y = Conv<auto_pad = "NOTSET", pads = [1, 1, 1, 1]>(h, w2)',
    "conv 1D without groups": "y = Conv<kernel_shape = [3]>(h, w1)",
    "pad": "y = Pad(h, around)",
    "slice forwards": "y = Slice(h, one, one, one, one)",
    "split": "a, b = Split<num_outputs = 2>(h) y = Concat<axis = 0>(a, b)",
    "power of a constant": "y = Pow(h, scalar)",
    "layer norm": "y = LayerNormalization(h, gain)",
    "choice that widens": "c = Greater(x, scalar) y = Where(c, h, scalar)",
    "average pool of any batch": "y = AveragePool<kernel_shape = [2, 2], dilations = [2, 2]>(h)",
    "activations with a rule": "a = Elu(h) b = Selu(a) c = Softplus(b) d = HardSwish(c) e = PRelu(d, gain) y = Sign(e)",
    "clip": "y = Clip(h, , scalar)",
    "gelu of the runtime": "y = com.microsoft.Gelu(h)",
    "transpose": "y = Transpose<perm = [0, 2, 3, 1]>(h)",
    "shape arithmetic": "s = Shape(h) n = Mod(s, one) y = Reshape(h, n)",
    "a mask from a comparison": "c = Greater(h, scalar) f = Cast<to = 1>(c) y = Mul(h, f)",
    "what stands before all parameters": "a = Tan(x) b = AveragePool<kernel_shape = [2, 2]>(a) y = Mul(b, gain)",
}


@pytest.mark.parametrize("nodes, op, reason", BAD.values(), ids=BAD.keys())
def test_case_without_a_right_gradient_is_told(nodes, op, reason):
    ((found, why),) = complaints(LIVE + nodes, inputs=FREE)
    assert found == op and reason in why


@pytest.mark.parametrize("nodes", GOOD.values(), ids=GOOD.keys())
def test_case_with_an_exact_gradient_is_no_obstacle(nodes):
    assert complaints(LIVE + nodes) == []


def test_batch_normalization_is_an_obstacle_even_where_no_gradient_passes():
    ((op, why),) = complaints("a = BatchNormalization(x, one, one, one, one) y = Mul(a, scalar)")
    assert op == "BatchNormalization" and "batch statistics" in why


@pytest.mark.parametrize(
    "nodes, opset, op",
    [
        ("y = Clip<min = 0.0, max = 6.0>(h)", 10, "Clip"),
        ("y = Clip(h, , scalar)", 11, "Clip"),
        ("y = Pad<pads = [0, 0, 1, 1, 0, 0, 1, 1]>(h)", 10, "Pad"),
        ("y = Slice<starts = [0], ends = [1], axes = [1]>(h)", 9, "Slice"),
        ("y = ReduceL2<axes = [1], keepdims = 0>(h)", 13, "ReduceL2"),
    ],
)
def test_forms_of_old_opsets_are_obstacles(nodes, opset, op):
    ((found, why),) = complaints(LIVE + nodes, opset=opset)
    assert found == op and "opset" in why


@pytest.mark.parametrize("op", sorted(OBSTACLES))
def test_operator_in_the_table_of_obstacles_is_told_with_its_reason(op):
    assert onnx.defs.has(op) or op == "Swish"
    assert why_not_trainable(helper.make_node(op, ["x"], ["y"]), graph_of(make_net("y = Relu(x)"))) == OBSTACLES[op]


def test_no_operator_is_in_two_tables():
    assert not EXACT & OBSTACLES.keys() and not EXACT & CONSTANT_OUTPUT and not CONSTANT_OUTPUT & OBSTACLES.keys()
    assert not set(RULES) & (OBSTACLES.keys() | CONSTANT_OUTPUT) and set(RULES) & EXACT == set(ONLY_WHERE)
    assert set(CASES) <= EXACT and not FAKE_QUANTIZED & (EXACT | OBSTACLES.keys())


def test_constant_nodes_are_looked_up_like_initializers():
    nodes = LIVE + "steps = Constant<value = int64[1] {-1}>() y = Slice(h, one, back, one, steps)"
    assert complaints(nodes) == [("Slice", "error with a negative step")]


def test_settings_are_what_no_node_computes_with():
    model = make_net("c = Clip(x, , scalar) p = Pow(c, w1) g = Greater(p, w2) f = Cast<to = 1>(g) y = Mul(f, w1)")
    assert settings(model) == {"scalar", "w2", "p"}


# --- refusing


def test_what_can_be_trained_is_not_refused():
    refuse(make_net("y = Conv(x, w2)"), ["w2"])


def test_refusal_names_operator_node_and_what_to_do():
    with pytest.raises(
        InputError, match="Sum 'H' cannot be trained: no gradient; the same as a chain of Add.*--logits.* 1 more node"
    ):
        refuse(make_net("h = Conv(x, w2) [H] a = Sum(h, h) y = Sum(a, a)"), ["w2"])


@pytest.mark.parametrize(
    "cut, op",
    [("a = ArgMax(h) y = Cast<to = 1>(a)", "ArgMax"), ("a = Cast<to = 6>(h) y = Cast<to = 1>(a)", "Cast"),
     ("s = Shape(h) y = Cast<to = 1>(s)", "Shape")],
    ids=["ArgMax", "Cast to integers", "Shape"],
)  # fmt: skip
def test_parameter_cut_off_from_the_logits_is_refused_by_the_operator_that_cuts_it(cut, op):
    with pytest.raises(InputError, match=f"parameter 'w2' .* no gradient from the logits reaches it, only by way of {op}"):
        refuse(make_net(f"h = Conv(x, w2) {cut}"), ["w2"])


def test_parameter_that_nothing_reads_is_refused():
    with pytest.raises(InputError, match="parameter 'w1' cannot be trained: no gradient from the logits reaches it. Cut"):
        refuse(make_net("y = Conv(x, w2)"), ["w2", "w1"])
