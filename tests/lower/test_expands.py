"""Nothing is spread for operators that broadcast: equal to the bit, and left alone where something else reads it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from test_dense import net
from test_lower import BATCH, batch, everything

import onnx_distill.lower as lowering
from onnx_distill import runtime
from onnx_distill.lower.expands import lower_expands

POOLED = net("y = Conv(image, w)", {"w": (4, 2, 1, 1), "head": (4, 3)}, (5, 3))


def spread(body: str, outputs: str = "float[2,3,4] y") -> onnx.ModelProto:
    return onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]>
    g (float[2,3,4] x, float[2,3,1] a) => ({outputs}) {{ size = Shape(x)  b = Expand(a, size)  {body} }}""")


SHAPES = {"x": [2, 3, 4], "a": [2, 3, 1]}


@pytest.mark.parametrize("operator", ["Mul", "Sub", "Add", "Div"])
def test_operators_that_broadcast_read_the_narrow_value(operator):
    model = spread(f"y = {operator}(b, x)")
    made, rng = lower_expands(model, SHAPES), np.random.default_rng(0)
    assert [node.op_type for node in made.graph.node] == [operator]
    given = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    found, wanted = (runtime.open_session(m, threads=1).run(None, given)[0] for m in (made, model))
    assert np.array_equal(found, wanted)


LEFT_ALONE = {
    "another operator reads it": (spread("y = Mul(b, x)  z = Softmax(b)", "float[2,3,4] y, float[2,3,4] z"), SHAPES),
    "it is an output": (spread("y = Mul(b, x)", "float[2,3,4] y, float[2,3,4] b"), SHAPES),
    "the other operand is narrow too": (spread("y = Mul(b, a)"), SHAPES),
    "it meets itself": (spread("y = Mul(b, b)"), SHAPES),
    "shapes are not known": (spread("y = Mul(b, x)"), {}),
}


@pytest.mark.parametrize("model, shapes", list(LEFT_ALONE.values()), ids=list(LEFT_ALONE))
def test_others_are_left_alone(model, shapes):
    assert lower_expands(model, shapes) is model


def test_the_gradient_of_a_global_pool_is_not_spread(make_step, training_graph, monkeypatch):
    given = batch((5, 3))
    found = everything(make_step(POOLED, batch_size=BATCH), given)
    assert not spread_like_curved(training_graph(POOLED, batch_size=BATCH))
    monkeypatch.setattr(lowering, "lower_expands", lambda training, shapes: training)
    assert spread_like_curved(training_graph(POOLED, batch_size=BATCH))
    wanted = everything(make_step(POOLED, batch_size=BATCH), given)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def spread_like_curved(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Expand nodes to the shape of what is pooled."""
    shapes = {node.output[0] for node in graph.node if node.op_type == "Shape" and node.input[0] == "curved"}
    return [node for node in graph.node if node.op_type == "Expand" and node.input[1] in shapes]
