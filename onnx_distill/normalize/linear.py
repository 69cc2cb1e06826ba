"""A Conv, ConvTranspose, Gemm or MatMul with constant weights that also does the scaling and shifting behind it, or before it.

    behind      scale * (W x + b) + shift    = (scale W) x + (scale b + shift)         scale along the outputs of W
    before      W (scale * x + shift) + b    = (W scale) x + (b + W shift)             scale along the inputs of W

MatMul has no bias: what should go there is handed back, for an Add behind it. A weight that others read too is not changed: the
layer gets a new one. Must not fire on weights or biases that are computed or no float32, on Gemm with alpha, beta or transA; before
it, on a shift where the image is padded (zeros are not shifted), or of a ConvTranspose (which does not read each pixel everywhere).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np
import onnx

from onnx_distill.facts.logits import label
from onnx_distill.lookup import attribute
from onnx_distill.normalize.graph import Graph
from onnx_distill.normalize.scaling import Scaling

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
Folded = Optional[Tuple[onnx.NodeProto, np.ndarray]]  # the new layer, and the shift that it has no place for


@dataclass(frozen=True)
class Linear:
    """A layer; its weight seen as [groups, ., ., window], the channels that it makes along axis `outputs` of that, 1 or 2."""

    node: onnx.NodeProto
    shape: tuple[int, int, int, int]
    outputs: int
    channel_axis: int  # of what it reads and makes

    @property
    def inputs(self) -> int:
        return 3 - self.outputs

    def sized(self, vector: np.ndarray, axis: int, scaling: Scaling) -> np.ndarray | None:
        """The vector with an element for each channel along `axis` of the weight; None where it is one of something else."""
        count = self.shape[0] * self.shape[axis]
        if vector.size != 1 and (scaling.axis != self.channel_axis or vector.size != count):
            return None
        return np.broadcast_to(vector, (count,))


def linear(node: onnx.NodeProto, graph: Graph) -> Linear | None:
    """None where nothing can be folded into the node."""
    weight = graph.tensor(node.input[1]) if node.op_type in LAYERS and node.domain in ("", "ai.onnx") else None
    if weight is None or weight.data_type != onnx.TensorProto.FLOAT or graph.is_constant(node.input[0]):
        return None
    dims = tuple(weight.dims)
    if node.op_type in ("Conv", "ConvTranspose"):
        groups = attribute(node, "group", 1)
        shape = (groups, dims[0] // groups, dims[1], math.prod(dims[2:]))
        return Linear(node, shape, 1 if node.op_type == "Conv" else 2, 1)
    rank = graph.rank(node.output[0])
    if len(dims) != 2 or rank is None or rank != graph.rank(node.input[0]) or not _is_plain(node):
        return None
    return Linear(node, (1, dims[0], dims[1], 1), 1 if attribute(node, "transB", 0) else 2, rank - 1)


def _is_plain(node: onnx.NodeProto) -> bool:
    return (attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0), attribute(node, "transA", 0)) == (1.0, 1.0, 0)


def scaled_behind(layer: Linear, scaling: Scaling, graph: Graph) -> Folded:
    """The layer that also scales and shifts what it makes."""
    scale, shift = (layer.sized(vector, layer.outputs, scaling) for vector in (scaling.scale, scaling.shift))
    bias = _bias(layer, graph)
    if scale is None or shift is None or bias is None:
        return None
    return _with(layer, _scaled(layer, layer.outputs, scale, graph), scale * bias + shift, graph)


def scaled_before(layer: Linear, scaling: Scaling, graph: Graph) -> Folded:
    """The layer that reads what is not scaled and shifted yet."""
    scale, shift = (layer.sized(vector, layer.inputs, scaling) for vector in (scaling.scale, scaling.shift))
    bias = _bias(layer, graph)
    if scale is None or shift is None or bias is None or (shift.any() and _mixes_in_zeros(layer.node)):
        return None
    if shift.any():
        weight = np.asarray(graph.constant(layer.node.input[1])).reshape(layer.shape)
        sums = "gabk,gb->ga" if layer.outputs == 1 else "gabk,ga->gb"
        bias = bias + np.einsum(sums, weight, shift.reshape(layer.shape[0], -1)).reshape(-1)
    return _with(layer, _scaled(layer, layer.inputs, scale, graph), bias, graph)


def _mixes_in_zeros(node: onnx.NodeProto) -> bool:
    if node.op_type == "Conv":
        return any(attribute(node, "pads", [])) or attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
    return node.op_type == "ConvTranspose"


def _bias(layer: Linear, graph: Graph) -> np.ndarray | None:
    """One number for each output, zeros where the layer has no bias; None where it is computed, or of another shape."""
    node, count = layer.node, layer.shape[0] * layer.shape[layer.outputs]
    if len(node.input) < 3 or not node.input[2]:
        return np.zeros(count)
    tensor = graph.tensor(node.input[2])
    if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT or math.prod(tensor.dims) not in (1, count):
        return None
    if math.prod(tensor.dims) == count and list(tensor.dims)[-1:] not in ([count], []):
        return None
    return np.broadcast_to(np.asarray(graph.constant(node.input[2])).astype(np.float64).reshape(-1), (count,))


def _scaled(layer: Linear, axis: int, scale: np.ndarray, graph: Graph) -> np.ndarray | None:
    """The weight, scaled; None where it stays as it is."""
    if (scale == 1).all():
        return None
    sizes = [layer.shape[0], 1, 1, 1]
    sizes[axis] = layer.shape[axis]
    weight = np.asarray(graph.constant(layer.node.input[1]))
    with np.errstate(over="ignore"):  # _with looks at the result
        return (weight.reshape(layer.shape) * scale.astype(np.float32).reshape(sizes)).reshape(weight.shape)


def _with(layer: Linear, weight: np.ndarray | None, bias: np.ndarray, graph: Graph) -> Folded:
    ends = np.array([bias.min(), bias.max(), *((weight.min(), weight.max()) if weight is not None else ())])
    if not (np.abs(ends) <= np.finfo(np.float32).max).all():  # no number, or beyond float32
        return None
    node, inputs = layer.node, list(layer.node.input)
    if weight is not None:
        inputs[1] = _set(inputs[1], weight, node, graph)
    if node.op_type == "MatMul":
        return graph.changed(node, inputs), bias
    if len(inputs) > 2 and inputs[2]:
        inputs[2] = _set(inputs[2], bias.astype(np.float32), node, graph)
    elif bias.any():
        inputs[2:] = [graph.add_constant(bias.astype(np.float32), f"{label(node)}/bias")]
    return graph.changed(node, inputs), np.zeros(1)


def _set(name: str, array: np.ndarray, node: onnx.NodeProto, graph: Graph) -> str:
    is_its_own = list(node.input).count(name) == 1
    return graph.set_constant(name, array, node) if is_its_own else graph.add_constant(array, name)
