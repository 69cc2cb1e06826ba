"""Repeated computations taken out: what is the same, and what only looks like it."""

from __future__ import annotations

import onnx

from onnx_distill.lower.repeats import lower_repeats


def nodes_of(body: str, outputs: str) -> list[str]:
    text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[2,2] x) => ({outputs}) {{ {body} }}"""
    model = onnx.parser.parse_model(text)
    before = model.SerializeToString(deterministic=True)
    made = lower_repeats(model)
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(made, full_check=True)
    return [f"{node.output[0]} {node.op_type} {' '.join(node.input)}" for node in made.graph.node]


def test_chains_of_equal_nodes_become_one():
    body = "a = Transpose<perm = [1,0]>(x)  b = Exp(a)  c = Transpose<perm = [1,0]>(x)  d = Exp(c)  y = Mul(b, d)"
    assert nodes_of(body, "float[2,2] y") == ["a Transpose x", "b Exp a", "y Mul b b"]


def test_other_attributes_are_other_nodes():
    body = "a = Transpose<perm = [1,0]>(x)  b = Transpose<perm = [0,1]>(x)  y = Mul(a, b)"
    assert len(nodes_of(body, "float[2,2] y")) == 3


def test_outputs_keep_their_names():
    assert nodes_of("y = Exp(x)  z = Exp(x)", "float[2,2] y, float[2,2] z") == ["y Exp x", "z Exp x"]


def test_random_nodes_are_left_alone():
    body = "a = RandomUniformLike(x)  b = RandomUniformLike(x)  y = Sub(a, b)"
    assert len(nodes_of(body, "float[2,2] y")) == 3


def test_nodes_that_give_other_outputs_are_other_nodes():
    body = "a, i = TopK<axis = 1>(x, two)  b = Neg(a)  c, _ = TopK<axis = 1>(x, two)  y = Add(b, c)"
    text = (
        f"""<ir_version: 8, opset_import: ["": 17]> g (float[2,2] x) => (float[2,2] y) <int64[1] two = {{2}}> {{ {body} }}"""
    )
    model = onnx.parser.parse_model(text)
    model.graph.node[2].output[1] = ""
    assert len(lower_repeats(model).graph.node) == 4
