"""What look-ups find in a model, its subgraphs included."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper, parser
from test_model import make_model

from onnx_distill.errors import InputError
from onnx_distill.lookup import attribute, image_input, opset, quantized_node, read_by, shape_of

BRANCHING = """<ir_version: 8, opset_import: ["" : 13]>
net (float[N, 2] x, bool cond) => (float[N, 2] y)
<float[2] inner = {1, 2}, float[2] deep = {3, 4}, float[2] unused = {5, 6}> {
    shown = Add(x, inner)
    hidden = Add(x, deep)
    dead = Add(x, unused)
    y = If(cond) <
        then_branch = g1 () => (float[N, 2] t) { t = Identity(shown) },
        else_branch = g2 () => (float[N, 2] e) {
            e = If(cond) <
                then_branch = g3 () => (float[N, 2] a) { a = Identity(hidden) },
                else_branch = g4 () => (float[N, 2] b) { b = Identity(x) }
            >
        }
    >
}"""


def test_read_by_lists_outer_values_only():
    node = parser.parse_model(BRANCHING).graph.node[-1]
    assert set(read_by(node)) == {"cond", "shown", "hidden", "x"}


def test_image_input_leaves_out_listed_initializers_and_wants_exactly_one():
    model = make_model()
    model.graph.input.append(helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [100, 11]))
    assert image_input(model).name == "x"
    with pytest.raises(InputError, match=r"has 2 inputs \('x', 'cond'\); wanted exactly one"):
        image_input(parser.parse_model(BRANCHING))


def test_quantized_node_finds_it_in_the_graph_and_inside_branches():
    assert quantized_node(parser.parse_model(BRANCHING)) is None
    model = parser.parse_model(BRANCHING)
    inner = model.graph.node[-1].attribute[1].g.node[0].attribute[0].g.node[0]
    inner.op_type = "QuantizeLinear"
    assert quantized_node(model) == inner


def test_opset_is_that_of_the_default_domain_and_0_without_one():
    model = make_model()
    model.opset_import.append(helper.make_opsetid("com.example", 99))
    assert opset(model) == 13
    del model.opset_import[0]
    assert opset(model) == 0


def test_shapes_are_numbers_names_or_question_marks():
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, None])
    assert shape_of(value) == ["N", 3, "?"]


def test_attribute_is_the_python_value_or_the_default():
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], auto_pad="VALID")
    assert attribute(node, "strides") == [2, 2]
    assert attribute(node, "auto_pad") == b"VALID"
    assert attribute(node, "group", 1) == 1
