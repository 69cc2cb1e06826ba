"""Formulas become the nodes of a gradient: `dy * (1 - y * y)` reads like what is written down in the table.

A Formula collects nodes; a Value is one of its values, with + - * / and comparisons. Numbers, lists of them and numpy arrays of
at most one axis may stand where a value may, and become constants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Sequence, Union

import numpy as np
from onnx import TensorProto

from onnx_distill._ort import GradientNode


class Formula:
    """formula("Exp", x) is a value, and its node is in formula.nodes."""

    def __init__(self) -> None:
        self.nodes: list[GradientNode] = []

    def __call__(self, operator: str, *operands: Operand, **attributes) -> Value:
        inputs = [self._name(operand) for operand in operands]
        output = f"v{len(self.nodes)}"
        self.nodes.append((operator, inputs, [output], {name: _attribute(value) for name, value in attributes.items()}))
        return Value(self, output)

    def _name(self, operand: Operand) -> str:
        return operand.name if isinstance(operand, Value) else self._constant(np.asarray(operand))

    def _constant(self, values: np.ndarray) -> str:
        """An int64 constant for integers in a list, a float32 one for all else."""
        kind = "int" if values.ndim and values.dtype.kind == "i" else "float"
        content = values.tolist() if kind == "int" else np.float32(values).tolist()
        output = f"v{len(self.nodes)}"
        self.nodes.append(("Constant", [], [output], {"value": (content, kind)}))
        return output

    def mask(self, truth: Value) -> Value:
        """1.0 and 0.0 for booleans. By way of uint8: each step is vectorised, Cast from bool to float is not."""
        return self("DequantizeLinear", self("Cast", truth, to=TensorProto.UINT8), 1.0)

    def values(self, names: Sequence[str]) -> list[Value]:
        return [Value(self, name) for name in names]

    def results(self, wanted: dict[str, Value]) -> list[GradientNode]:
        """The nodes that the wanted values need, which end in these names."""
        named: list[GradientNode] = [("Identity", [value.name], [name], {}) for name, value in wanted.items()]
        needed, kept = {value.name for value in wanted.values()}, []
        for node in reversed(self.nodes):
            if needed.intersection(node[2]):
                needed.update(node[1])
                kept.append(node)
        return [*reversed(kept), *named]


@dataclass(frozen=True)
class Value:
    """A value of a formula."""

    formula: Formula
    name: str

    def __add__(self, other: Operand) -> Value:
        return self.formula("Add", self, other)

    def __radd__(self, other: Operand) -> Value:
        return self.formula("Add", other, self)

    def __sub__(self, other: Operand) -> Value:
        return self.formula("Sub", self, other)

    def __rsub__(self, other: Operand) -> Value:
        return self.formula("Sub", other, self)

    def __mul__(self, other: Operand) -> Value:
        return self.formula("Mul", self, other)

    def __rmul__(self, other: Operand) -> Value:
        return self.formula("Mul", other, self)

    def __truediv__(self, other: Operand) -> Value:
        return self.formula("Div", self, other)

    def __rtruediv__(self, other: Operand) -> Value:
        return self.formula("Div", other, self)

    def __neg__(self) -> Value:
        return self.formula("Neg", self)

    def __gt__(self, other: Operand) -> Value:
        """1.0 where greater."""
        return self.formula.mask(self.formula("Greater", self, other))

    def __lt__(self, other: Operand) -> Value:
        """1.0 where less."""
        return self.formula.mask(self.formula("Less", self, other))


Operand = Union[Value, float, Sequence[int], np.ndarray]


def _attribute(value: Any) -> tuple[Any, str]:
    first = value[0] if isinstance(value, list) else value
    return value, {int: "int", float: "float", str: "string"}[type(first)]
