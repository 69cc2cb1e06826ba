"""The nodes of a graph that is being rewritten: their order, who makes and who reads each value, and edits that keep that true."""

from __future__ import annotations

from typing import Iterable

import onnx

from onnx_distill.edit import rename_values
from onnx_distill.lookup import read_by


class Wiring:
    """Nodes in topological order, each its own message; edits: how often one came or went."""

    edits = 0

    def wire(self, nodes: Iterable[onnx.NodeProto], outputs: Iterable[str]) -> None:
        """These are the nodes and the graph's outputs from now on."""
        self.outputs = set(outputs)
        self._order = [copy_of(node) for node in nodes]
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        self._producers: dict[str, onnx.NodeProto] = {}
        for node in self._order:
            self._enter(node)

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
        self.edits += 1

    def _leave(self, node: onnx.NodeProto) -> None:
        for name in dict.fromkeys(read_by(node)):
            self._readers[name] = [other for other in self._readers[name] if other is not node]
        for name in node.output:
            if self._producers.get(name) is node:
                del self._producers[name]
        self.edits += 1


def copy_of(node: onnx.NodeProto) -> onnx.NodeProto:
    """Its own message: one that belongs to a model is gone when the model's nodes are replaced."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy
