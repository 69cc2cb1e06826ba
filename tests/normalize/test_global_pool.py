import numpy as np
import pytest
from classifier import CONV, becomes, classifier, stays, with_output_shape
from equal import operators

SPACE = np.array([-1, 2])


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("operator, pool", [("ReduceMean", "GlobalAveragePool"), ("ReduceMax", "MaxPool")])
def test_reductions_over_space_become_pools(operator, pool, keepdims):
    attributes = classifier(f"b = {operator}<axes = [2, 3], keepdims = {keepdims}>(a)")
    inputs = classifier(f"b = {operator}<keepdims = {keepdims}>(a, axes)", opset=18, axes=SPACE)
    for model in (attributes, inputs):
        assert operators(becomes(model, "global_pool")) >= {pool}


@pytest.mark.parametrize("image", CONV.values())
@pytest.mark.parametrize("operator, pool", [("ReduceMean", "GlobalAveragePool"), ("ReduceMax", "MaxPool")])
def test_space_has_one_to_three_axes(operator, pool, image):
    axes = list(range(2, image.count(",") + 1))
    made = becomes(classifier(f"b = {operator}<axes = {axes}, keepdims = 0>(a)", f"{image} x"), "global_pool")
    assert pool in operators(made)


def test_global_max_pool_becomes_max_pool():
    assert "MaxPool" in operators(becomes(classifier("b = GlobalMaxPool(a)"), "global_pool"))


@pytest.mark.parametrize(
    "more", ["", ", strides = [8, 8]", ", count_include_pad = 1", ', auto_pad = "SAME_UPPER", strides = [8, 8]']
)
def test_an_average_of_the_whole_image_becomes_global(more):
    made = becomes(classifier(f"b = AveragePool<kernel_shape = [8, 8]{more}>(a)"), "global_pool")
    assert "AveragePool" not in operators(made)


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("operator", ["ReduceMean", "ReduceMax"])
def test_channels_last_are_pooled_before_the_transpose(operator, keepdims):
    body = f"t = Transpose<perm = [0, 2, 3, 1]>(a) b = {operator}<axes = [1, 2], keepdims = {keepdims}>(t)"
    order = [node.op_type for node in becomes(classifier(body), "global_pool").graph.node]
    assert operator not in order and order.count("Transpose") == keepdims


def test_a_mean_needs_no_size():
    stays(classifier("b = ReduceMax<axes = [2, 3]>(a)", "float[n,4,h,w] x", head=False), "global_pool")
    model = with_output_shape(classifier("b = ReduceMean<axes = [2, 3]>(a)", "float[n,4,h,w] x", head=False), "n", 4, 1, 1)
    becomes(model, "global_pool", trains=False)


@pytest.mark.parametrize(
    "body",
    [
        "b = ReduceMean<axes = [1]>(a)",
        "b = ReduceMean<axes = [3]>(a)",
        "b = ReduceMean(a)",
        "m = ReduceMean<axes = [2, 3]>(a) b = Sub(a, m)",
        "s = Mul(a, a) b = ReduceMean<axes = [2, 3]>(s)",
        "s = Pow(a, two) b = ReduceMean<axes = [2, 3]>(s)",
        "b = AveragePool<kernel_shape = [7, 7]>(a)",
        "b = AveragePool<kernel_shape = [8, 8], pads = [1, 1, 1, 1]>(a)",
    ],
)
def test_it_does_not_fire(body):
    stays(classifier(body, head=False, two=np.float32(2)), "global_pool")
