"""Writing the nodes that take the place of one node of a training model, and putting them into a copy of the model."""

from __future__ import annotations

from typing import Callable

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from onnx_distill.edit import prune
from onnx_distill.lower.blocked import DOMAIN

# Operators whose result has one value for each value of their (broadcast) operands, whatever the layout.
ELEMENTWISE = frozenset(
    "Abs Add And Cast Clip DequantizeLinear Div Equal Erf Exp Greater GreaterOrEqual Identity Less LessOrEqual Log Max Min Mul "
    "Neg Not Or Pow QLinearAdd QuantizeLinear Reciprocal Relu Round Sigmoid Sign Sqrt Sub Sum Tanh Where ReluGrad SigmoidGrad "
    "TanhGrad".split()
)


class Constants:
    """Small integer constants, shared by value."""

    def __init__(self):
        self.tensors: dict[str, onnx.TensorProto] = {}

    def __call__(self, values, dtype=np.int64) -> str:
        array = np.asarray(values, dtype)
        name = f"onnx_distill/{array.dtype}/{'_'.join(map(str, np.atleast_1d(array)))}{'' if array.ndim else '/scalar'}"
        self.tensors.setdefault(name, numpy_helper.from_array(array, name))
        return name


class Nodes:
    """The nodes of one rewrite: nodes("Mul", a, b) appends a node and returns its output."""

    def __init__(self, constant: Constants, base: str, block: int = 0):
        self.constant, self.base, self.block = constant, base, block
        self.nodes: list[onnx.NodeProto] = []

    def __call__(self, operator: str, *inputs: str, to: str = "", domain: str = "", **attributes) -> str:
        name = f"{self.base}/{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [to or name], name, domain=domain, **attributes))
        return to or name

    def reorder_input(self, value: str) -> str:
        return self("ReorderInput", value, domain=DOMAIN)

    def reorder_output(self, value: str, channels: int, to: str) -> None:
        self("ReorderOutput", value, to=to, domain=DOMAIN, channels=channels)

    def reshape(self, value: str, shape: list[int], to: str = "") -> str:
        return self("Reshape", value, self.constant(shape), to=to)

    def conv(self, inputs: list[str], groups: int, kernel, pads: list[int], strides=(1, 1), dilations=(1, 1)) -> str:
        """A convolution of blocked values."""
        sizes = dict(kernel_shape=list(kernel), pads=pads, strides=list(strides), dilations=list(dilations))
        return self("Conv", *inputs, to="", domain=DOMAIN, group=groups, **sizes)

    def bias_gradient(self, dy: str, n: int, channels: int, pixels: int, to: str) -> None:
        """db [channels] from blocked dy: first over space, then over images, each a sum that the runtime has a fast loop for."""
        rows = self.reshape(dy, [n * channels // self.block, pixels, self.block])
        images = self.reshape(self("ReduceSum", rows, self.constant([1]), keepdims=0), [n, channels])
        self("ReduceSum", images, self.constant([0]), to=to, keepdims=0)


def rewritten(
    model: onnx.ModelProto, rewrite: Callable[[onnx.NodeProto], list[onnx.NodeProto] | None], constants: Constants
) -> onnx.ModelProto:
    """A copy of the model with rewrite(node) in place of each node, or the node itself where that is None; pruned."""
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        new = rewrite(node)
        nodes += [node] if new is None else new
    return with_nodes(model, nodes, constants)


def changed(node: onnx.NodeProto, inputs: dict[int, str]) -> onnx.NodeProto:
    """A copy of the node that reads other values at these positions."""
    made = onnx.NodeProto.FromString(node.SerializeToString())
    for position, name in inputs.items():
        made.input[position] = name
    return made


def with_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto], constants: Constants) -> onnx.ModelProto:
    """A copy of the model with these nodes and constants in it; pruned."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del made.graph.node[:]
    made.graph.node.extend(copies)
    known = {tensor.name for tensor in made.graph.initializer}
    made.graph.initializer.extend(tensor for name, tensor in constants.tensors.items() if name not in known)
    if DOMAIN in {node.domain for node in copies} - {entry.domain for entry in made.opset_import}:
        made.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    prune(made)
    return made


def value_shapes(model: onnx.ModelProto, batch_size: int) -> dict[str, list[int]]:
    """Fully known shapes of values when every free first dimension of an input is `batch_size`.

    ONNX's inference stops at operators of the training runtime: what it leaves is filled in, gradients from what they are
    gradients of. Call it before blocked kernels are put in.
    """
    pinned = onnx.ModelProto()
    pinned.CopyFrom(model)
    for value in pinned.graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_value = batch_size
    inferred = shape_inference.infer_shapes(pinned).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in inferred.initializer}
    for value in [*inferred.input, *inferred.value_info, *inferred.output]:
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            shapes[value.name] = [d.dim_value for d in dims]
    for node in model.graph.node:
        for name, shape in _made_shapes(node, shapes).items():
            shapes.setdefault(name, shape)
    return shapes


def more_shapes(model: onnx.ModelProto, shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    """`shapes` and those of the constants and elementwise nodes that rewrites have put in since."""
    known = {**{tensor.name: list(tensor.dims) for tensor in model.graph.initializer}, **shapes}
    for node in model.graph.node:
        for name, shape in _made_shapes(node, known).items():
            known.setdefault(name, shape)
    return known


def _made_shapes(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    """Shapes of the outputs of a ConvGrad or elementwise node whose operands have known shapes."""
    if node.op_type == "ConvGrad":
        given = [shapes.get(name) for name in node.input[1:3]]
        bias = [given[1][0]] if given[1] else None
        return {name: shape for name, shape in zip(node.output, [*given, bias]) if name and shape}
    operands = node.input[:1] if node.op_type in ("QuantizeLinear", "DequantizeLinear") else node.input
    known = [shapes.get(name) for name in operands if name]
    if node.op_type not in ELEMENTWISE or len(node.output) != 1 or not known or None in known:
        return {}
    try:
        return {node.output[0]: list(np.broadcast_shapes(*known))}  # type: ignore[arg-type]
    except ValueError:  # sizes that a graph states and does not keep: those kernels stay plain
        return {}
