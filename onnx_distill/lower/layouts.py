"""Values between blocked kernels stay blocked: reorders are left only where layouts meet.

An elementwise operator does not care about the layout of its operands as long as all have the same one. So values of one
shape that are connected by elementwise operators form a group, and a group as a whole is blocked or plain, whichever leaves
fewer reorders around it. It does not fire for operands that broadcast along channels, or integers that a plain operator reads.
"""

from __future__ import annotations

import math
from collections import defaultdict

import onnx
from onnx import helper

from onnx_distill.lower.blocked import DOMAIN
from onnx_distill.lower.nodes import ELEMENTWISE, Constants, with_nodes

INTO, OUT_OF = "ReorderInput", "ReorderOutput"


def lower_layouts(training: onnx.ModelProto, shapes: dict[str, list[int]], block: int) -> onnx.ModelProto:
    """A copy of a training model that has blocked kernels, with reorders around groups of elementwise operators removed.

    shapes: of the model's values before it had blocked kernels, under their names.
    """
    graph = _Layouts(training, shapes, block)
    return with_nodes(training, graph.rewritten(), Constants())


class _Layouts:
    def __init__(self, model: onnx.ModelProto, shapes: dict[str, list[int]], block: int):
        self.nodes, self.shapes, self.block = list(model.graph.node), shapes, block
        self.outputs = {value.name for value in model.graph.output}
        self.parent: dict[str, str] = {}
        self.made_by = {name: node for node in self.nodes for name in node.output if name}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self.readers[name].append(node)
        self.members = {id(node): self._join(node) for node in self.nodes}
        self.blocked = self._choose()

    def _join(self, node: onnx.NodeProto) -> bool:
        """Whether the node works on a group; its values are then in it."""
        values = self._values(node)
        if not values:
            return False
        for value in values[1:]:
            self.parent[self._root(value)] = self._root(values[0])
        return True

    def _values(self, node: onnx.NodeProto) -> list[str]:
        """The operands and the result of an elementwise node that have its full shape; none where another operand broadcasts."""
        if node.op_type not in ELEMENTWISE or len(node.output) != 1:
            return []
        operands = [name for name in node.input if name]
        known = [self.shapes.get(name) for name in operands]
        full = next((shape for shape in known if shape and len(shape) == 4 and shape[1] % self.block == 0), None)
        if full is None or any(shape is None or (shape != full and math.prod(shape) != 1) for shape in known):
            return []
        return [name for name, shape in zip(operands, known) if shape == full] + [node.output[0]]

    def _root(self, value: str) -> str:
        self.parent.setdefault(value, value)
        while self.parent[value] != value:
            self.parent[value] = self.parent[self.parent[value]]
            value = self.parent[value]
        return value

    def _choose(self) -> set[str]:
        """The values of the groups that are better blocked: each reorder that goes counts for one, each new one against."""
        gain: dict[str, float] = defaultdict(float)
        for value in self.parent:
            gain[self._root(value)] += self._gain(value)
        return {value for value in self.parent if gain[self._root(value)] > 0}

    def _gain(self, value: str) -> float:
        maker = self.made_by.get(value)
        gone = sum(node.op_type == INTO for node in self.readers[value])
        plain = value in self.outputs or any(self._reads_plain(node) for node in self.readers[value])
        if maker is None or not (self.members[id(maker)] or maker.op_type == OUT_OF):
            return gone - 1 if maker is not None else -math.inf  # an input or initializer, which may be no float
        if maker.op_type == OUT_OF:
            return gone + (not plain)
        return gone - (plain if self._is_float(maker) else math.inf if plain else 0)

    def _reads_plain(self, node: onnx.NodeProto) -> bool:
        return not self.members[id(node)] and node.op_type != INTO and not _sums_everything(node)

    def _is_float(self, maker: onnx.NodeProto) -> bool:
        return maker.op_type not in (
            "QuantizeLinear",
            "QLinearAdd",
            "And",
            "Or",
            "Not",
            "Equal",
            "Greater",
            "GreaterOrEqual",
            "Less",
            "LessOrEqual",
            "Cast",
            "Clip",
        ) or (maker.op_type == "Clip" and self._is_float_value(maker.input[0]))

    def _is_float_value(self, value: str) -> bool:
        maker = self.made_by.get(value)
        return maker is None or maker.op_type not in ELEMENTWISE or self._is_float(maker)

    def rewritten(self) -> list[onnx.NodeProto]:
        """The nodes anew: members and blocked readers on blocked values, reorders where a plain node needs one."""
        name_of = {value: self._blocked_name(value) for value in self.blocked}
        same = {
            node.output[0]: name_of[node.input[0]]
            for node in self.nodes
            if node.op_type == INTO and node.input[0] in name_of
        }
        made: list[onnx.NodeProto] = []
        for node in self.nodes:
            if node.op_type == INTO and node.output[0] in same:
                continue
            copy = onnx.NodeProto.FromString(node.SerializeToString())
            takes_blocked = self.members[id(node)] or _sums_everything(node)
            copy.input[:] = [name_of.get(n, n) if takes_blocked else same.get(n, n) for n in node.input]
            if self.members[id(node)]:
                copy.output[:] = [name_of.get(n, n) for n in node.output]
            made.append(copy)
            made += [
                reorder
                for value in node.output
                if value in name_of
                for reorder in self._reorders(value, node, name_of[value])
            ]
        return made

    def _blocked_name(self, value: str) -> str:
        maker = self.made_by[value]
        return maker.input[0] if maker.op_type == OUT_OF else f"{value}/in_blocks"

    def _reorders(self, value: str, maker: onnx.NodeProto, name: str) -> list[onnx.NodeProto]:
        """What makes the other layout of a blocked value; pruned later where nobody reads it."""
        if maker.op_type == OUT_OF:
            return []
        if not self.members[id(maker)]:
            return [helper.make_node(INTO, [value], [name], f"{name}/reorder", domain=DOMAIN)]
        if not self._is_float(maker):
            return []
        return [
            helper.make_node(
                OUT_OF, [name], [value], f"{value}/reorder", domain=DOMAIN, channels=self.shapes_of_group(value)[1]
            )
        ]

    def shapes_of_group(self, value: str) -> list[int]:
        return next(
            self.shapes[other] for other in (value, *self.made_by[value].input) if len(self.shapes.get(other, ())) == 4
        )


def _sums_everything(node: onnx.NodeProto) -> bool:
    """ReduceSum without axes: the same in every layout."""
    keeps = next((entry.i for entry in node.attribute if entry.name == "keepdims"), 1)
    return node.op_type == "ReduceSum" and not keeps and len([name for name in node.input if name]) == 1
