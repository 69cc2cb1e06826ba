"""Bits of each layer: as they were asked for, read back from the QDQ model and from the exported file."""

from __future__ import annotations

import graphs
import onnx
import pytest

from onnx_distill.config import QuantizeConfig
from onnx_distill.errors import InputError
from onnx_distill.export import export
from onnx_distill.placement import plan
from onnx_distill.quantization.layer_bits import bits_summary, layer_bits, layer_names, render_layers, weights_summary
from onnx_distill.targets import TARGETS

BODY = (
    "[one] a = Conv<pads = [1, 1, 1, 1]>(x, w, b) [act] r = Relu(a) [two] c = Conv<pads = [1, 1, 1, 1]>(r, w2, b2) "
    "[sum] s = Add(r, c) [three] y = Conv<pads = [1, 1, 1, 1]>(s, w3, b3)"
)
TWICE = "[one] a = Conv<pads = [1, 1, 1, 1]>(x, w, b) [act] r = Relu(a) [two] c = Conv<pads = [1, 1, 1, 1]>(r, w2, b2) [sum] y = Add(a, c)"


def bits_of(model: onnx.ModelProto) -> dict[str, tuple[int | None, int | None]]:
    return {layer.name: (layer.weight_bits, layer.activation_bits) for layer in layer_bits(model)}


def student(*rules: str, body: str = BODY, **choices) -> onnx.ModelProto:
    return graphs.student_of(graphs.net(body), bits=rules, **choices)


def test_layers_are_the_input_and_the_nodes_in_graph_order():
    assert list(bits_of(student())) == ["x", "one", "two", "sum", "three"]


def test_without_rules_edges_have_their_own_bits():
    found = bits_of(student(weight_bits=4, activation_bits=5))
    assert found == {"x": (None, 8), "one": (8, 5), "two": (4, 5), "sum": (None, 8), "three": (8, 8)}


def test_each_layer_gets_the_bits_of_the_last_rule():
    found = bits_of(student("*=W3A4", "two=W6", "sum=A7", "x=A6"))
    assert found == {"x": (None, 6), "one": (3, 4), "two": (6, 4), "sum": (None, 7), "three": (3, 4)}


def test_an_absorbed_relu_is_its_layers():
    assert bits_of(student("act=A3"))["one"] == bits_of(student("one=A3"))["one"] == (8, 3)


def test_a_relu_beside_another_reader_is_a_layer_of_its_own():
    assert {"one": (8, 8), "r": (None, 5)}.items() <= bits_of(student("act=A5", body=TWICE)).items()
    assert {"one": (8, 4), "r": (None, 8)}.items() <= bits_of(student("one=A4", body=TWICE)).items()


@pytest.mark.parametrize("body", [BODY, TWICE], ids=["chain", "relu beside"])
def test_names_in_the_plan_are_those_in_the_model(body):
    model = graphs.net(body)
    sites = plan(model, QuantizeConfig())
    names = [site.layer for site in (*sites.weights, *sites.activations)]
    assert sorted(names) == sorted(layer_names(graphs.student_of(model)).values())


def test_a_weight_that_two_nodes_read_gets_the_bits_of_a_rule_for_either():
    body = "[one] a = Conv<pads = [1, 1, 1, 1]>(x, w, b) [two] c = Conv<pads = [1, 1, 1, 1]>(a, w2, b2) [three] y = Conv<pads = [1, 1, 1, 1]>(c, w2, b3)"
    for rule in ("two=W4", "three=W4"):
        found = bits_of(student(rule, body=body))
        assert found["two"][0] == found["three"][0] == 4


@pytest.mark.parametrize("storage", ["int8", "int4"])
@pytest.mark.parametrize("target", ["ort-x86", "qnn"])
def test_an_exported_file_has_the_same_bits(storage, target):
    made = student("two=W4", "three=W3", target=target)
    assert bits_of(export(made, TARGETS[target], storage)) == bits_of(made)


def test_a_float_model_lists_what_could_be_quantized():
    assert [(layer.name, layer.weights) for layer in layer_bits(graphs.net(BODY))] == [
        *(("x", 0), ("one", 108), ("two", 144), ("sum", 0), ("three", 144)),
    ]


def test_a_layer_left_out_is_float():
    assert bits_of(student(exclude=("two",)))["two"] == (None, None)


def test_text_says_how_many_layers_have_which_bits():
    found = layer_bits(student("two=W4"))
    assert bits_summary(found) == "W8 in 2 layers (252 weights), W4 in 1 layer (144 weights); A8"
    assert render_layers(found).splitlines()[3].split() == ["two", "Conv", "144", "4", "8"]


def test_text_says_what_the_weights_weigh_in_the_file():
    begins = "W8 in 2 layers (252 weights), W4 in 1 layer (144 weights); A8; 1.6 kB of float weights become "
    found = layer_bits(student("two=W4"))
    assert weights_summary(found) == begins + "0.4 kB: weights of fewer than 8 bits take a byte each, too"
    slower = "; onnxruntime computes layers of int4 weights in floats, more slowly than in the float model"
    assert weights_summary(found, "int4") == begins + "0.3 kB" + slower
    assert weights_summary(layer_bits(student()), "int4").endswith("become 0.4 kB")


@pytest.mark.parametrize("rule", ["tow=W4", "sum=W4", "twoo=A4"])
def test_a_rule_that_no_layer_matches_is_refused(rule):
    with pytest.raises(InputError, match=f"--bits '{rule}' matches no layer.*inspect --layers"):
        student(rule)
