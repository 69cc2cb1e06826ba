"""dx of AveragePool and Resize: the numbers of their formulas, run as they stand, beside the transpose of the operator itself."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnx_distill import runtime
from onnx_distill.errors import InputError
from onnx_distill.gradients.formula import Formula, Value
from onnx_distill.gradients.pool import POOL_RULES
from onnx_distill.lookup import attribute


class Lone:
    """A node on its own, with the parts of a gradient site that these rules read."""

    def __init__(self, node: onnx.NodeProto, shape: tuple, constants: dict[int, np.ndarray]):
        self.node, self.formula, self._shape, self._constants = node, Formula(), shape, constants
        self.dy = Value(self.formula, "GO(0)")

    def __call__(self, operator, *operands, **attributes):
        return self.formula(operator, *operands, **attributes)

    def attribute(self, name, default):
        return attribute(self.node, name, default)

    def constant(self, place):
        return self._constants.get(place)

    def shape(self, place):
        return self._shape


def node_of(operator: str, constants: dict[int, np.ndarray], **attributes) -> onnx.NodeProto:
    inputs = ["x", *(f"c{place}" if place in constants else "" for place in range(1, max(constants, default=0) + 1))]
    return helper.make_node(operator, inputs, ["y"], name="it", **attributes)


def run(nodes: list, given: dict[str, np.ndarray], wanted: str, constants: dict[str, np.ndarray]) -> np.ndarray:
    inputs = [helper.make_tensor_value_info(name, 1, None) for name in given]
    kept = [numpy_helper.from_array(content, name) for name, content in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info(wanted, 1, None)], kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return runtime.open_session(model, 1, optimized=False).run(None, given)[0]


def as_node(operator: str, inputs: list, outputs: list, attributes: dict) -> onnx.NodeProto:
    if operator == "Constant":
        value, kind = attributes["value"]
        content = numpy_helper.from_array(np.array(value, np.int64 if kind == "int" else np.float32))
        return helper.make_node("Constant", [], outputs, value=content)
    return helper.make_node(operator, inputs, outputs, **{name: value for name, (value, _) in attributes.items()})


def transpose_error(operator: str, shape: tuple, constants: dict[int, np.ndarray] | None = None, **attributes) -> float:
    """Largest |dx - A^T dy| over a batch of dy, relative to the largest of A^T dy; A from the operator's unit vectors."""
    constants, rng = constants or {}, np.random.default_rng(0)
    node, names = node_of(operator, constants, **attributes), {f"c{place}": value for place, value in constants.items()}
    size = int(np.prod(shape[1:]))
    rows = run([node], {"x": np.eye(size, dtype=np.float32).reshape(size, *shape[1:])}, "y", names)
    dy = rng.standard_normal((3, *rows.shape[1:])).astype(np.float32)
    wanted = dy.reshape(3, -1) @ rows.reshape(size, -1).T
    site = Lone(node, shape, constants)
    nodes = [as_node(*entry) for entry in site.formula.results({"GI(0)": POOL_RULES[operator](site)})]
    found = run(nodes, {"GO(0)": dy}, "GI(0)", {})
    assert found.shape == (3, *shape[1:])
    return float(np.abs(found.reshape(3, -1) - wanted).max() / np.abs(wanted).max())


ROUNDING = 1e-5  # sums of at most a few hundred float32 products


@pytest.mark.parametrize("counted", [0, 1])
@pytest.mark.parametrize(
    "kernel, strides, pads, dilations",
    [
        ([2, 2], [2, 2], [0, 0, 0, 0], [1, 1]),
        ([2, 3], [2, 3], [0, 0, 0, 0], [1, 1]),
        ([3, 3], [1, 1], [1, 1, 1, 1], [1, 1]),
        ([3, 3], [2, 2], [1, 1, 1, 1], [1, 1]),
        ([3, 2], [2, 3], [0, 1, 2, 0], [1, 1]),
        ([2, 2], [3, 3], [0, 0, 0, 0], [1, 1]),
        ([5, 5], [3, 3], [0, 0, 0, 0], [1, 1]),
        ([2, 3], [1, 2], [1, 0, 0, 1], [2, 3]),
        ([8, 9], [1, 1], [0, 0, 0, 0], [1, 1]),
    ],
)
def test_average_pool(kernel, strides, pads, dilations, counted):
    given = {"kernel_shape": kernel, "strides": strides, "pads": pads, "dilations": dilations, "count_include_pad": counted}
    assert transpose_error("AveragePool", ("n", 2, 8, 9), **given) < ROUNDING


@pytest.mark.parametrize("shape", [("n", 2, 9), ("n", 2, 5, 4, 6)])
@pytest.mark.parametrize("kernel, stride, pad", [(3, 2, 1), (3, 1, 1), (2, 2, 0)])
def test_average_pool_over_one_and_three_axes(shape, kernel, stride, pad):
    axes = len(shape) - 2
    given = {"kernel_shape": [kernel] * axes, "strides": [stride] * axes, "pads": [pad] * 2 * axes}
    assert transpose_error("AveragePool", shape, **given) < ROUNDING


def scaled(*scales: float) -> dict[int, np.ndarray]:
    return {2: np.array(scales, np.float32)}


@pytest.mark.parametrize("where", ["asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize(
    "constants", [scaled(1, 1, 2, 2), scaled(1, 1, 1, 1.5), scaled(1, 1, 0.5, 3)], ids=["2x2", "1x1.5", "half x 3"]
)
def test_resize(mode, where, constants):
    given = {"mode": mode, "coordinate_transformation_mode": where}
    assert transpose_error("Resize", ("n", 2, 4, 6), constants, **given) < ROUNDING


@pytest.mark.parametrize("rounding", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
def test_resize_to_a_size(rounding):
    constants = {3: np.array([7, 9])}
    assert (
        transpose_error("Resize", ("n", 2, 4, 6), constants, mode="nearest", nearest_mode=rounding, axes=[2, 3]) < ROUNDING
    )


@pytest.mark.parametrize(
    "operator, shape, constants, attributes, message",
    [
        ("AveragePool", ("n", 2, "h", 4), {}, {"kernel_shape": [2, 2]}, "image of free size .* Give --input-shape"),
        ("AveragePool", ("n", 2, 4, 4), {}, {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}, "wanted explicit pads"),
        ("AveragePool", ("n", 2, 4, 4), {}, {"kernel_shape": [2, 2], "ceil_mode": 1}, "wanted explicit pads"),
        ("Resize", ("n", 2, 4, 4), {}, {}, "computes its size in the graph"),
        ("Resize", ("n", 2, 4, 4), scaled(1, 2, 2, 2), {}, "more than height and width"),
    ],
)  # fmt: skip
def test_what_has_no_such_gradient_says_why(operator, shape, constants, attributes, message):
    with pytest.raises(InputError, match=f"{operator} 'it' .*{message}"):
        POOL_RULES[operator](Lone(node_of(operator, constants, **attributes), shape, constants))
