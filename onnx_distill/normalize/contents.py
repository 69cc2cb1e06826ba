"""The initializers of a graph that is being rewritten: their contents, and how large ones are kept out of protobuf meanwhile."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnx_distill.edit import keep
from onnx_distill.facts.logits import label
from onnx_distill.facts.weightless import SMALL
from onnx_distill.lookup import initializers

NUMBERS = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.DOUBLE,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.UINT8,
)


class Contents:
    """Initializers of `model`, by name.

    Large constants that were edited stay numpy arrays until `write_contents`: bytes once put into a protobuf message are held, even
    when they are replaced, for as long as the whole model lives (upb, 7.36). So the large tensors of Constant nodes are not
    copied with their nodes: these are initializers from the start, read where they were (`take_lifted` has their labels).
    """

    def __init__(self, model: onnx.ModelProto):
        # contents of large initializers, which have none in the model until `write_contents`: edited ones, and those of Constants
        self._edited: dict[str, np.ndarray] = {}
        self._lifted: dict[str, onnx.TensorProto] = {}
        self._labels_lifted = [self._lift(node, model) for node in _large_constants(model)]
        keep(model.graph.node, lambda node: not self._lifted.keys() & set(node.output))

    def _lift(self, node: onnx.NodeProto, model: onnx.ModelProto) -> str:
        name, tensor = node.output[0], node.attribute[0].t
        model.graph.initializer.add(name=name, data_type=tensor.data_type, dims=tensor.dims)
        self._lifted[name] = tensor
        return label(node)

    def take_lifted(self) -> list[str]:
        """Labels of the Constant nodes that are initializers since the graph was made, told once."""
        labels, self._labels_lifted = self._labels_lifted, []
        return labels

    def hold(self, model: onnx.ModelProto) -> None:
        """These are the initializers of `model` from now on."""
        self.model = model
        self._initializers = initializers(model)
        keep(model.graph.value_info, lambda value: value.name not in self._initializers)  # their shapes may change

    def constant(self, value: str) -> np.ndarray | None:
        """The values of an initializer (read-only), or None. Constant nodes are initializers by the time node rewrites run."""
        if value in self._edited:
            return self._edited[value]
        tensor = self._lifted.get(value, self._initializers.get(value))
        return None if tensor is None else numpy_helper.to_array(tensor)

    def tensor(self, value: str) -> onnx.TensorProto | None:
        """The name, type and shape of an initializer, or None; its contents too where it has at most SMALL elements."""
        return self._initializers.get(value)

    def is_constant(self, value: str) -> bool:
        return value in self._initializers

    def scalar(self, value: str) -> float | None:
        """The value of an initializer with one element, or None."""
        tensor = self._initializers.get(value)
        if tensor is None or int(np.prod(tensor.dims, dtype=np.int64)) != 1:
            return None
        return float(numpy_helper.to_array(tensor).reshape(()))

    def put(self, name: str, array: np.ndarray) -> None:
        """An initializer has these values, and this name whoever reads it. The array is kept: nobody may write to it any more."""
        tensor, array = self._initializer(name), np.asarray(array)
        self._forget_shape(name, array.shape)
        self._forget_contents(name)
        if array.size <= SMALL or array.dtype.kind not in "fiub":  # the rest: strings, types of other libraries
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        else:
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            tensor.CopyFrom(onnx.TensorProto(name=name, data_type=kind, dims=array.shape))
            self._edited[name] = array

    def _forget_contents(self, name: str) -> None:
        self._edited.pop(name, None)
        self._lifted.pop(name, None)

    def _forget_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Exporters declare shapes of initializers too: wrong once the initializer has another."""
        if tuple(self._initializers[name].dims) != shape:
            for place in reversed([i for i, value in enumerate(self.model.graph.value_info) if value.name == name]):
                del self.model.graph.value_info[place]

    def _initializer(self, name: str) -> onnx.TensorProto:
        if name not in self._initializers:
            self._initializers[name] = self.model.graph.initializer.add()
        return self._initializers[name]

    def write_contents(self) -> None:
        """Put the contents of the large ones into the model."""
        for contents in (self._edited, self._lifted):  # the largest first: their copies' memory then suits all that follow
            for name in sorted(contents, key=lambda name: -math.prod(self._initializers[name].dims)):
                self._initializers[name].raw_data = _bytes(contents.pop(name))


def _large_constants(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Constant nodes with more than SMALL numbers that are no output of the graph."""
    outputs = {value.name for value in model.graph.output}
    return [node for node in model.graph.node if outputs.isdisjoint(node.output) and _is_large_constant(node)]


def _is_large_constant(node: onnx.NodeProto) -> bool:
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or len(node.attribute) != 1:
        return False
    tensor = node.attribute[0].t
    return tensor.data_type in NUMBERS and math.prod(tensor.dims) > SMALL


def _bytes(content: np.ndarray | TensorProto) -> bytes:
    if isinstance(content, TensorProto):
        return content.raw_data or numpy_helper.to_array(content).tobytes()
    return content.tobytes()
