"""Where quantizers go: a table of operators, and the plan it makes for one model.

Every value that enters or leaves an operator which stock ONNX Runtime can run in integers is quantized once, at its root:
layout operators pass the integers of their input through, and a Relu or Clip is absorbed by the range of the quantizer
behind it.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

import onnx

from onnx_distill.config import QuantizeConfig
from onnx_distill.errors import InputError
from onnx_distill.model import array, attribute, closest, consumers, image_input, initializers, producers
from onnx_distill.numerics import IntegerRange, activation_range, weight_range

WEIGHTED = "weighted"  # input 0 activation, input 1 weight, input 2 bias
JOINING = "joining"  # every input an activation
ABSORBED = "absorbed"  # becomes a bound of the quantizer behind it
PASSING = "passing"  # output has the quantizer of its first input

PLACEMENT = {
    "Conv": WEIGHTED,
    "Gemm": WEIGHTED,
    "MatMul": WEIGHTED,
    "Add": JOINING,
    "Mul": JOINING,
    "Concat": JOINING,
    "AveragePool": JOINING,
    "GlobalAveragePool": JOINING,
    "Relu": ABSORBED,
    "Clip": ABSORBED,
    "Reshape": PASSING,
    "Transpose": PASSING,
    "Flatten": PASSING,
    "Squeeze": PASSING,
    "Unsqueeze": PASSING,
    "MaxPool": PASSING,
}
OUTPUT_AXIS = {"Conv": 0, "Gemm": 1, "MatMul": -1}  # of the weight, transB aside


@dataclass(frozen=True)
class ActivationSite:
    """An activation to quantize. absorbed: the Relu or Clip node whose output it is and which it replaces."""

    value: str
    integers: IntegerRange
    absorbed: str | None = None


@dataclass(frozen=True)
class WeightSite:
    """A weight to quantize; axis is that of the output channels, or None for one scale."""

    value: str
    integers: IntegerRange
    axis: int | None


@dataclass(frozen=True)
class Plan:
    """What to quantize. aliases: output of a layout operator -> the activation whose quantizer it shares."""

    activations: tuple[ActivationSite, ...]
    weights: tuple[WeightSite, ...]
    aliases: dict[str, str]


def plan(model: onnx.ModelProto, config: QuantizeConfig) -> Plan:
    """The quantizers for a float model that ends in its logits. Raises InputError when no operator can be quantized."""
    graph = _Graph(model, config.exclude)
    if not any(graph.role(node) == WEIGHTED for node in model.graph.node):
        raise InputError(f"nothing to quantize: no {', '.join(OUTPUT_AXIS)} with constant weights among the nodes (after --exclude).")
    wanted = dict.fromkeys(graph.root(value) for node in model.graph.node for value in graph.touched(node))
    edge = graph.edge_values()
    weights = _weight_sites(graph, config)
    activations = tuple(_activation_site(value, graph, edge, config) for value in wanted)
    return Plan(activations, weights, graph.aliases(wanted))


def _activation_site(value: str, graph: _Graph, edge: set[str], config: QuantizeConfig) -> ActivationSite:
    bits = config.edge_bits if value in edge and config.edge_bits else config.activation_bits
    node = graph.made_by.get(value)
    absorbed = node is not None and graph.role(node) == ABSORBED
    integers = activation_range(bits, config.symmetric, nonnegative=absorbed and graph.low(node) == 0)
    return ActivationSite(value, integers, node.name if absorbed else None)


def _weight_sites(graph: _Graph, config: QuantizeConfig) -> tuple[WeightSite, ...]:
    sites: dict[str, WeightSite] = {}
    for node in graph.model.graph.node:
        if graph.role(node) != WEIGHTED or node.input[1] not in graph.constants:
            continue
        bits = config.edge_bits if config.edge_bits and graph.is_first_or_last(node) else config.weight_bits
        axis = weight_axis(node, len(graph.constants[node.input[1]].dims)) if config.per_channel else None
        site = WeightSite(node.input[1], weight_range(bits), axis)
        known = sites.get(site.value)
        wider = known is None or known.integers.qmax < site.integers.qmax
        sites[site.value] = site if wider else known
    return tuple(sites.values())


def weight_axis(node: onnx.NodeProto, rank: int) -> int:
    """Axis of the output channels in the weight of a Conv, Gemm or MatMul."""
    if node.op_type == "Gemm" and attribute(node, "transB", 0):
        return 0
    return OUTPUT_AXIS[node.op_type] % rank


class _Graph:
    """Look-ups for one model under one exclusion list."""

    def __init__(self, model: onnx.ModelProto, exclude: tuple[str, ...]):
        self.model = model
        self.constants, self.made_by, self.readers = initializers(model), producers(model), consumers(model)
        self.image = image_input(model).name
        self.outputs = {value.name for value in model.graph.output}
        node_names = [node.name for node in model.graph.node]
        for pattern in exclude:
            if not fnmatch.filter(node_names, pattern):
                raise InputError(f"--exclude {pattern!r} matches no node{closest(pattern, node_names)}. List them with `onnx-distill inspect --nodes`.")
        self.excluded = {name for pattern in exclude for name in fnmatch.filter(node_names, pattern)}
        self.last = self._last_weighted()

    def role(self, node: onnx.NodeProto) -> str | None:
        """The node's row in PLACEMENT, or None where the runtime has no integer kernel for this form of it."""
        if node.name in self.excluded or node.domain not in ("", "ai.onnx"):
            return None
        role = PLACEMENT.get(node.op_type)
        if node.op_type == "Gemm" and (attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0), attribute(node, "transA", 0)) != (1.0, 1.0, 0):
            return None
        if role == WEIGHTED and len(node.input) > 2 and node.input[2] and node.input[2] not in self.constants:
            return None
        return role

    def low(self, node: onnx.NodeProto) -> float | None:
        """Lower bound of a Relu or Clip; None where it is not a constant."""
        if node.op_type == "Relu":
            return 0.0
        if len(node.input) < 2 or node.input[1] not in self.constants:
            return None
        return float(array(self.constants[node.input[1]]))

    def touched(self, node: onnx.NodeProto) -> list[str]:
        """Activations that must be quantized for this node to run in integers."""
        role = self.role(node)
        if role == WEIGHTED:
            inputs = [name for name in node.input[:2] if name not in self.constants]
        elif role == JOINING:
            inputs = list(node.input)
        else:
            return []
        return [*inputs, *(self.absorbing(name) for name in node.output)]

    def is_first_or_last(self, node: onnx.NodeProto) -> bool:
        return self.root(node.input[0]) == self.image or node.name in self.last

    def absorbing(self, value: str) -> str:
        """`value`, or the output of the Relu or Clip that is its only reader and starts at 0."""
        readers = self.readers.get(value, [])
        if value in self.outputs or len(readers) != 1:
            return value
        return readers[0].output[0] if self.role(readers[0]) == ABSORBED and self.low(readers[0]) == 0 else value

    def root(self, value: str) -> str:
        """The value whose quantizer `value` shares: itself, or upwards through layout operators."""
        node = self.made_by.get(value)
        while node is not None and self.role(node) == PASSING and node.input[0] not in self.constants:
            value = node.input[0]
            node = self.made_by.get(value)
        return value

    def aliases(self, wanted: dict) -> dict[str, str]:
        """Outputs of layout operators that an integer operator reads, directly or through further layout operators."""
        found = {}
        for node in reversed(self.model.graph.node):
            if self.role(node) == PASSING and self.root(node.output[0]) in wanted:
                readers = self.readers.get(node.output[0], [])
                if any(self.role(r) in (WEIGHTED, JOINING) or any(name in found for name in r.output) for r in readers):
                    found[node.output[0]] = self.root(node.output[0])
        return found

    def edge_values(self) -> set[str]:
        """The image, and what the last layers read and write."""
        last = [node for node in self.model.graph.node if node.name in self.last]
        touching = [value for node in last for value in (node.input[0], self.absorbing(node.output[0]))]
        return {self.image} | {self.root(value) for value in touching}

    def _last_weighted(self) -> set[str]:
        """Names of the weighted nodes from which the output is reached through no other weighted node."""
        last, stack, seen = set(), list(self.outputs), set()
        while stack:
            node = self.made_by.get(stack.pop())
            if node is None or node.output[0] in seen:
                continue
            seen.add(node.output[0])
            if self.role(node) == WEIGHTED:
                last.add(node.name)
            else:
                stack.extend(node.input)
        return last


def with_node_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every node has a name of its own; given names stay."""
    named, taken = onnx.ModelProto(), set()
    named.CopyFrom(model)
    for number, node in enumerate(named.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{number}"
        taken.add(node.name)
    return named
