"""Masked gradients in one pass: equal to the bit, where rows are long and nothing else reads the mask; the rest stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from test_lower import BATCH, batch, everything

import onnx_distill.lower as lowering
from onnx_distill import runtime
from onnx_distill.lookup import attribute, opset
from onnx_distill.lower.masks import SHORT, lower_masks
from onnx_distill.lower.opset import raised


def masked(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """DequantizeLinear nodes that have a scale for every value."""
    return [node for node in graph.node if node.op_type == "DequantizeLinear" and attribute(node, "block_size", 0) == 1]


def mask_graph(rows: int, mask_outside: bool = False) -> onnx.ModelProto:
    """dx = dy * m of float32 [2, rows], m from bytes; with mask_outside m is an output too."""
    outputs = f"float[2,{rows}] dx" + (f", float[2,{rows}] m" if mask_outside else "")
    more = " seen = Neg(m)" if mask_outside else ""
    return onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]>
    g (uint8[2,{rows}] byte, float[2,{rows}] dy) => ({outputs.replace("] m", "] seen")}) <float one = {{1}}> {{
        m = DequantizeLinear(byte, one)  dx = Mul(dy, m){more}
    }}""")


def shapes_of(model: onnx.ModelProto) -> dict[str, list[int]]:
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    return dict.fromkeys(("byte", "dy", "m", "dx"), shape)


def test_masks_of_activations_and_long_filters_are_applied_in_one_pass(tiny_student, training_graph):
    graph = training_graph(tiny_student(), learn_steps="all", batch_size=BATCH)
    long = ["a1", "c2", "d"]  # 64 values an image; filters have 9, rows of w3 and of the logits 3
    assert len(masked(graph)) == len(long)
    assert not masked(training_graph(tiny_student(), learn_steps="all"))  # a batch of any size: shapes are not known


@pytest.mark.parametrize("learn_steps", ["none", "all"])
def test_one_pass_gives_the_same_gradients_to_the_bit(learn_steps, tiny_student, make_step, monkeypatch):
    given = batch((4, 4), channels=1)
    found = everything(make_step(tiny_student(), learn_steps=learn_steps, batch_size=BATCH), given)
    monkeypatch.setattr(lowering, "lower_masks", lambda training, shapes: training)
    wanted = everything(make_step(tiny_student(), learn_steps=learn_steps, batch_size=BATCH), given)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("swapped", [False, True])
def test_it_is_the_product_to_the_bit(swapped):
    model = mask_graph(SHORT)
    if swapped:
        model.graph.node[1].input[:] = model.graph.node[1].input[::-1]
    made = lower_masks(model, shapes_of(model))
    assert len(masked(made.graph)) == len(made.graph.node) == 1
    rng = np.random.default_rng(0)
    byte, dy = rng.integers(0, 2, (2, SHORT)).astype(np.uint8), rng.normal(size=(2, SHORT)).astype(np.float32)
    dy[0, :3] = np.inf, np.nan, -0.0
    session = runtime.open_session(made, threads=1)
    assert np.array_equal(session.run(None, {"byte": byte, "dy": dy})[0], dy * byte.astype(np.float32), equal_nan=True)


LEFT_ALONE = {
    "rows of a few values": (mask_graph(SHORT - 1), None),
    "a mask that something else reads": (mask_graph(SHORT, mask_outside=True), None),
    "shapes that are not known": (mask_graph(SHORT), {}),
    "operands of different shapes": (mask_graph(SHORT), {"byte": [1, SHORT], "dy": [2, SHORT]}),
}


@pytest.mark.parametrize("model, shapes", list(LEFT_ALONE.values()), ids=list(LEFT_ALONE))
def test_other_products_are_left_alone(model, shapes):
    assert lower_masks(model, shapes_of(model) if shapes is None else shapes) is model


def test_a_scale_that_is_not_one_is_left_alone():
    model = mask_graph(SHORT)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.float32(2), "one"))
    assert lower_masks(model, shapes_of(model)) is model


# ---- the newer operator set

OLD = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
g (float[2,3,4] x) => (float[2] y, float[2,3,2] left) {
    most = ReduceMax<axes = [2], keepdims = 0>(x)  mean = ReduceMean<axes = [-1], keepdims = 0>(most)
    all = ReduceMean<keepdims = 0>(x)  left, right = Split<axis = 2>(x)  more = local.Twice(mean)  y = Add(more, all)
}
<domain: "local", opset_import: ["": 17]> Twice (a) => (b) { b = Add(a, a) }"""


def test_a_newer_operator_set_computes_the_same():
    old = onnx.parser.parse_model(OLD)
    new, x = raised(old, 21), np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    onnx.checker.check_model(new, full_check=True)
    assert opset(new) == 21 and opset(old) == 17
    found, wanted = (runtime.open_session(model, threads=1).run(None, {"x": x}) for model in (new, old))
    assert all(np.array_equal(a, b) for a, b in zip(found, wanted))


def test_a_newer_operator_set_is_left_as_it_is():
    model = onnx.parser.parse_model(OLD)
    assert raised(model, 17) is model


def test_reductions_whose_axes_are_an_input_keep_it():
    model = helper.make_model(
        onnx.parser.parse_graph(
            "g (float[2,3] x) => (float[2] y) <int64[1] axes = {1}> { y = ReduceMax<keepdims = 0>(x, axes) }"
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    assert list(raised(model, 21).graph.node) == list(model.graph.node)
