"""An Einsum of two operands becomes a MatMul, or a Mul where nothing is summed; one of one operand a Transpose or ReduceSum.

Each index of a product belongs to one of five groups, by where it occurs:

    shared      left, right, output         leading axes of both sides of the MatMul
    rows        left, output                columns     right, output
    summed      left, right                 alone       in one operand and nowhere else: summed there first

    left -> [shared, rows, summed], right -> [shared, summed, columns], output <- [shared, rows, columns]

Must not fire on three operands and more, on an index twice in one operand (a diagonal), or where more than one group has
free sizes and has to become one axis.
"""

from __future__ import annotations

import math
from typing import Tuple

import numpy as np
import onnx

from onnx_distill.lookup import attribute
from onnx_distill.normalize.graph import Graph

OPS = ("Einsum",)
Side = Tuple[str, str]  # a value's name and the indices of its axes
SPARE = "αβγδεζηθικλμνξοπρστυφχψω"  # indices for the axes of an ellipsis


def rewrite(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    terms = _terms(node, graph)
    if terms is None or len(terms) > 3 or any(len(set(term)) < len(term) for term in terms):
        return None
    *operands, output = terms
    write = _Writer(node, graph)
    sides = [write.summed(name, term, "".join(terms)) for name, term in zip(node.input, operands)]
    made = sides[0] if len(sides) == 1 else write.product(sides[0], sides[1], output)
    if made is None:
        return None
    write.ordered(*made, output)
    return write.named(node.output[0])


def _terms(node: onnx.NodeProto, graph: Graph) -> list[str] | None:
    """Indices of each operand and of the output, ellipses spelled out; None where a rank is not known."""
    inputs, arrow, output = attribute(node, "equation").decode().replace(" ", "").partition("->")
    terms, ranks = inputs.split(","), [graph.rank(name) for name in node.input]
    if None in ranks or not all(graph.shape(name) is not None for name in node.input):
        return None
    spare = [SPARE[: rank - len(term.replace("...", ""))] for term, rank in zip(terms, ranks) if rank is not None]
    longest = max((s for s, term in zip(spare, terms) if "..." in term), key=len, default="")
    terms = [term.replace("...", longest[len(longest) - len(s) :]) for s, term in zip(spare, terms)]
    if not arrow:
        letters = "".join(terms).replace(longest, "")
        output = "..." + "".join(sorted(c for c in set(letters) if letters.count(c) == 1 and c not in longest))
    return [*terms, output.replace("...", longest)]


class _Writer:
    """Collects the nodes."""

    def __init__(self, node: onnx.NodeProto, graph: Graph):
        self.node, self.graph, self.is_possible = node, graph, True
        self.nodes: list[onnx.NodeProto] = []
        self.size: dict[str, int | str] = {}
        for name, term in zip(node.input, _terms(node, graph) or []):
            self.size.update(zip(term, graph.shape(name) or ()))

    def __call__(self, operator: str, value: str, *others: str | list[int], **attributes) -> str:
        names = [other if isinstance(other, str) else self._constant(np.array(other, np.int64)) for other in others]
        self.nodes.append(self.graph.node(operator, [value, *names], self.node, **attributes))
        return self.nodes[-1].output[0]

    def _constant(self, values: np.ndarray) -> str:
        return self.graph.add_constant(values, f"{self.node.output[0]}/constant")

    def named(self, output: str) -> list[onnx.NodeProto]:
        if not self.nodes:
            self("Identity", self.node.input[0])
        self.nodes[-1].output[0] = output
        return self.nodes

    def summed(self, value: str, term: str, everywhere: str) -> Side:
        alone = [axis for axis, index in enumerate(term) if everywhere.count(index) == 1]
        kept = "".join(index for index in term if everywhere.count(index) > 1)
        return (self("ReduceSum", value, alone, keepdims=0), kept) if alone else (value, term)

    def ordered(self, value: str, term: str, wanted: str) -> str:
        if term == wanted:
            return value
        order, values = [term.index(index) for index in wanted], self.graph.constant(value)
        return self("Transpose", value, perm=order) if values is None else self._constant(values.transpose(order))

    def product(self, left: Side, right: Side, output: str) -> Side | None:
        if self.graph.constant(left[0]) is not None:
            left, right = right, left  # weights are the right side of a MatMul
        shared = "".join(i for i in output if i in left[1] and i in right[1])
        summed = "".join(i for i in left[1] if i in right[1] and i not in output)
        rows, columns = (
            "".join(i for i in output if i in a[1] and i not in b[1]) for a, b in ((left, right), (right, left))
        )
        if not summed:
            return self._elementwise(left, right, output)
        leading = shared or rows  # axes that MatMul leaves as they are
        merged = [rows, summed] if shared or not rows else [summed]
        a = self._reshaped(self.ordered(*left, shared + rows + summed), leading, merged)
        b = self._reshaped(self.ordered(*right, shared + summed + columns), shared, [summed, columns])
        made = self("MatMul", a, b)
        if len(rows) != 1 and leading != rows or len(columns) != 1:
            made = self._reshaped(made, leading, [*(rows if leading != rows else ""), *columns], always=True)
        return (made, shared + rows + columns) if self.is_possible else None

    def _reshaped(self, value: str, leading: str, groups: list[str], always: bool = False) -> str:
        """[leading axes, one axis for each group]; not possible with two sizes that are free."""
        if all(len(group) == 1 for group in groups) and not always:
            return value
        shape = [0] * len(leading) + [self._size(group) for group in groups]
        self.is_possible &= shape.count(-1) < 2
        values = self.graph.constant(value)
        if values is None:
            return self("Reshape", value, shape)
        return self._constant(values.reshape([*values.shape[: len(leading)], *shape[len(leading) :]]))

    def _size(self, group: str) -> int:
        sizes = [self.size[index] for index in group]
        return -1 if any(isinstance(size, str) for size in sizes) else math.prod(int(size) for size in sizes)

    def _elementwise(self, left: Side, right: Side, output: str) -> Side:
        a, b = (self._spread(side, output) for side in (left, right))
        return self("Mul", a, b), output

    def _spread(self, side: Side, output: str) -> str:
        value = self.ordered(*side, "".join(index for index in output if index in side[1]))
        missing = [axis for axis, index in enumerate(output) if index not in side[1]]
        return self("Unsqueeze", value, missing) if missing else value
