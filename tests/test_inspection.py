"""inspection.py: the facts, and every case of the table of what cannot be trained."""

from __future__ import annotations

import json
from dataclasses import asdict

import onnx
import pytest
from onnx import helper, parser

from onnx_distill.config import QuantizeConfig
from onnx_distill.errors import InputError
from onnx_distill.inspection import Rewrites, Value, inspect, render

NET = """<ir_version: 8, opset_import: ["" : 14], producer_name: "test", producer_version: "1.0">
net (float[N, 1, 4, 4] image) => (float[N, 3] prob, int64[N] best)
<float[3, 1, 4, 4] w = {0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0, 0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0, 0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0},
 int64[2] flat = {-1, 3}, float[3] bias = {1, 2, 3}> {
    features = Conv(image, w)
    act = Hardmax(features)
    [again] more = Hardmax(act)
    logits = Reshape(more, flat)
    [S] prob = Softmax(logits)
    rounded = Round(prob)
    best = ArgMax<axis = 1, keepdims = 0>(prob)
}"""


def make_net(nodes: str, opset: int = 18, inputs: str = "float[2, 3, 4, 4] x", initializers: str = "") -> onnx.ModelProto:
    """The given nodes from x to y; weights for a convolution of 3 channels, in 1 and 2 dimensions, at hand."""
    zeros = ", ".join(["0"] * 9)
    return parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : {opset}]>
        net ({inputs}) => (float[M] y)
        <float[3, 3, 1, 1] w2 = {{{zeros}}}, float[3, 1, 3] w1 = {{{zeros}}}, int64[1] one = {{1}}, int64[1] back = {{-1}},
        int64[8] around = {{0, 0, 1, 1, 0, 0, 1, 1}}, float scalar = {{2}} {initializers}> {{ {nodes} }}"""
    )


def test_facts_of_a_small_net():
    facts = inspect(parser.parse_model(NET))
    assert facts.inputs == (Value("image", "float", ("N", 1, 4, 4)),)
    assert facts.outputs == (Value("prob", "float", ("N", 3)), Value("best", "int64", ("N",)))
    assert (facts.opsets, facts.ir_version, facts.producer) == ({"ai.onnx": 14}, 8, "test 1.0")
    assert facts.logits == Value("logits", "float", ("?", 3))
    assert facts.logits_reason == "feeds Softmax 'S', the last before output 'prob'"
    assert list(facts.operators.items()) == [
        ("Hardmax", 2), ("ArgMax", 1), ("Conv", 1), ("Reshape", 1), ("Round", 1), ("Softmax", 1)
    ]  # fmt: skip
    assert (facts.parameters, facts.parameter_bytes, facts.quantized) == (51, 204, None)


def test_obstacles_are_grouped_and_end_at_the_logits():
    (obstacle,) = inspect(parser.parse_model(NET)).obstacles
    assert (obstacle.op, obstacle.nodes) == ("Hardmax", ("act", "again"))
    assert obstacle.reason == "no gradient"


def test_named_logits_are_shown_and_obstacles_end_there():
    facts = inspect(parser.parse_model(NET), "act")
    assert (facts.logits.name, facts.logits_reason) == ("act", "named by the user")
    assert [obstacle.nodes for obstacle in facts.obstacles] == [("act",)]
    with pytest.raises(InputError, match="no node or value named 'logit'; closest: 'logits'"):
        inspect(parser.parse_model(NET), "logit")


def test_inspect_does_not_edit_the_model():
    model = parser.parse_model(NET)
    inspect(model)
    assert model == parser.parse_model(NET)


def test_facts_survive_json():
    facts = asdict(inspect(parser.parse_model(NET)))
    again = json.loads(json.dumps(facts))
    assert again["logits"] == {"name": "logits", "dtype": "float", "shape": ["?", 3]}
    assert again["obstacles"][0]["nodes"] == ["act", "again"]
    assert json.dumps(again) == json.dumps(facts)


def test_model_without_softmax_is_described_with_the_reason_and_its_last_nodes():
    facts = inspect(make_net("h = Relu(x) [End] y = Sigmoid(h)"))
    assert facts.logits is None and "no Softmax or LogSoftmax" in facts.logits_reason
    assert facts.last_nodes == ("Relu h -> h", "Sigmoid End -> y")
    assert facts.obstacles == ()


def test_quantized_model_is_described_and_its_qdq_nodes_are_no_obstacle():
    facts = inspect(make_net("[Q] q = QuantizeLinear(x, scalar) d = DequantizeLinear(q, scalar) y = Relu(d)"))
    assert facts.quantized == "Q (QuantizeLinear)"
    assert facts.obstacles == ()


def test_float16_weights_count_two_bytes_each_and_integers_are_no_parameters():
    facts = inspect(make_net("y = Relu(x)", initializers=", float16[5] half = {1, 2, 3, 4, 5}"))
    assert (facts.parameters, facts.parameter_bytes) == (9 + 9 + 1 + 5, 4 * 19 + 2 * 5)


def test_operator_of_another_domain_carries_the_domain():
    model = make_net("h = Mul(x, scalar) y = Relu(h)")
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    model.graph.node[1].domain = "com.example"
    facts = inspect(model)
    assert render(facts).splitlines()[0].startswith("input          x")
    assert facts.operators == {"Mul": 1, "com.example::Relu": 1}
    assert [obstacle.op for obstacle in facts.obstacles] == ["com.example::Relu"]


def test_text_is_aligned_and_has_it_all():
    text = render(inspect(parser.parse_model(NET)))
    lines = text.splitlines()
    assert lines[0] == "input          image  float [N, 1, 4, 4]"
    assert all(
        len(line) > 15 and line[14] == " " and line[15] != " " for line in lines if not line[15:].lstrip()[:1].isdigit()
    )
    for part in [
        "logits  float [?, 3]",
        "feeds Softmax 'S'",
        "2 Hardmax",
        "51 (0.00 MB)",
        "Hardmax: no gradient",
        "(act and 1 more)",
    ]:
        assert part in text


def test_logits_behind_an_unknown_operator_are_of_unknown_shape():
    text = render(inspect(make_net("m = Mul(x, scalar) h = Mystery(m) y = Softmax(h)")))
    assert "logits         h  of unknown type and shape" in text
    assert text.endswith("not trainable  Mystery: not among the operators known to train (h)")


def test_text_of_a_net_that_cannot_be_cut_lists_its_last_nodes():
    text = render(inspect(make_net("h = Relu(x) [End] y = Sigmoid(h)")))
    assert "logits         not found" in text and "Sigmoid End -> y" in text
    assert text.endswith("not trainable  nothing")


def test_rewrites_are_grouped_by_rule_and_operator_and_obstacles_are_those_left():
    facts = inspect(make_net("a = Identity(x) b = Mul(a, scalar) c = Identity(b) d = Dropout(c) y = Hardmax(d)"))
    assert {Rewrites("identity", "Identity", 2), Rewrites("identity", "Dropout", 1)} <= set(facts.rewrites)
    assert [obstacle.op for obstacle in facts.obstacles] == ["Hardmax"]
    text = render(facts)
    assert "    2 Identity (identity)" in text and "not trainable  Hardmax: no gradient (y)" in text
    assert {"rule": "identity", "operator": "Dropout", "count": 1} in json.loads(json.dumps(asdict(facts)))["rewrites"]


def test_quantized_model_is_not_rewritten():
    facts = inspect(make_net("[Q] q = QuantizeLinear(x, scalar) d = DequantizeLinear(q, scalar) y = Identity(d)"))
    assert facts.rewrites == () and facts.refused == ""


def test_model_that_cannot_be_rewritten_says_why():
    facts = inspect(make_net("h = Mystery(x) y = Softmax(h)", opset=9))
    assert facts.refused and f"refused        {facts.refused}" in render(facts)


def test_bits_of_a_student_are_counted_and_its_layers_listed(tiny_student):
    found = inspect(tiny_student(QuantizeConfig(weight_bits=4, activation_bits=4, bits=("depthwise=W3A5",))))
    assert "bits           W8 in 2 layers (228 weights), W3 in 1 layer (36 weights); A8 A5 A4" in render(found)
    assert [(x.name, x.weight_bits, x.activation_bits) for x in found.layers] == [
        *(("image", None, 8), ("stem", 8, 4), ("depthwise", 3, 5), ("residual", None, 8), ("classifier", 8, 8)),
    ]


def test_layers_of_a_float_model_have_the_names_that_rules_go_by(tiny_float):
    assert [x.name for x in inspect(tiny_float).layers if x.weights] == ["stem", "depthwise", "classifier"]
