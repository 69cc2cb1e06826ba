"""A graph being rewritten: look-ups of constants, readers, producers, shapes and types, and edits that keep them true."""

from __future__ import annotations

import math
from typing import Iterable

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnx_distill.edit import fresh_name, keep, rename_values
from onnx_distill.logits import label, value_types
from onnx_distill.lookup import initializers, opset, read_by, shape_of
from onnx_distill.weightless import SMALL

NUMBERS = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.DOUBLE,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.UINT8,
)


class Graph:
    """Holds `model` and edits it in place; `finish` writes the edits back.

    Large constants that were edited stay numpy arrays until then: bytes once put into a protobuf message are held, even
    when they are replaced, for as long as the whole model lives (upb, 7.36). So the large tensors of Constant nodes are not
    copied with their nodes: these are initializers from the start, read where they were (`take_lifted` has their labels).
    """

    def __init__(self, model: onnx.ModelProto):
        # contents of large initializers, which have none in the model until `finish`: edited ones, and those of Constants
        self._edited: dict[str, np.ndarray] = {}
        self._lifted: dict[str, onnx.TensorProto] = {}
        self._labels_lifted = [self._lift(node, model) for node in _large_constants(model)]
        keep(model.graph.node, lambda node: not self._lifted.keys() & set(node.output))
        self.read_in(model)

    def _lift(self, node: onnx.NodeProto, model: onnx.ModelProto) -> str:
        name, tensor = node.output[0], node.attribute[0].t
        model.graph.initializer.add(name=name, data_type=tensor.data_type, dims=tensor.dims)
        self._lifted[name] = tensor
        return label(node)

    def take_lifted(self) -> list[str]:
        """Labels of the Constant nodes that are initializers since the graph was made, told once."""
        labels, self._labels_lifted = self._labels_lifted, []
        return labels

    def read_in(self, model: onnx.ModelProto) -> None:
        """Hold `model`, or look again at the one held, whose nodes were changed by others since `finish` or `with_nodes`."""
        self.model = model
        self.opset = opset(model)
        self.outputs = {value.name for value in model.graph.output}
        self._order = [_copy(node) for node in model.graph.node]
        self._initializers = initializers(model)
        keep(model.graph.value_info, lambda value: value.name not in self._initializers)  # their shapes may change
        self._names = {name for node in self._order for name in (node.name, *node.input, *node.output)}
        self._names |= {value.name for value in model.graph.input} | set(self._initializers)
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        self._producers: dict[str, onnx.NodeProto] = {}
        for node in self._order:
            self._enter(node)
        self._types: dict[str, onnx.ValueInfoProto] | None = None
        self._types_are_old = True

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes in topological order, as they stand now."""
        return list(self._order)

    def producer(self, value: str) -> onnx.NodeProto | None:
        """The node that makes the value; None for inputs and initializers."""
        return self._producers.get(value)

    def readers(self, value: str) -> list[onnx.NodeProto]:
        """The nodes that read the value (in their subgraphs too); being a graph output is not a reader."""
        return list(self._readers.get(value, ()))

    def only_reader(self, value: str) -> onnx.NodeProto | None:
        """The node that alone reads the value, if the value is no graph output either."""
        readers = self.readers(value)
        return readers[0] if len(readers) == 1 and value not in self.outputs else None

    def is_used(self, value: str) -> bool:
        return bool(value) and (value in self.outputs or bool(self.readers(value)))

    def holds(self, node: onnx.NodeProto) -> bool:
        """Whether the node is still in the graph."""
        return any(self._producers.get(name) is node for name in node.output)

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

    def shape(self, value: str) -> tuple[int | str, ...] | None:
        """Dimensions of a value, an int where fixed and a name ('?' if unnamed) where free; None where even the rank is unknown."""
        if value in self._initializers:
            return tuple(self._initializers[value].dims)
        info = self._type_of(value)
        return tuple(shape_of(info)) if info is not None and info.type.tensor_type.HasField("shape") else None

    def sizes(self, value: str, axes: Iterable[int] | None = None) -> tuple[int, ...] | None:
        """Sizes along these axes (else along all behind batch and channels); None where one of them is free or unknown."""
        shape = self.shape(value)
        if shape is None:
            return None
        found = shape[2:] if axes is None else [shape[axis] for axis in axes]
        fixed = tuple(size for size in found if isinstance(size, int) and size > 0)
        return fixed if len(fixed) == len(found) else None

    def rank(self, value: str) -> int | None:
        shape = self.shape(value)
        return None if shape is None else len(shape)

    def dtype(self, value: str) -> int | None:
        """TensorProto.DataType of a value, or None where unknown."""
        if value in self._initializers:
            return self._initializers[value].data_type
        info = self._type_of(value)
        return info.type.tensor_type.elem_type if info is not None else None

    def _type_of(self, value: str) -> onnx.ValueInfoProto | None:
        if self._types is None or (value not in self._types and self._types_are_old):
            self._types, self._types_are_old = value_types(self.model, self._order), False
        return self._types.get(value)

    def fresh(self, base: str) -> str:
        """A name, like `base`, that nothing in the graph has."""
        return fresh_name(base, self._names)

    def add_constant(self, array: np.ndarray, base: str) -> str:
        """The name of a new initializer with these values."""
        name = self.fresh(base)
        self.put(name, array)
        return name

    def add_tensor(self, tensor: onnx.TensorProto, name: str) -> None:
        """A copy of the tensor as a new initializer, under a name that nothing in the graph has."""
        self._forget_contents(name)
        self._initializer(name).CopyFrom(tensor)
        self._initializers[name].name = name

    def set_constant(self, name: str, array: np.ndarray, reader: onnx.NodeProto) -> str:
        """New values for the constant that `reader` reads: under the old name where nothing else reads it, else under a new one."""
        if self.only_reader(name) is not reader:
            return self.add_constant(array, name)
        self.put(name, array)
        return name

    def settle(self, node: onnx.NodeProto, values: dict[str, np.ndarray]) -> None:
        """Put initializers with these values in the place of a node that makes nothing else that is used."""
        self.replace(node, [])
        for name, array in values.items():
            self.put(name, array)

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

    def node(
        self, op: str, inputs: Iterable[str], like: onnx.NodeProto, output: str | None = None, **attributes
    ) -> onnx.NodeProto:
        """A node named after `like`, the one it replaces (in part); its one output is `output` or new.

        Attributes that are None are left out.
        """
        base = f"{like.name or like.output[0]}/{op}"
        given = {name: value for name, value in attributes.items() if value is not None}
        return onnx.helper.make_node(
            op, list(inputs), [output or self.fresh(base)], name=self.fresh(f"{base}/node"), **given
        )

    def changed(self, node: onnx.NodeProto, inputs: Iterable[str] | None = None, **attributes) -> onnx.NodeProto:
        """The same node, by name and outputs, with other inputs where given and these attributes; None takes one out."""
        made = _copy(node)
        kept = [entry for entry in node.attribute if entry.name not in attributes]
        del made.attribute[:]
        made.attribute.extend(kept)
        made.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in attributes.items() if v is not None)
        made.input[:] = node.input if inputs is None else inputs
        return made

    def replace(self, node: onnx.NodeProto, new: list[onnx.NodeProto]) -> None:
        """Put `new`, in topological order, where `node` was. The outputs of `node` that are still read must be made by them."""
        place = next(i for i, other in enumerate(self._order) if other is node)
        self._order[place : place + 1] = new
        self._leave(node)
        for other in new:
            self._enter(other)

    def restore(self, nodes: list[onnx.NodeProto]) -> None:
        """The nodes are those that `nodes` were before some were replaced."""
        for node in self._order:
            self._leave(node)
        self._order = list(nodes)
        for node in nodes:
            self._enter(node)

    def rename(self, old: str, new: str) -> None:
        """Everything that reads `old` reads `new`; graph outputs keep their names, so `old` must be none."""
        for node in self.readers(old):
            self._leave(node)
            rename_values(node, {old: new})
            self._enter(node)

    def remove(self, node: onnx.NodeProto) -> bool:
        """Take out a node whose first output equals its first input; False, and nothing done, where the output is a graph
        output and so is the input, or the input is made by no node: then nobody else could carry its name."""
        source, result = node.input[0], node.output[0]
        if result not in self.outputs:
            self.replace(node, [])
            self.rename(result, source)
            return True
        made_by = self.producer(source)
        if made_by is None or source in self.outputs:
            return False
        self.replace(node, [])
        self._leave(made_by)
        made_by.output[:] = [result if name == source else name for name in made_by.output]
        self._enter(made_by)
        self.rename(source, result)
        return True

    def _enter(self, node: onnx.NodeProto) -> None:
        for name in dict.fromkeys(read_by(node)):
            self._readers.setdefault(name, []).append(node)
        self._producers.update({name: node for name in node.output if name})
        self._types_are_old = True

    def _leave(self, node: onnx.NodeProto) -> None:
        for name in dict.fromkeys(read_by(node)):
            self._readers[name] = [other for other in self._readers[name] if other is not node]
        for name in node.output:
            if self._producers.get(name) is node:
                del self._producers[name]
        self._types_are_old = True

    def finish(self) -> onnx.ModelProto:
        """The model with the edits in it; what nothing reads any more is still there."""
        for contents in (self._edited, self._lifted):  # the largest first: their copies' memory then suits all that follow
            for name in sorted(contents, key=lambda name: -math.prod(self._initializers[name].dims)):
                self._initializers[name].raw_data = _bytes(contents.pop(name))
        return self.with_nodes()

    def with_nodes(self) -> onnx.ModelProto:
        """The model with the nodes as they stand; large constants that were edited have no contents in it yet."""
        del self.model.graph.node[:]
        self.model.graph.node.extend(self._order)
        return self.model


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


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    """Its own message: one that belongs to a model is gone when the model's nodes are replaced."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy
