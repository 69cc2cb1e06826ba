"""Masks made from integers: which values pass their gradient is what numerics says, and where it fires nothing changes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from test_lower import BATCH, batch, everything

import onnx_distill.lower as lowering
from onnx_distill import numerics, runtime
from onnx_distill.config import QuantizeConfig
from onnx_distill.lower.integer_masks import lower_integer_masks
from onnx_distill.numerics import activation_range

VALUES = 400
SCALE = np.float32(0.37)


def masked_quantizer(
    qmin: int, qmax: int, zero_point, kind: str = "uint8", extra: str = "", outputs: str = ""
) -> onnx.ModelProto:
    """x, dy -> y, the quantized x, and dx = dy where x rounds to an integer of the range; as masks.py leaves it."""
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": 21, "com.microsoft": 1]>
    g (float[2,{VALUES}] x, float[2,{VALUES}] dy) => (float[2,{VALUES}] y, float[2,{VALUES}] dx{outputs}) <float one = {{1}}> {{
        q = QuantizeLinear(x, s, z)  c = Clip(q, qmin, qmax)  y = DequantizeLinear(c, s, z)
        least = Mul(s, low)  most = Mul(s, high)  above = GreaterOrEqual(x, least)  below = LessOrEqual(x, most)
        inside = And(above, below)  byte = Cast<to = 2>(inside)  dx = DequantizeLinear<axis = 0, block_size = 1>(byte, dy)  {extra}
    }}""")
    bounds = numerics.rounds_into(qmin - np.int32(zero_point).max(), qmax - np.int32(zero_point).max())
    integers = {"z": zero_point, "qmin": qmin, "qmax": qmax}
    tensors = {"s": SCALE, "low": bounds[0], "high": bounds[1], **{n: np.array(v, kind) for n, v in integers.items()}}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), n) for n, v in tensors.items())
    return model


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def made_from_integers(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that apply such masks: they have zero points of their own for every value."""
    return [node for node in graph.node if node.op_type == "DequantizeLinear" and "integers" in node.name]


@pytest.mark.parametrize("bits", range(2, 8))
@pytest.mark.parametrize("where", [0, 0.3, 1], ids=["zero is the least", "zero lies inside", "zero is the largest"])
def test_gradients_pass_where_numerics_rounds_into_the_range(bits, where):
    integers, rng = activation_range(bits), np.random.default_rng(bits)
    zero_point = round(where * integers.qmax)
    made = lower_integer_masks(masked_quantizer(integers.qmin, integers.qmax, zero_point))
    assert "GreaterOrEqual" not in operators(made) and len(made_from_integers(made.graph)) == 1
    low, high = integers.qmin - zero_point, integers.qmax - zero_point
    x = rng.uniform(low - 3, high + 3, (2, VALUES)).astype(np.float32) * SCALE
    x[0, :6] = (np.array([low, high, low - 0.499, high + 0.499, low - 0.501, high + 0.501]) * SCALE).astype(np.float32)
    x[1, :6] = 1e30, -1e30, np.inf, -np.inf, 0.0, -0.0
    dy = rng.normal(size=x.shape).astype(np.float32)
    y, dx = runtime.open_session(made, threads=1, optimized=False).run(None, {"x": x, "dy": dy})
    rounded = np.rint(x / SCALE)
    assert np.array_equal(dx, dy * ((low <= rounded) & (rounded <= high)))
    assert np.array_equal(y, numerics.fake_quantize(x, SCALE, zero_point, integers.qmin, integers.qmax))


@pytest.mark.parametrize("learn_steps", ["none", "all"])
@pytest.mark.parametrize("bits", [2, 4, 7])
def test_a_step_gives_the_same_to_the_bit(bits, learn_steps, tiny_student, make_step, training_graph, monkeypatch):
    student, given = tiny_student(QuantizeConfig(weight_bits=4, activation_bits=bits)), batch((4, 4), channels=1)
    found = everything(make_step(student, learn_steps=learn_steps, batch_size=BATCH), given)
    assert (
        len(made_from_integers(training_graph(student, learn_steps, batch_size=BATCH))) == 2
    )  # a1 and c2; the edges have 8 bits
    monkeypatch.setattr(lowering, "lower_integer_masks", lambda training: training)
    wanted = everything(make_step(student, learn_steps=learn_steps, batch_size=BATCH), given)
    assert not made_from_integers(training_graph(student, learn_steps, batch_size=BATCH))
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_eight_bits_leave_no_code_free(tiny_student, training_graph):
    student = tiny_student(QuantizeConfig(weight_bits=4, activation_bits=8))
    assert not made_from_integers(training_graph(student, "all", batch_size=BATCH))


def without_one_pass() -> onnx.ModelProto:
    model = masked_quantizer(0, 15, 3)
    model.graph.node[-1].CopyFrom(onnx.helper.make_node("Where", ["inside", "dy", "one"], ["dx"]))
    return model


LEFT_ALONE = {
    "a range that leaves one code": masked_quantizer(0, 254, 3),
    "a zero point that would leave the type": masked_quantizer(3, 15, 0),
    "int8": masked_quantizer(-7, 7, 0, "int8"),
    "zero points of channels": masked_quantizer(0, 15, [3, 3], "uint8"),
    "a mask that something else reads": masked_quantizer(0, 15, 3, extra="m = Not(inside)", outputs=f", bool[2,{VALUES}] m"),
    "integers that something else reads": masked_quantizer(
        0, 15, 3, extra="m = Cast<to = 1>(q)", outputs=f", float[2,{VALUES}] m"
    ),
    "floats that something else reads": masked_quantizer(0, 15, 3, extra="m = Neg(x)", outputs=f", float[2,{VALUES}] m"),
    "a mask that is not applied in one pass": without_one_pass(),
}


@pytest.mark.parametrize("model", list(LEFT_ALONE.values()), ids=list(LEFT_ALONE))
def test_others_are_left_alone(model):
    made = lower_integer_masks(model)
    assert "GreaterOrEqual" in operators(made) and not made_from_integers(made.graph)


def test_a_range_that_leaves_two_codes_is_enough():
    assert len(made_from_integers(lower_integer_masks(masked_quantizer(0, 253, 3)).graph)) == 1
