"""What placement asks of one model: which nodes run in integers, which value's quantizer a value shares, where the edges are.

A node with weights runs in integers. One that joins activations (Add, Mul, Concat, Sigmoid, ...) does where that saves
conversions: all that it reads at full size are integers anyway, and a node behind it takes integers. So the gates and shortcuts
of convolutions stay integers, while LayerNormalization, Softmax and Gelu are islands of floats, and so are the biases and
shortcuts between a MatMul, whose kernel hands out floats as readily, and such an island.
"""

from __future__ import annotations

import fnmatch
import math

import onnx

from onnx_distill.closest import closest
from onnx_distill.config import QuantizeConfig
from onnx_distill.errors import InputError
from onnx_distill.facts.logits import value_types
from onnx_distill.lookup import array, consumers, image_input, initializers, producers, shape_of
from onnx_distill.placement.table import ABSORBED, FLOAT_RESULT, JOINING, PASSING, SHRINKING, SIZES, WEIGHTED, role_of
from onnx_distill.targets import target_of


class Graph:
    """Look-ups for one model under one configuration."""

    def __init__(self, model: onnx.ModelProto, config: QuantizeConfig):
        self.model, self.symmetric = model, bool(config.symmetric)
        self.constants, self.made_by, self.readers = initializers(model), producers(model), consumers(model)
        self.outputs = {value.name for value in model.graph.output}
        self.types = value_types(model)
        self.excluded = _excluded(model, config)
        self.roles = {id(node): self._role(node) for node in model.graph.node}
        self.joining: set[int] = set()
        self._join()
        self.float_sums = self._float_sums() if target_of(config.target).float_sums else set()
        self.before_first, self.first = self._until_weighted({image_input(model).name})
        _, self.last = self._until_weighted(self.outputs, backwards=True)
        self.after_last, _ = self._until_weighted({node.output[0] for node in self.last.values()})

    def role(self, node: onnx.NodeProto) -> str | None:
        """The node's row in PLACEMENT, or None where it stays as it is."""
        return self.roles[id(node)]

    def _role(self, node: onnx.NodeProto) -> str | None:
        known = self.types.get(node.output[0])
        kind = known.type.tensor_type.elem_type if known is not None else onnx.TensorProto.UNDEFINED
        is_float = kind in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.FLOAT)  # else such as integers of a computed shape
        return role_of(node, self.constants) if is_float and node.name not in self.excluded else None

    def is_integer(self, node: onnx.NodeProto) -> bool:
        """Whether the node computes on integers; one that merely passes them on does not."""
        return self.role(node) == WEIGHTED or id(node) in self.joining

    def _able_to_join(self) -> set[int]:
        """Nodes whose every operand of full size is in integers anyway: made by an integer kernel or read by a weighted node."""
        integers = {self.root(n) for node in self._weighted() for n in node.input[:2] if n not in self.constants}
        able = set()
        for node in self.model.graph.node:
            if self.role(node) == JOINING and all(self.root(name) in integers for name in self._full_operands(node)):
                able.add(id(node))
            if id(node) in able or (self.role(node) == WEIGHTED and not self._may_give_floats(node)):
                integers.add(self.absorbing(node.output[0]))
        return able

    def _join(self) -> None:
        """Those of them join behind which something takes integers."""
        able = self._able_to_join()
        for node in reversed(self.model.graph.node):
            if id(node) in able and (node.op_type in SHRINKING or self._is_taken(self.absorbing(node.output[0]))):
                self.joining.add(id(node))

    def _may_give_floats(self, node: onnx.NodeProto) -> bool:
        """Whether an integer kernel hands out floats. Of a MatMul of matrices and a float Add behind it the optimizer makes a
        float Gemm before it looks at the quantizers (MatMulAddFusion, 1.19.2 and 1.32)."""
        shape, readers = self._shape(node.output[0]), self.readers.get(node.output[0], [])
        fuses = node.op_type == "MatMul" and (shape is None or len(shape) <= 2) and any(r.op_type == "Add" for r in readers)
        return node.op_type in FLOAT_RESULT and not fuses

    def _full_operands(self, node: onnx.NodeProto) -> list[str]:
        """Activations that the node reads, without those that it spreads over the others: quantizing them costs nothing."""
        operands = [name for name in node.input if name and name not in self.constants]
        full = [name for name in operands if node.op_type == "Concat" or not self._is_spread(name, node.output[0])]
        return full or operands

    def _is_spread(self, value: str, over: str) -> bool:
        small, large = self._shape(value), self._shape(over)
        if small is None or large is None or len(small) > len(large):
            return False
        return len(small) < len(large) or any(a == 1 != b for a, b in zip(small, large))

    def _shape(self, value: str) -> list[int | str] | None:
        known = self.types.get(value)
        return shape_of(known) if known is not None and known.type.tensor_type.HasField("shape") else None

    def _is_taken(self, value: str) -> bool:
        """Whether an integer node reads the value, directly or through layout operators."""
        return any(
            self.is_integer(reader)
            or (self.role(reader) == PASSING and any(self._is_taken(name) for name in reader.output if name))
            for reader in self.readers.get(value, [])
        )

    def _is_result(self, value: str) -> bool:
        passing = [node for node in self.readers.get(value, []) if self.role(node) == PASSING]
        return value in self.outputs or any(self._is_result(name) for node in passing for name in node.output if name)

    def bounds(self, node: onnx.NodeProto) -> tuple[float | None, float | None]:
        """Lower and upper bound of a Relu or Clip, None where it has none; (nan, nan) where one is not a constant."""
        if node.op_type == "Relu":
            return 0.0, None
        names = (list(node.input[1:]) + ["", ""])[:2]
        if any(name and name not in self.constants for name in names):
            return math.nan, math.nan
        low, high = (float(array(self.constants[name]).reshape(())) if name else None for name in names)
        return low, high

    def absorbs(self, node: onnx.NodeProto) -> bool:
        """True for a Relu or Clip whose every bound the integer range behind it will hold within half a step."""
        if self.role(node) != ABSORBED:
            return False
        low, high = self.bounds(node)
        if self.symmetric:  # zero in the middle: only a lower bound of 0 is an end of such a range
            return low == 0 and (high is None or high >= 0)
        return (low is None or low <= 0) and (high is None or high >= 0)

    def absorbed(self, value: str) -> list[onnx.NodeProto]:
        """The chain of Relu and Clip that makes `value`, the last first; nothing but the chain reads what lies between."""
        chain: list[onnx.NodeProto] = []
        node = self.made_by.get(value)
        while node is not None and self.role(node) == ABSORBED and (not chain or self.absorbing(node.output[0]) == value):
            chain.append(node)
            node = self.made_by.get(node.input[0])
        return chain

    def layer_names(self, value: str) -> list[str]:
        """Every name that the value's layer goes by, the one that layer_bits.layer_names gives it last: the value's own, those of the
        Relu and Clip that it absorbs, and that of the node before them where nothing else reads what that makes."""
        chain = self.absorbed(value)
        start = chain[-1].input[0] if chain else value
        names = [*(node.name for node in chain), value]
        alone = not chain or (len(self.readers[start]) == 1 and start not in self.outputs)
        return [*names, self.made_by[start].name if start in self.made_by else start] if alone else names

    def absorbing(self, value: str) -> str:
        """`value`, or the output of the Relu or Clip, or chain of them, that alone reads it and is absorbed."""
        readers = self.readers.get(value, [])
        while value not in self.outputs and len(readers) == 1 and self.absorbs(readers[0]):
            value = readers[0].output[0]
            readers = self.readers.get(value, [])
        return value

    def touched(self, node: onnx.NodeProto) -> list[str]:
        """Activations that must be quantized for this node to run in integers."""
        if not self.is_integer(node):
            return []
        inputs = [node.input[0], *(n for n in node.input[1:2] if n not in self.constants)]
        inputs = inputs if self.role(node) == WEIGHTED else list(node.input)
        results = [self.absorbing(name) for name in node.output]
        if self._may_give_floats(node):
            results = [name for name in results if self._is_taken(name) or self._is_result(name)]
        return [name for name in (*inputs, *results) if name not in self.float_sums]

    def _float_sums(self) -> set[str]:
        """Of each sum in integers, the operand that it takes as floats: the first layer's result that nothing else reads."""
        order = {node.output[0]: number for number, node in enumerate(self.model.graph.node)}
        found = set()
        for node in self.model.graph.node:
            if node.op_type == "Add" and self.is_integer(node):
                own = [name for name in node.input if self._is_only_summed(name)]
                if own:
                    found.add(min(own, key=order.__getitem__))
        return found

    def _is_only_summed(self, value: str) -> bool:
        node = self.made_by.get(value)
        readers = self.readers.get(value, [])
        alone = len(readers) == 1 and list(readers[0].input).count(value) == 1 and value not in self.outputs
        return alone and node is not None and self.role(node) == WEIGHTED

    def is_first_or_last(self, node: onnx.NodeProto) -> bool:
        return node.output[0] in self.first or node.output[0] in self.last

    def root(self, value: str) -> str:
        """The value whose quantizer `value` shares: itself, or upwards through layout operators."""
        node = self.made_by.get(value)
        while node is not None and self.role(node) == PASSING and node.input[0] not in self.constants:
            value = node.input[0]
            node = self.made_by.get(value)
        return value

    def aliases(self, wanted: dict) -> dict[str, str]:
        """Outputs of layout operators that an integer operator reads, directly or through further layout operators."""
        return {
            name: self.root(name)
            for node in reversed(self.model.graph.node)
            if self.role(node) == PASSING and self.root(node.output[0]) in wanted
            for name in node.output
            if name and self._is_taken(name)
        }

    def edge_values(self) -> set[str]:
        """The image and what becomes of it up to the first layers; what the last layers read, and all behind them."""
        read = {name for node in self.last.values() for name in node.input[:2] if name not in self.constants}
        return {self.root(value) for value in self.before_first | read | self.after_last}

    def _weighted(self) -> list[onnx.NodeProto]:
        return [node for node in self.model.graph.node if self.role(node) == WEIGHTED]

    def _until_weighted(self, values: set[str], backwards: bool = False) -> tuple[set[str], dict[str, onnx.NodeProto]]:
        """Everything computed from `values` (backwards: needed for them) through no weighted node, themselves included,
        and the weighted nodes at which that ends, by their output. A Shape ends it, too: the sizes of a value hold nothing of it."""
        reached, ends = set(values), {}
        for node in reversed(self.model.graph.node) if backwards else self.model.graph.node:
            near, far = (node.output, node.input) if backwards else (node.input, node.output)
            if reached.isdisjoint(near) or node.op_type in SIZES:
                continue
            if self.role(node) == WEIGHTED:
                ends[node.output[0]] = node
            else:
                reached.update(name for name in far if name)
        return reached, ends


def _excluded(model: onnx.ModelProto, config: QuantizeConfig) -> set[str]:
    """Names of the nodes that --exclude names."""
    node_names = [node.name for node in model.graph.node]
    for pattern in config.exclude:
        if not fnmatch.filter(node_names, pattern):
            near = closest(pattern, node_names)
            raise InputError(f"--exclude {pattern!r} matches no node{near}. List them with `onnx-distill inspect --layers`.")
    return {name for pattern in config.exclude for name in fnmatch.filter(node_names, pattern)}
