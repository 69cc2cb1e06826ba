"""What is known of a node before it runs: its constants, the types and shapes of what it reads, and how often it will run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto


@dataclass(frozen=True)
class Seen:
    """What is known where a node stands. types: of computed values, as far as they are known."""

    opset: int  # of ONNX's own operators
    types: Mapping[str, onnx.TypeProto.Tensor]
    constants: dict[str, TensorProto]
    measured: set[str]  # values that depend on nothing but the sizes of others
    rounds: int = 1  # that the loops around it make


class Operands:
    """What one node reads, by place."""

    def __init__(self, node: onnx.NodeProto, seen: Seen):
        self._names, self._seen, self.opset, self.rounds = list(node.input), seen, seen.opset, seen.rounds

    def constant(self, place: int) -> TensorProto | None:
        return self._seen.constants.get(self._names[place]) if place < len(self._names) else None

    def dims(self, place: int) -> list[int | str] | None:
        """Free sizes as names; None for an operand that is left out or of unknown rank."""
        tensor = self.constant(place)
        if tensor is not None:
            return list(tensor.dims)
        known = self._seen.types.get(self._names[place]) if place < len(self._names) else None
        return [dim.dim_value or dim.dim_param for dim in known.shape.dim] if known and known.HasField("shape") else None

    def kind(self, place: int) -> int:
        """TensorProto.DataType of an operand, UNDEFINED where it is not known."""
        tensor = self.constant(place)
        known = self._seen.types.get(self._names[place]) if place < len(self._names) else None
        return tensor.data_type if tensor is not None else known.elem_type if known else TensorProto.UNDEFINED

    def is_measured(self, place: int) -> bool:
        return self._names[place] in self._seen.measured
