"""logits.py: the value that feeds the final Softmax, and nothing else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

from onnx_distill.errors import InputError
from onnx_distill.facts.logits import MARK, Logits, find_logits, value_types


def make_net(tail: str, outputs: str = "float[N, 3] y", opset: int = 13) -> onnx.ModelProto:
    """`scores` [N, 3] from a product with weights, then the given nodes."""
    return parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : {opset}]>
        net (float[N, 2] x) => ({outputs})
        <float[2, 3] w = {{1, 2, 3, 4, 5, 6}}, int64[2] pair = {{-1, 3}}, int64[1] one = {{1}}, int64[1] zero = {{0}}, float[3, 3] square = {{1, 0, 0, 0, 1, 0, 0, 0, 1}}> {{
            [Head] scores = MatMul(x, w)
            {tail}
        }}"""
    )


AFTER = {
    "softmax alone": "[S] y = Softmax(scores)",
    "log softmax": "[S] y = LogSoftmax(scores)",
    "identity": "[S] p = Softmax(scores) y = Identity(p)",
    "reshape": "[S] p = Softmax(scores) y = Reshape(p, pair)",
    "log": "[S] p = Softmax(scores) y = Log(p)",
    "argmax": "[S] p = Softmax(scores) y = ArgMax<axis = 1>(p)",
    "top 1, values": "[S] p = Softmax(scores) y, i = TopK(p, one)",
    "top 1, indices": "[S] p = Softmax(scores) v, y = TopK(p, one)",
    "slice": "[S] p = Softmax(scores) y = Slice(p, zero, one, one)",
    "gather": "[S] p = Softmax(scores) y = Gather<axis = 1>(p, zero)",
    "a chain": "[S] p = Softmax(scores) u = Unsqueeze(p, zero) t = Transpose(u) f = Flatten(t) y = Cast<to = 1>(f)",
}


@pytest.mark.parametrize("tail", AFTER.values(), ids=AFTER.keys())
def test_logits_feed_the_final_softmax(tail):
    assert (find_logits(make_net(tail)).value, find_logits(make_net(tail)).softmax) == ("scores", "S")


def test_reason_names_the_softmax_and_the_output():
    found = find_logits(make_net("[S] p = Softmax(scores) y = Identity(p)"))
    assert found == Logits("scores", "feeds Softmax 'S', the last before output 'y'", "S")


def test_softmax_without_a_name_goes_by_its_output():
    assert find_logits(make_net("y = Softmax(scores)")).softmax == "y"


def test_reshape_named_like_its_value_before_softmax_is_the_logits():
    tail = """["M/Predictions/Reshape"] "M/Predictions/Reshape" = Reshape(scores, pair)
              ["M/Predictions/Softmax"] y = Softmax("M/Predictions/Reshape")"""
    for name in (None, "M/Predictions/Reshape"):
        found = find_logits(make_net(tail), name)
        assert (found.value, found.softmax) == ("M/Predictions/Reshape", "M/Predictions/Softmax")


def test_softmax_inside_the_network_is_not_the_final_one():
    tail = "a = Softmax(scores) m = Mul(a, scores) [S] y = Softmax(m)"
    assert find_logits(make_net(tail)).value == "m"
    with pytest.raises(InputError, match="no Softmax or LogSoftmax at the end"):
        find_logits(make_net("a = Softmax(scores) y = Mul(a, scores)"))


def test_outputs_of_one_softmax_and_outputs_without_any_agree_on_one_value():
    outputs = "float[N, 3] y, int64[N, 1] best, float[N, 3] scores, float[N, 3] half"
    tail = "[S] y = Softmax(scores) best = ArgMax<axis = 1>(y) half = Relu(scores)"
    assert find_logits(make_net(tail, outputs)).value == "scores"


def test_two_final_softmaxes_are_listed():
    tail = "y = Softmax(scores) other = Relu(scores) z = LogSoftmax(other)"
    with pytest.raises(InputError, match=r"2 values feed .*'scores' \(output 'y'\), 'other' \(output 'z'\).*--logits NAME"):
        find_logits(make_net(tail, "float[N, 3] y, float[N, 3] z"))


WRITTEN = "m = ReduceMax<axes = [1]>(scores) s = Sub(scores, m) e = Exp(s) t = ReduceSum(e, one) "


@pytest.mark.parametrize(
    "tail",
    [
        WRITTEN + "y = Div(e, t)",
        WRITTEN + "t1 = Reshape(t, column) y = Div(e, t1)",
        WRITTEN + "p = Div(e, t) y = Identity(p)",
        "e = Exp(scores) t = ReduceSum(e, one) y = Div(e, t)",
    ],
    ids=["as it is", "sum reshaped", "renamed", "without the maximum"],
)
def test_softmax_that_is_written_out_is_a_softmax(tail):
    model = make_net(tail, opset=17)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.int64([-1, 1]), "column"))
    found = find_logits(model)
    assert found.value == "scores" and found.softmax == model.graph.node[-1 if "Identity" not in tail else -2].output[0]
    assert "feeds Div" in found.reason


