"""A graph being rewritten: its nodes (wiring.py), its initializers (contents.py), and the types and shapes of its values."""

from __future__ import annotations

from typing import Iterable

import numpy as np
import onnx

from onnx_distill.edit import fresh_name
from onnx_distill.facts.logits import value_types
from onnx_distill.lookup import opset, shape_of
from onnx_distill.normalize.contents import Contents
from onnx_distill.normalize.wiring import Wiring, copy_of


class Graph(Wiring, Contents):
    """Holds `model` and edits it in place; `finish` writes the edits back."""

    def __init__(self, model: onnx.ModelProto):
        super().__init__(model)
        self.read_in(model)

    def read_in(self, model: onnx.ModelProto) -> None:
        """Hold `model`, or look again at the one held, whose nodes were changed by others since `finish` or `with_nodes`."""
        self.hold(model)
        self.opset = opset(model)
        self.wire(model.graph.node, (value.name for value in model.graph.output))
        self._names = {name for node in self.nodes for name in (node.name, *node.input, *node.output)}
        self._names |= {value.name for value in model.graph.input} | set(self._initializers)
        self._types: dict[str, onnx.ValueInfoProto] | None = None
        self._typed_at = -1  # self.edits when types were inferred

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
        if self._types is None or (value not in self._types and self._typed_at != self.edits):
            self._types, self._typed_at = value_types(self.model, self._order), self.edits
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
        made = copy_of(node)
        kept = [entry for entry in node.attribute if entry.name not in attributes]
        del made.attribute[:]
        made.attribute.extend(kept)
        made.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in attributes.items() if v is not None)
        made.input[:] = node.input if inputs is None else inputs
        return made

    def finish(self) -> onnx.ModelProto:
        """The model with the edits in it; what nothing reads any more is still there."""
        self.write_contents()
        return self.with_nodes()

    def with_nodes(self) -> onnx.ModelProto:
        """The model with the nodes as they stand; large constants that were edited have no contents in it yet."""
        del self.model.graph.node[:]
        self.model.graph.node.extend(self._order)
        return self.model
