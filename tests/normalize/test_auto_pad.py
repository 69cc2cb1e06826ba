import pytest
from classifier import becomes, classifier, stays

from onnx_distill.lookup import attribute
from onnx_distill.normalize import normalize

SAME = ["SAME_UPPER", "SAME_LOWER"]


def last(model, operator):
    return [node for node in model.graph.node if node.op_type == operator][-1]


@pytest.mark.parametrize("mode", [*SAME, "VALID"])
@pytest.mark.parametrize("kernel, stride, dilation", [(3, 2, 1), (2, 2, 1), (1, 2, 1), (4, 3, 1)])
def test_auto_pad_of_conv_becomes_pads(mode, kernel, stride, dilation):
    written = f'auto_pad = "{mode}", strides = [{stride}, {stride}], dilations = [{dilation}, 1]'
    made = becomes(classifier(f"b = Conv<{written}>(a, w2)", w2=(4, 4, kernel, 3)), "auto_pad")
    assert attribute(last(made, "Conv"), "auto_pad") is None


@pytest.mark.parametrize("mode", [*SAME, "VALID"])
@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("kernel, stride", [(3, 2), (2, 1), (3, 1), (3, 3)])
def test_auto_pad_of_pools_becomes_pads(operator, mode, kernel, stride):
    body = f'b = {operator}<auto_pad = "{mode}", kernel_shape = [{kernel}, 2], strides = [{stride}, 2]>(a)'
    # AveragePool's gradient is in tests/gradients/test_pool.py: the runtime's own kills the process
    becomes(classifier(body, "float[n,4,8,7] x"), "auto_pad", trains=operator == "MaxPool")


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("size, kernel, stride, pad", [(8, 3, 2, 0), (7, 2, 2, 0), (8, 3, 2, 1), (9, 3, 4, 1)])
def test_ceil_mode_becomes_pads(operator, size, kernel, stride, pad):
    written = f"ceil_mode = 1, kernel_shape = [{kernel}, {kernel}], strides = [{stride}, {stride}], pads = {[pad] * 4}"
    made = becomes(
        classifier(f"b = {operator}<{written}>(a)", f"float[n,4,{size},{size}] x"), "auto_pad", trains=operator == "MaxPool"
    )
    assert not attribute(last(made, operator), "ceil_mode", 0)


@pytest.mark.parametrize("mode", SAME)
@pytest.mark.parametrize("kernel, stride", [(3, 2), (2, 2), (4, 2), (5, 3)])
def test_auto_pad_of_conv_transpose_becomes_pads(mode, kernel, stride):
    body = f'b = ConvTranspose<auto_pad = "{mode}", strides = [{stride}, {stride}]>(a, w2)'
    becomes(classifier(body, w2=(4, 2, kernel, kernel)), "auto_pad")


@pytest.mark.parametrize("mode", ["", 'auto_pad = "SAME_UPPER", ', 'auto_pad = "SAME_LOWER", '])
def test_output_shape_becomes_pads(mode):
    body = f"b = ConvTranspose<{mode}strides = [2, 2], output_shape = [14, 15]>(a, w2)"
    becomes(classifier(body, w2=(4, 2, 3, 3)), "auto_pad")


@pytest.mark.parametrize(
    "body, image",
    [
        ("b = Conv<pads = [1, 1, 1, 1]>(a, w2)", "float[n,4,8,8] x"),
        ('b = Conv<auto_pad = "SAME_UPPER">(a, w2)', "float[n,4,h,w] x"),
        ("b = MaxPool<kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1>(a)", "float[n,4,h,w] x"),
        (
            "b = AveragePool<kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1, count_include_pad = 1>(a)",
            "float[n,4,8,8] x",
        ),
        ('b = MaxPool<auto_pad = "SAME_UPPER", kernel_shape = [2, 2], dilations = [5, 5]>(a)', "float[n,4,8,8] x"),
        ("b = MaxPool<kernel_shape = [1, 1], strides = [2, 2], pads = [0, 0, 0, 0], ceil_mode = 0>(a)", "float[n,4,8,8] x"),
    ],
    ids=["pads", "free size", "ceil and free size", "pixels behind the end counted", "pad as large as the window", "floor"],
)
def test_it_does_not_fire(body, image):
    stays(classifier(body, image, head=False, w2=(4, 4, 3, 3)), "auto_pad")


def test_a_last_window_behind_the_image_stays():
    """Versions of the runtime disagree whether there is such a window."""
    body = "b = MaxPool<kernel_shape = [2, 2], strides = [3, 3], pads = [1, 1, 1, 1], ceil_mode = 1>(a)"
    stays(classifier(body, "float[n,4,5,5] x", head=False), "auto_pad")


def test_valid_needs_no_size():
    made, done = normalize(
        classifier('b = Conv<auto_pad = "VALID">(a, w2)', "float[n,4,h,w] x", head=False, w2=(4, 4, 3, 3))
    )
    assert [rewrite.rule for rewrite in done] == ["auto_pad"]
    assert attribute(last(made, "Conv"), "auto_pad") is None
