"""A node whose gradient is written down, as the rules see it: its values in a Formula, its attributes, constants and shapes."""

from __future__ import annotations

from typing import Any, Callable, Protocol, Sequence, Union

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnx_distill import lookup
from onnx_distill.errors import InputError
from onnx_distill.facts.logits import label
from onnx_distill.gradients.formula import Formula, Value

# The gradient of the first input, or a list of those of the inputs in order, with None for one that has none.
Rule = Callable[["Site"], Union[Value, "list[Value | None]"]]


class Known(Protocol):
    """What a rule may look up in the node's graph: shape(value) is None where not even the rank is known."""

    @property
    def opset(self) -> int: ...

    @property
    def constants(self) -> dict[str, TensorProto]: ...

    def shape(self, value: str) -> tuple[int | str, ...] | None: ...


class Site:
    """One node whose gradient is written down: `dy`, its first input `x`, its output `y`, all its `inputs`; and what is known of it."""

    def __init__(self, node: onnx.NodeProto, graph: Known):
        self.node, self.graph, self.formula = node, graph, Formula()
        self.inputs = self.formula.values([f"I({place})" for place in range(len(node.input))])
        self.x, self.y, self.dy = self.formula.values(["I(0)", "O(0)", "GO(0)"])

    def __call__(self, operator: str, *operands, **attributes) -> Value:
        return self.formula(operator, *operands, **attributes)

    def attribute(self, name: str, default: Any) -> Any:
        return lookup.attribute(self.node, name, default)

    def constant(self, place: int) -> np.ndarray | None:
        """The values of an input that is an initializer, or None."""
        name = self.node.input[place] if place < len(self.node.input) else ""
        return numpy_helper.to_array(self.graph.constants[name]) if name in self.graph.constants else None

    def shape(self, place: int) -> tuple[int | str, ...]:
        return self.shape_of(self.node.input[place])

    def shape_of(self, value: str) -> tuple[int | str, ...]:
        """Raises InputError where shape inference finds none."""
        shape = self.graph.shape(value)
        if shape is None:
            raise InputError(
                f"{self.node.op_type} {label(self.node)!r}: no shape is known for {value!r}, and its gradient needs one. "
                "Give --input-shape."
            )
        return shape

    def spatial_axes(self) -> list[int]:
        return list(range(2, len(self.shape(0))))

    def reduced_axes(self) -> list[int]:
        """Of a reduction: its attribute, its second input, or all axes."""
        given = self.constant(1)
        axes = given.tolist() if given is not None else self.attribute("axes", [])
        return axes or list(range(len(self.shape(0))))

    def kept(self, value: Value) -> Value:
        """Output (or its gradient) of a reduction with the reduced axes, which it may have dropped, as ones."""
        rank = len(self.shape(0))
        axes = sorted(axis % rank for axis in self.reduced_axes())
        return value if self.attribute("keepdims", 1) else self("Unsqueeze", value, axes)

    def sum(self, value: Value, axes: Sequence[int], keepdims: int = 1) -> Value:
        return self("ReduceSum", value, list(axes), keepdims=keepdims)

    def mean(self, value: Value, axes: Sequence[int]) -> Value:
        if self.graph.opset < 18:
            return self("ReduceMean", value, axes=list(axes), keepdims=1)
        return self("ReduceMean", value, list(axes), keepdims=1)

    def sum_to(self, value: Value, place: int) -> Value:
        """`value`, shaped like the output, summed over the axes along which input `place` was broadcast."""
        small, full = self.shape(place), self.shape_of(self.node.output[0])
        added = len(full) - len(small)
        repeated = [added + i for i, (s, f) in enumerate(zip(small, full[added:])) if s == 1 and f != 1]
        summed = self.sum(value, [*range(added), *repeated]) if added or repeated else value
        return self("Squeeze", summed, list(range(added))) if added else summed
