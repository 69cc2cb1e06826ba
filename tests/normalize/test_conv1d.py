import numpy as np
import onnx
import pytest
from classifier import becomes, classifier, stays
from equal import operators

SOUND = "float[n,4,9] x"


@pytest.mark.parametrize("group", [2, 4])
@pytest.mark.parametrize(
    "more", ["", ", pads = [2, 1]", ", strides = [2], dilations = [2]", ', kernel_shape = [3], auto_pad = "SAME_LOWER"']
)
def test_grouped_convolutions_become_planes(group, more):
    made = becomes(classifier(f"b = Conv<group = {group}{more}>(a, w2, v)", SOUND, w2=(4, 4 // group, 3), v=(4,)), "conv1d")
    assert {len(t.dims) for t in made.graph.initializer if t.name == "w2"} == {4}


def test_a_relu_behind_goes_before_the_squeeze_and_squeezes_that_are_undone_go():
    six = np.float32(6)
    body = "c = Conv<group = 4>(a, w2) r = Relu(c) d = Conv<group = 2>(r, w3) q = Clip(d, , six) b = Tanh(q)"
    made = becomes(classifier(body, SOUND, w2=(4, 1, 3), w3=(4, 2, 3), six=six), "conv1d")
    order = [node.op_type for node in made.graph.node]
    assert order[:7] == ["Conv", "Unsqueeze", "Conv", "Relu", "Conv", "Clip", "Squeeze"]


def test_a_value_read_twice_keeps_its_squeeze():
    body = "c = Conv<group = 4>(a, w2) r = Relu(c) d = Conv<group = 2, pads = [1, 1]>(c, w3) b = Add(r, d)"
    made = becomes(classifier(body, SOUND, w2=(4, 1, 3), w3=(4, 2, 3)), "conv1d")
    assert "Squeeze" in operators(made)


def test_the_declared_shape_of_a_weight_is_forgotten():
    model = classifier("b = Conv<group = 4>(a, w2)", SOUND, w2=(4, 1, 3))
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("w2", 1, [4, 1, 3]))
    becomes(model, "conv1d")


def test_a_computed_weight_is_unsqueezed():
    becomes(classifier("s = ReduceMean(a) k = Mul(w2, s) b = Conv<group = 4>(a, k)", SOUND, w2=(4, 1, 3)), "conv1d")


@pytest.mark.parametrize(
    "body, image",
    [
        ("b = Conv(a, w2)", SOUND),
        ("b = Conv<group = 4>(a, w3)", "float[n,4,8,8] x"),
        ("s = Squeeze(a, two) b = Relu(s)", "float[n,4,1,8] x"),
    ],
    ids=["one group", "a plane", "a squeeze of others"],
)
def test_it_does_not_fire(body, image):
    weights = {"w2": np.ones((4, 4, 3), "f"), "w3": np.ones((4, 1, 3, 3), "f")}
    if "Squeeze" in body:
        body = body.replace("s = Squeeze(a, two)", "m = MaxPool<kernel_shape = [1, 1]>(a) s = Squeeze(m, two)")
    stays(classifier(body, image, head=False, two=np.array([2]), **weights), "conv1d")
