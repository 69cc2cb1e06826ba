"""dw and db of 1x1 convolutions over pixels are the sums of their definition; what does not fit stays ConvGrad's."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_distill import runtime
from onnx_distill.lower.blocked import DOMAIN, block_size
from onnx_distill.lower.nodes import value_shapes
from onnx_distill.lower.pixels import LEAST_PIXELS, lower_pixels

SIZE = (16, LEAST_PIXELS // 16)
FLOAT_ROUNDING = 2.0**-24


def convolution_gradient(o: int, i: int, size=SIZE, n=3, outputs=("", "dw", "db"), **attributes) -> onnx.ModelProto:
    """dy [n, o, ...], x [n, i, ...] and w [o, i, 1, 1] -> what is asked of ConvGrad."""
    given = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "group": 1, **attributes}
    height, width = ((length - 1) // stride + 1 for length, stride in zip(size, given["strides"]))
    inputs = {"dy": [n, o, height, width], "x": [n, i, *size], "w": [o, i // given["group"], *given["kernel_shape"]]}
    node = helper.make_node("ConvGrad", list(inputs), list(outputs), domain="com.microsoft", **given)
    value = lambda name, shape: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)  # noqa: E731
    graph = helper.make_graph([node], "g", [value(*each) for each in inputs.items()], [value(o, None) for o in outputs if o])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def lowered(model: onnx.ModelProto) -> onnx.ModelProto:
    return lower_pixels(model, value_shapes(model, 3), block_size() or 8)


def operands(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("outputs", [("", "dw", "db"), ("", "dw")], ids=["with db", "dw alone"])
@pytest.mark.parametrize("o, i", [(32, 16), (16, 48), (16, 16)], ids=["dy is wider", "x is wider", "both are as wide"])
def test_dw_and_db_are_the_sums_of_their_definition(o, i, outputs):
    model = convolution_gradient(o, i, outputs=outputs)
    made, given = lowered(model), operands(model)
    assert "ConvGrad" not in {node.op_type for node in made.graph.node}
    assert {node.op_type for node in made.graph.node if node.domain == DOMAIN} >= {"Conv", "ReorderInput"}
    found = runtime.open_session(made, threads=1, optimized=False).run(None, given)
    dy, x = (given[name].astype(np.float64) for name in ("dy", "x"))
    wanted = [np.einsum("nohw,nihw->oi", dy, x).reshape(o, i, 1, 1), dy.sum(axis=(0, 2, 3))]
    terms = [np.einsum("nohw,nihw->oi", abs(dy), abs(x)).reshape(o, i, 1, 1), abs(dy).sum(axis=(0, 2, 3))]
    for value, exact, largest in zip(found, wanted, terms):  # a sum in any order loses half an ulp of its terms at each step
        assert (np.abs(value - exact) <= np.sqrt(dy[:, 0].size) * 4 * FLOAT_ROUNDING * largest).all()


LEFT_ALONE = {
    "few pixels": convolution_gradient(16, 16, (LEAST_PIXELS // 16 - 1, 16)),
    "pixels that fill no blocks": convolution_gradient(16, 16, (17, 17)),
    "channels that fill no blocks": convolution_gradient(16, 12),
    "a larger kernel": convolution_gradient(16, 16, kernel_shape=[3, 3], pads=[1] * 4),
    "a stride": convolution_gradient(16, 16, (32, 32), strides=[2, 2]),
    "groups": convolution_gradient(16, 32, group=2),
    "dx of the same node": convolution_gradient(16, 16, outputs=("dx", "dw", "db")),
    "db alone": convolution_gradient(16, 16, outputs=("", "", "db")),
}


@pytest.mark.parametrize("model", list(LEFT_ALONE.values()), ids=list(LEFT_ALONE))
def test_other_gradients_stay_as_they_are(model):
    assert [node.op_type for node in lowered(model).graph.node] == ["ConvGrad"]


def test_unknown_shapes_stay_as_they_are():
    model = convolution_gradient(16, 16)
    assert [node.op_type for node in lower_pixels(model, {}, 8).graph.node] == ["ConvGrad"]