@pytest.mark.parametrize(
    "tail", ["e = Exp(scores) t = ReduceSum(scores, one) y = Div(e, t)", "e = Exp(scores) y = Div(e, scores)"]
)
def test_other_quotients_are_no_softmax(tail):
    with pytest.raises(InputError, match="no Softmax or LogSoftmax"):
        find_logits(make_net(tail))


@pytest.mark.parametrize(
    "tail", ["y = Identity(scores)", "y = Reshape(scores, pair)", "r = Relu(scores) y = MatMul(r, square)"]
)
def test_the_only_output_is_the_logits_where_a_layer_makes_it_and_it_is_said(tail):
    found = find_logits(make_net(tail))
    assert found.value == "y" and found.softmax is None and "the only output" in found.reason


@pytest.mark.parametrize(
    "tail, outputs",
    [
        ("y = Sigmoid(scores)", "float[N, 3] y"),
        ("y = Relu(scores)", "float[N, 3] y"),
        ("y = Div(scores, scores)", "float[N, 3] y"),
    ]
    + [("y = Identity(scores) z = Identity(scores)", "float[N, 3] y, float[N, 3] z"), ("", "float[N, 2] x")],
)
def test_probabilities_several_outputs_and_inputs_are_not_taken_for_logits(tail, outputs):
    with pytest.raises(InputError, match="no Softmax or LogSoftmax"):
        find_logits(make_net(tail, outputs))


def test_no_softmax_says_what_is_there_and_what_to_do():
    with pytest.raises(InputError, match=r"output 'y' comes from Sigmoid 'End'.*--logits NAME \(--logits y if"):
        find_logits(make_net("[End] y = Sigmoid(scores)"))


@pytest.mark.parametrize("name", ["Head", "scores"])
def test_node_name_and_value_name_mean_the_same_value(name):
    assert find_logits(make_net("[S] y = Softmax(scores)"), name) == Logits("scores", "named by the user", "S")


def test_value_name_goes_before_the_node_name():
    assert find_logits(make_net("[scores] r = Relu(scores) y = Softmax(r)"), "scores").value == "scores"


def test_named_value_without_softmax_behind_it_has_none():
    assert find_logits(make_net("y = Sigmoid(scores)"), "scores").softmax is None


def test_wrong_name_lists_the_closest_ones():
    with pytest.raises(InputError, match="no node or value named 'score'; closest: 'scores'.*onnx-distill inspect"):
        find_logits(make_net("y = Softmax(scores)"), "score")


@pytest.mark.parametrize("name", ["x", "w"])
def test_input_or_initializer_is_not_the_logits(name):
    with pytest.raises(InputError, match=f"'{name}' is an input or an initializer.*onnx-distill inspect"):
        find_logits(make_net("y = Softmax(scores)"), name)


@pytest.mark.parametrize("name", ["S", "y"])
def test_probabilities_are_not_the_logits(name):
    with pytest.raises(InputError, match="probabilities; the logits are what it reads: --logits scores"):
        find_logits(make_net("[S] y = Softmax(scores)"), name)


def test_mark_counts_only_where_the_marked_value_is_the_one_output():
    model = make_net("y = Relu(scores)")
    model.metadata_props.add(key=MARK, value="y")
    assert find_logits(model) == Logits("y", "the model was cut here before", None)
    model.metadata_props[0].value = "scores"
    with pytest.raises(InputError, match="no Softmax or LogSoftmax"):
        find_logits(model)


def test_value_types_have_shapes_and_no_numbered_dimensions():
    model = make_net("r = Reshape(scores, pair) y = Softmax(r)")
    types = value_types(model)
    assert [dim.dim_value or dim.dim_param for dim in types["scores"].type.tensor_type.shape.dim] == ["N", 3]
    assert [dim.dim_value or dim.dim_param for dim in types["r"].type.tensor_type.shape.dim] == ["", 3]
    assert model == make_net("r = Reshape(scores, pair) y = Softmax(r)")


def test_node_that_inference_stumbles_over_is_an_input_error():
    with pytest.raises(InputError, match="shapes cannot be inferred: .*Unsqueeze"):
        value_types(make_net("u = Unsqueeze(scores) y = Softmax(scores)"))


@pytest.mark.parametrize("behind", ["y = Identity(p)", "f = Identity(p) y = Flatten(f)"])
def test_probabilities_under_another_name_are_refused_with_the_name_of_the_logits(behind):
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]> net (float[n,4] x) => (float[n,3] y) {{
        z = Gemm(x, w) p = Softmax(z) {behind}
    }}""")
    with pytest.raises(InputError, match="'y' is the output of a Softmax, probabilities; .*--logits z$"):
        find_logits(model, "y")
