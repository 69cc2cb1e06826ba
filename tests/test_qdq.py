"""qdq.py: a quantizer read back is the one written, and its nodes compute what numerics.py says."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import simulated
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper, parser

from onnx_distill import numerics, qdq
from onnx_distill.errors import InputError
from onnx_distill.numerics import IntegerRange, activation_range, weight_range
from onnx_distill.qdq import Quantizer

RANGES = {
    "uint8": activation_range(8),
    "4 bits": activation_range(4),
    "2 bits": activation_range(2),
    "int8": activation_range(8, symmetric=True),
    "int8 from 0": activation_range(8, symmetric=True, nonnegative=True),
    "3 bits from 0": activation_range(3, symmetric=True, nonnegative=True),
    "weights": weight_range(8),
    "4-bit weights": weight_range(4),
    "all of int8": IntegerRange(-128, 127, "int8"),
}
every_range = pytest.mark.parametrize("integers", RANGES.values(), ids=RANGES)
CASES = {"per tensor": (None, ()), "axis 0": (0, (4,)), "axis 1": (1, (3,)), "last axis": (2, (5,))}
every_axis = pytest.mark.parametrize(("axis", "shape"), CASES.values(), ids=CASES)


def graph_of(q: Quantizer, scale, zero_point, opset: int = 17, weights: np.ndarray | None = None) -> onnx.ModelProto:
    """x [4, 3, 5] -> the quantizer -> y."""
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4, 3, 5]) for name in ("x", q.result))
    bounds = [] if q.integers.fills_container else qdq.bounds(q.integers)
    tensors = {q.scale: np.asarray(scale, np.float32), q.zero_point: np.asarray(zero_point, q.integers.dtype)}
    tensors = {**tensors, **({q.source: weights} if weights is not None else {})}
    initializers = [numpy_helper.from_array(values, name) for name, values in tensors.items()]
    graph = helper.make_graph(qdq.nodes(q), "g", [] if weights is not None else [x], [y], [*initializers, *bounds])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


@every_range
@every_axis
@pytest.mark.parametrize("opset", [13, 17, 21])
def test_find_reads_back_what_nodes_wrote(integers, axis, shape, opset):
    q = Quantizer("x", "y", "step", "origin", integers, axis)
    assert qdq.find(graph_of(q, np.full(shape, 0.1), np.full(shape, integers.qmax // 2), opset)) == [q]


@every_range
@every_axis
def test_the_chain_equals_fake_quantize_exactly(integers, axis, shape):
    rng = np.random.default_rng(0)
    scale = np.float32(rng.uniform(0.01, 0.3, shape))
    zero_point = rng.integers(integers.qmin, integers.qmax, shape, endpoint=True) * (integers.dtype == "uint8")
    x = (20 * rng.standard_normal((4, 3, 5))).astype(np.float32)
    ties = (np.arange(60, dtype=np.float32).reshape(4, 3, 5) - 29.5) * numerics.broadcastable(scale, 3, axis)
    x = np.where(rng.random(x.shape) < 0.5, x, ties)
    found = simulated(graph_of(Quantizer("x", "y", "s", "z", integers, axis), scale, zero_point), x)[0]
    wide = [numerics.broadcastable(scale, 3, axis), zero_point.reshape(numerics.broadcastable(scale, 3, axis).shape)]
    assert np.array_equal(found, numerics.fake_quantize(x, *wide, integers.qmin, integers.qmax))


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 8), st.booleans(), st.booleans(), st.floats(-40, 0), st.floats(0, 40))
def test_the_chain_equals_fake_quantize_for_calibrated_ranges(bits, symmetric, nonnegative, low, high):
    integers = activation_range(bits, symmetric, nonnegative)
    scale, zero_point = numerics.range_scale(low, high, integers, symmetric)
    x = np.random.default_rng(0).uniform(2 * low - 1, 2 * high + 1, (4, 3, 5)).astype(np.float32)
    found = simulated(graph_of(Quantizer("x", "y", "s", "z", integers), scale, zero_point), x)[0]
    assert np.array_equal(found, numerics.fake_quantize(x, scale, zero_point, integers.qmin, integers.qmax))


def test_values_far_outside_the_range_are_clipped_not_wrapped():
    x = np.float32([[-1e30, -1e9, -300], [300, 1e9, 1e30]]).repeat(10).reshape(4, 3, 5)
    integers = activation_range(4)
    found = simulated(graph_of(Quantizer("x", "y", "s", "z", integers), 0.5, 3), x)[0]
    assert np.array_equal(found, np.where(x < 0, np.float32(-1.5), np.float32(6)))


def test_a_quantizer_of_one_channel_is_read_as_per_tensor():
    q = Quantizer("x", "y", "s", "z", weight_range(4), 1)
    assert qdq.find(graph_of(q, [0.1], [0]))[0] == Quantizer("x", "y", "s", "z", weight_range(4), None)


def test_only_a_range_narrower_than_its_container_needs_a_clip():
    kinds = {name: [n.op_type for n in qdq.nodes(Quantizer("x", "y", "s", "z", i))] for name, i in RANGES.items()}
    assert kinds.pop("uint8") == kinds.pop("all of int8") == ["QuantizeLinear", "DequantizeLinear"]
    assert all(kind == ["QuantizeLinear", "Clip", "DequantizeLinear"] for kind in kinds.values())


def test_bounds_are_scalars_of_the_containers_type_under_the_names_that_clip_reads():
    found = {t.name: numpy_helper.to_array(t) for t in qdq.bounds(weight_range(4))}
    assert {name: (int(v), v.dtype, v.shape) for name, v in found.items()} == {
        "int8/-7": (-7, np.int8, ()),
        "int8/7": (7, np.int8, ()),
    }
    assert tuple(found) == qdq.bound_names(weight_range(4))


OTHERS = """<ir_version: 8, opset_import: ["": 17]> g (float[N,3] x) => (float[N,2] y)
<float s = {0.5}, float[2] ws = {0.5, 0.25}, uint8 z = {7}, int8[2] wz = {0, 0}, int8[2,3] w = {1,2,3,4,5,6}, int32[2] b = {10, 20}> {
    xq = QuantizeLinear(x, s, z)
    first = DequantizeLinear(xq, s, z)
    second = DequantizeLinear(xq, s, z)
    wd = DequantizeLinear<axis = -2>(w, ws, wz)
    bd = DequantizeLinear<axis = 0>(b, ws)
    y = Gemm<transB = 1>(first, wd, bd)
    n = QuantizeLinear(second, s)
    o = DequantizeLinear(n, s)
}"""


def test_models_of_other_tools_are_read_too():
    found = {q.result: q for q in qdq.find(parser.parse_model(OTHERS))}
    assert found["first"] == Quantizer("x", "first", "s", "z", activation_range(8))
    assert found["second"].source == "x"  # one DequantizeLinear for each reader
    assert found["wd"] == Quantizer("w", "wd", "ws", "wz", RANGES["all of int8"], 0, stored=True)  # axis from the end
    assert found["o"] == Quantizer("second", "o", "s", "", activation_range(8))  # no zero point: uint8 and 0
    assert "bd" not in found  # int32: a bias


def test_an_axis_counted_from_the_end_is_read_as_the_same_axis():
    q = Quantizer("w", "y", "s", "z", weight_range(8), -1)
    model = graph_of(q, np.full(5, 0.1), np.zeros(5), weights=np.ones((4, 3, 5), np.float32))
    assert qdq.find(model)[0].axis == 2


def test_integers_of_another_width_are_named():
    wide = OTHERS.replace("uint8 z", "uint16 z").replace(": 17]", ": 21]")
    with pytest.raises(InputError, match="quantizer of 'x' has uint16; wanted constant uint8 or int8"):
        qdq.find(parser.parse_model(wide))
    computed = OTHERS.replace("xq = ", "z2 = Identity(z) xq = ").replace("(x, s, z)", "(x, s, z2)")
    with pytest.raises(InputError, match="quantizer of 'x' has a zero point that is no initializer"):
        qdq.find(parser.parse_model(computed))


def test_is_quantized_tells_float_models_from_quantized_ones():
    assert qdq.is_quantized(parser.parse_model(OTHERS))
    assert not qdq.is_quantized(
        parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float x) => (float y) { y = Relu(x) }')
    )
