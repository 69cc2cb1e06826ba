"""placement/: which values are quantized, with how many bits, and what is left alone."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import CONV, FEATURES, ROWS, net
from onnx import parser

from onnx_distill.config import QuantizeConfig
from onnx_distill.errors import InputError
from onnx_distill.numerics import activation_range, weight_range
from onnx_distill.placement import ActivationSite, WeightSite, plan, with_node_names
from onnx_distill.quantize import with_quantizable_opset


def plan_of(body: str, outputs: str = FEATURES, values: dict | None = None, **choices):
    return plan(with_quantizable_opset(net(body, outputs, **(values or {}))), QuantizeConfig(**choices))


def quantized(body: str, outputs: str = FEATURES, **choices) -> tuple[str, ...]:
    """Names of the activations in the plan, sorted."""
    return tuple(sorted(site.value for site in plan_of(body, outputs, **choices).activations))


def limits(sites) -> dict[str, int]:
    return {site.value: site.integers.qmax for site in sites}


# ---- one row of the table after the other

ROWS_OF_THE_TABLE = {
    "Conv": ("y = Conv(x, w, b)", "x y"),
    "Conv without bias": ("y = Conv(x, w)", "x y"),
    "Gemm": (CONV + "r = Flatten(a) y = Gemm(r, f, fb)", "a x y"),
    "MatMul": (CONV + "r = Flatten(a) y = MatMul(r, f)", "a x y"),
    "MatMul of two activations": (CONV + "t = Transpose<perm = [0, 1, 3, 2]>(a) y = MatMul(a, t)", "a x y"),
    "Add": (CONV + "s = Add(a, a) y = Conv(s, w2, b2)", "a s x y"),
    "Mul": (CONV + "s = Mul(a, a) y = Conv(s, w2, b2)", "a s x y"),
    "Concat": (CONV + "s = Concat<axis = 1>(a, x) y = Conv(s, w2, b2)", "a s x y"),
    "Sigmoid": (CONV + "s = Sigmoid(a) y = Conv(s, w2, b2)", "a s x y"),
    "LeakyRelu": (CONV + "s = LeakyRelu(a) y = Conv(s, w2, b2)", "a s x y"),
    "AveragePool": (CONV + "y = AveragePool<kernel_shape = [2, 2]>(a)", "a x y"),
    "GlobalAveragePool": (CONV + "y = GlobalAveragePool(a)", "a x y"),
    "Relu is absorbed": (CONV + "r = Relu(a) y = Conv(r, w2, b2)", "r x y"),
    "Relu6 is absorbed": (CONV + "r = Clip(a, zero, six) y = Conv(r, w2, b2)", "r x y"),
    "Clip from below 0 is absorbed": (CONV + "r = Clip(a, minus, quarter) y = Conv(r, w2, b2)", "r x y"),
    "Clip without a lower bound is absorbed": (CONV + "r = Clip(a, , six) y = Conv(r, w2, b2)", "r x y"),
    "a chain of them is absorbed": (CONV + "r = Relu(a) c = Clip(r, zero, six) y = Conv(c, w2, b2)", "c x y"),
    "Clip from above 0 is not": (CONV + "r = Clip(a, half, six) y = Conv(r, w2, b2)", "a r x y"),
    "Clip of a computed bound is not": (
        CONV + "m = ReduceMax<keepdims = 0>(x) r = Clip(a, zero, m) y = Conv(r, w2, b2)",
        "a r x y",
    ),
    "Sum of an absorbed Relu": (CONV + "s = Add(a, a) r = Relu(s) y = Conv(r, w2, b2)", "a r x y"),
    "Relu whose input another node reads": (
        CONV + "r = Relu(a) c = Conv(r, w2, b2) s = Sigmoid(a) t = Add(c, s) y = Conv(t, w2, b2)",
        "a c r s t x y",
    ),
    "MaxPool passes": (CONV + "p = MaxPool<kernel_shape = [2, 2]>(a) y = Conv(p, w2, b2)", "a x y"),
    "Transpose passes": (CONV + "t = Transpose<perm = [0, 1, 3, 2]>(a) y = Conv(t, w2, b2)", "a x y"),
    "Squeeze and Unsqueeze pass": (CONV + "u = Unsqueeze(a, axis) s = Squeeze(u, axis) y = Conv(s, w2, b2)", "a x y"),
    "Reshape passes": (CONV + "r = Reshape(a, rows) y = Conv(r, w2, b2)", "a x y"),
    "Flatten passes": (CONV + "r = Flatten(a) y = Gemm<transB = 1>(r, ft, fb)", "a x y"),
    "Slice passes": (CONV + "s = Slice(a, front, four, axis) y = Conv(s, w2, b2)", "a x y"),
    "Split passes": (
        CONV + "s, t = Split<axis = 3>(a, halves) c = Conv(s, w2, b2) d = Conv(t, w2, b2) y = Add(c, d)",
        "a c d x",
    ),
    "Gather passes": (CONV + "s = Gather<axis = 2>(a, front) y = Conv(s, w2, b2)", "a x y"),
    "Expand and Tile pass": (CONV + "s = Expand(a, ones) t = Tile(s, ones) y = Conv(t, w2, b2)", "a x y"),
    "DepthToSpace passes": (CONV + "s = DepthToSpace<blocksize = 2>(a) y = Conv(s, w2, b2)", "a x y"),
    "Resize to the nearest passes": (CONV + "s = Resize(a, , doubled) y = Conv(s, w2, b2)", "a x y"),
    "Resize between is a float operator": (
        CONV + 's = Resize<mode = "linear">(a, , doubled) y = Conv(s, w2, b2)',
        "a s x y",
    ),
    "layout of the image": ("t = Transpose<perm = [0, 1, 3, 2]>(x) y = Conv(t, w, b)", "x y"),
    "unknown operator between": (CONV + "s = HardSwish(a) y = Conv(s, w2, b2)", "a s x y"),
    "unknown operator at the end": (CONV + "y = Sigmoid(a)", "a x"),
    "shapes computed in the graph": (
        CONV
        + "s = Shape(a) n = Gather(s, first) u = Unsqueeze(n, front) c = Concat<axis = 0>(u, rest) r = Reshape(a, c) y = Gemm(r, f, fb)",
        "a x y",
    ),
}


@pytest.mark.parametrize(("body", "wanted"), ROWS_OF_THE_TABLE.values(), ids=ROWS_OF_THE_TABLE)
def test_each_value_is_quantized_once_at_its_root(body, wanted):
    assert quantized(body, ROWS if "f" in wanted or "Gemm" in body or "MatMul(r" in body else FEATURES) == tuple(
        wanted.split()
    )


FLOAT = {
    "Gemm with alpha": "r = Flatten(a) y = Gemm<alpha = 0.5>(r, f, fb)",
    "Gemm with beta": "r = Flatten(a) y = Gemm<beta = 2.0>(r, f, fb)",
    "Gemm with transA": "r = Flatten(a) y = Gemm<transA = 1>(r, short, fb)",
    "Gemm of two activations": "r = Flatten(a) y = Gemm<transB = 1>(r, r)",
    "Gemm whose bias is computed": "r = Flatten(a) c = Abs(fb) y = Gemm(r, f, c)",
}


@pytest.mark.parametrize("body", FLOAT.values(), ids=FLOAT)
def test_forms_without_an_integer_kernel_are_left_float(body):
    found = plan_of(CONV + body, "float[N, M] y")
    assert [site.value for site in found.activations] == ["x", "a"] and [site.value for site in found.weights] == ["w"]


def test_a_constant_operand_is_a_site_of_its_own_at_8_bits():
    found = plan_of(CONV + "m = Mul(a, half) s = Add(m, six) y = Conv(s, w2, b2)", activation_bits=4)
    assert found.constants == (ActivationSite("half", activation_range(8)), ActivationSite("six", activation_range(8)))
    assert {"half", "six"}.isdisjoint(site.value for site in found.activations)


def test_the_left_constant_of_a_matmul_is_one_too():
    found = plan_of(CONV + "y = MatMul(left, a)")
    assert [site.value for site in found.constants] == ["left"] and [site.value for site in found.weights] == ["w"]


def test_aliases_name_the_root_through_every_layout_operator():
    body = CONV + "u = Unsqueeze(a, axis) s = Squeeze(u, axis) p = MaxPool<kernel_shape = [2, 2]>(s) y = Conv(p, w2, b2)"
    assert plan_of(body).aliases == {"u": "a", "s": "a", "p": "a"}


def test_a_layout_operator_that_no_integer_operator_reads_needs_no_alias():
    assert plan_of(CONV + "y = Reshape(a, rows)").aliases == {}


def test_absorbed_names_the_chain_from_the_quantizer_upwards():
    site = next(
        s
        for s in plan_of(CONV + "[one] r = Relu(a) [two] c = Clip(r, zero, six) y = Conv(c, w2, b2)").activations
        if s.value == "c"
    )
    assert site.absorbed == ("two", "one")


def test_a_relu_whose_input_is_a_graph_output_leaves_it_a_quantizer():
    both = "float[N, C, H, W] y, float[N, C, H, W] a"
    assert quantized(CONV + "r = Relu(a) y = Conv(r, w2, b2)", both) == ("a", "r", "x", "y")


# ---- integers and axes

AXES = {
    "Conv": (CONV + "y = Conv(a, w2, b2)", "w2", 0),
    "Gemm": (CONV + "r = Flatten(a) y = Gemm(r, f, fb)", "f", 1),
    "Gemm with transB": (CONV + "r = Flatten(a) y = Gemm<transB = 1>(r, ft, fb)", "ft", 0),
    "MatMul": (CONV + "r = Flatten(a) y = MatMul(r, f)", "f", 1),
    "MatMul by a vector": (CONV + "r = Flatten(a) y = MatMul(r, vector)", "vector", None),
    "MatMul of a batch": (CONV + "y = MatMul(a, batched)", "batched", None),
}


@pytest.mark.parametrize(("body", "weight", "axis"), AXES.values(), ids=AXES)
def test_weights_have_one_scale_for_each_output_channel(body, weight, axis):
    outputs = {"f": ROWS, "ft": ROWS, "vector": "float[N] y"}.get(weight, FEATURES)
    assert WeightSite(weight, weight_range(8), axis) in plan_of(body, outputs).weights
    assert WeightSite(weight, weight_range(8), None) in plan_of(body, outputs, per_channel=False).weights


def test_a_weight_that_two_nodes_share_is_one_site_of_the_wider_range():
    found = plan_of(CONV + "c = Conv(a, w2, b2) d = Conv(c, w3, b3) y = Conv(d, w2, b2)", weight_bits=4)
    assert limits(found.weights) == {"w": 127, "w2": 127, "w3": 7}


def test_a_weight_shared_along_two_axes_is_per_tensor():
    body = "r = Flatten(x) s = Gemm(r, square, sb) y = Gemm<transB = 1>(s, square, sb)"
    values = {"square": np.ones((192, 192), np.float32), "sb": np.ones(192, np.float32)}
    assert [site.axis for site in plan_of(body, "float[N, M] y", values).weights] == [None]


def test_symmetric_activations_use_int8_and_its_upper_half_behind_a_relu():
    found = plan_of(CONV + "r = Relu(a) y = Conv(r, w2, b2)", symmetric=True, activation_bits=4, edge_bits=0)
    sites = {s.value: s.integers for s in found.activations}
    assert sites == {
        "x": activation_range(4, True),
        "r": activation_range(4, True, nonnegative=True),
        "y": activation_range(4, True),
    }


def test_a_symmetric_range_absorbs_only_what_starts_at_0():
    assert quantized(CONV + "r = Clip(a, minus, quarter) y = Conv(r, w2, b2)", symmetric=True) == ("a", "r", "x", "y")


# ---- first and last layer

DEEP = "c1 = Conv(x, w, b) r1 = Relu(c1) c2 = Conv(r1, w2, b2) r2 = Relu(c2) c3 = Conv(r2, w3, b3) r3 = Relu(c3) "
HEAD = DEEP + "g = GlobalAveragePool(r3) r = Reshape(g, flat) "


def test_first_and_last_layer_have_their_own_bits():
    found = plan_of(DEEP + "y = Conv(r3, point)", weight_bits=4, activation_bits=4)
    assert limits(found.weights) == {"w": 127, "w2": 7, "w3": 7, "point": 127}
    assert limits(found.activations) == {"x": 255, "r1": 15, "r2": 15, "r3": 255, "y": 255}


def test_the_last_layer_is_found_through_pooling_and_reshape():
    found = plan_of(HEAD + "y = Gemm(r, short, fb)", ROWS, weight_bits=4, activation_bits=4, edge_bits=6)
    assert limits(found.weights) == {"w": 31, "w2": 7, "w3": 7, "short": 31}
    assert limits(found.activations) == {"x": 63, "r1": 15, "r2": 15, "r3": 15, "g": 63, "y": 63}
    assert found.aliases == {"r": "g"}


def test_a_bias_added_behind_the_last_layer_stays_float():
    found = plan_of(HEAD + "m = MatMul(r, short) y = Add(m, fb)", ROWS, weight_bits=4, activation_bits=4)
    assert limits(found.activations) == {"x": 255, "r1": 15, "r2": 15, "r3": 15, "g": 255, "m": 255}


def test_what_is_done_to_the_image_before_the_first_layer_belongs_to_it():
    found = plan_of(
        "m = Mul(x, half) s = Add(m, minus) c = Conv(s, w, b) d = Conv(c, w2, b2) y = Conv(d, w3, b3)",
        activation_bits=4,
        weight_bits=4,
    )
    assert limits(found.activations) == {"s": 255, "c": 15, "d": 255, "y": 255}
    assert limits(found.weights) == {"w": 127, "w2": 7, "w3": 127}


def test_a_path_through_a_shape_makes_no_layer_the_first_or_the_last():
    sized = "c1 = Conv(x, w, b) r1 = Relu(c1) n = Shape(x) r2 = Reshape(r1, n) c2 = Conv(r2, w2, b2) "
    body = sized + "m = Shape(c2) c3 = Conv(c2, w3, b3) r3 = Reshape(c3, m) y = Conv(r3, point)"
    found = plan_of(body, weight_bits=4, activation_bits=4)
    assert limits(found.weights) == {"w": 127, "w2": 7, "w3": 7, "point": 127}


def test_edge_bits_0_treats_all_layers_alike():
    found = plan_of(HEAD + "y = Gemm(r, short, fb)", ROWS, weight_bits=3, activation_bits=5, edge_bits=0)
    assert set(limits(found.weights).values()) == {3} and set(limits(found.activations).values()) == {31}


# ---- exclusion and errors


def test_excluded_nodes_keep_their_weights_and_values_float():
    body = '[stem] c1 = Conv(x, w, b) ["block.1"] c2 = Conv(c1, w2, b2) ["block.2"] c3 = Conv(c2, w3, b3) [head] y = Conv(c3, point)'
    found = plan_of(body, exclude=("block.*", "stem"))
    assert [site.value for site in found.weights] == ["point"] and [site.value for site in found.activations] == ["c3", "y"]


def test_a_pattern_that_matches_nothing_is_named_with_what_is_close():
    with pytest.raises(InputError, match="--exclude 'steam' matches no node; closest: 'stem'.*inspect --layers"):
        plan_of("[stem] y = Conv(x, w, b)", exclude=("steam",))


NOTHING = {
    "no such operator": ("y = Sigmoid(x)", {}),
    "all excluded": ("[stem] y = Conv(x, w, b)", {"exclude": ("*",)}),
    "not float32": ("h = Cast<to = 11>(x) k = Cast<to = 11>(w) c = Conv(h, k) y = Cast<to = 1>(c)", {}),
}


@pytest.mark.parametrize(("body", "choices"), NOTHING.values(), ids=NOTHING)
def test_a_model_with_nothing_to_quantize_is_an_error(body, choices):
    with pytest.raises(InputError, match="nothing to quantize: no Conv, Gemm, MatMul"):
        plan_of(body, **choices)


def test_plan_leaves_the_model_as_it_was():
    model = net(HEAD + "y = Gemm(r, short, fb)", ROWS)
    before = model.SerializeToString()
    plan(model, QuantizeConfig(weight_bits=4))
    assert model.SerializeToString() == before


def test_with_node_names_gives_every_node_a_name_of_its_own_and_keeps_given_ones():
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[1] x) => (float[1] y) { [n] a = Relu(x) [n] b = Abs(a) y = Relu(b) }'
    model = parser.parse_model(text)
    before = model.SerializeToString()
    named = [node.name for node in with_node_names(model).graph.node]
    assert named[0] == "n" and len(set(named)) == 3 and all(named)
    assert model.SerializeToString() == before and with_node_names(with_node_names(model)) == with_node_names(model)


def test_made_up_names_do_not_clash_with_given_ones():
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[1] x) => (float[1] y) { a = Relu(x) b = Abs(a) ["Relu_0"] y = Relu(b) }'
    assert [node.name for node in with_node_names(parser.parse_model(text)).graph.node][2] == "Relu_0"
