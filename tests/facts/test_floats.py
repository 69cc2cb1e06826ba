"""floats.py counts weights in every form that exporters store them in, each once."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnx_distill.facts.floats import held
from onnx_distill.inspection import inspect, render

HALF = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(np.ones((3, 5), np.float16)))
FORMS = {  # nodes or initializers that make w -> floats, bytes
    "Constant": ("w = Constant<value = float[2,3] {1,2,3,4,5,6}>()", 6, 24),
    "value_floats": ("v = Constant<value_floats = [1.0, 2.0]>() w = Identity(v)", 2, 8),
    "value_float": ("w = Constant<value_float = 1.5>()", 1, 4),
    "whole numbers": ("v = Constant<value_ints = [1, 2]>() w = Cast<to = 1>(v)", 0, 0),
    "ConstantOfShape": ("s = Constant<value = int64[2] {100, 30}>() w = ConstantOfShape<value = float[1] {0.5}>(s)", 3000, 12000),
    "ConstantOfShape without a value": ("w = ConstantOfShape(shape)", 6, 24),
    "ConstantOfShape of integers": ("v = ConstantOfShape<value = int64[1] {2}>(shape) w = Cast<to = 1>(v)", 0, 0),
    "a shape that is computed": ("s = Shape(x) w = ConstantOfShape(s)", 0, 0),
}  # fmt: skip


def make(body: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[2,3] x) => (float[A,B] y) <int64[2] shape = {{2, 3}}> {{ {body} y = Add(x, w) }}'
    )


@pytest.mark.parametrize("body, count, size", FORMS.values(), ids=FORMS)
def test_weights_are_counted_in_every_form(body, count, size):
    assert held(make(body)) == (count, size)


def test_half_floats_take_two_bytes():
    model = make("w = Identity(x)")
    model.graph.node[0].CopyFrom(HALF)
    assert held(model) == (15, 30)


def test_inspect_counts_the_weights_of_constant_nodes():
    facts = inspect(make(FORMS["Constant"][0]))
    assert (facts.parameters, facts.parameter_bytes) == (6, 24)
    assert "parameters     6 (0.00 MB)" in render(facts)
