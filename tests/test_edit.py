"""Changes in place keep what is needed and take no name twice."""

from __future__ import annotations

from onnx import parser
from test_lookup import BRANCHING

from onnx_distill import model as models
from onnx_distill.edit import fresh_name, prune
from onnx_distill.lookup import initializers


def test_prune_keeps_what_subgraphs_read_and_drops_the_rest():
    model = parser.parse_model(BRANCHING)
    prune(model)
    assert [node.output[0] for node in model.graph.node] == ["shown", "hidden", "y"]
    assert set(initializers(model)) == {"inner", "deep"}
    assert [value.name for value in model.graph.input] == ["x", "cond"]


def test_prune_twice_is_prune_once():
    once = parser.parse_model(BRANCHING)
    prune(once)
    twice = models.load(once)
    prune(twice)
    assert once == twice


def test_fresh_name_is_never_a_taken_one():
    taken = {"a", "a_1"}
    assert [fresh_name("a", taken), fresh_name("a", taken), fresh_name("b", taken)] == [
        "a_2",
        "a_3",
        "b",
    ]
    assert taken == {"a", "a_1", "a_2", "a_3", "b"}
