"""Where quantizers go: a table of operators, and the plan it makes for one model.

Every value that enters or leaves an operator which stock ONNX Runtime can run in integers is quantized once, at its root:
layout operators pass the integers of their input through, and a Relu or Clip is absorbed by the range of the quantizer
behind it. Two quantizers in a row are avoided for a second reason: the runtime merges such pairs into one and moves
their grid (DoubleQDQPairsRemover, 1.19.2), so that a fifth of the values would differ from the simulation.
"""

from __future__ import annotations

import fnmatch
import math
from dataclasses import dataclass

import onnx

from onnx_distill.config import QuantizeConfig
from onnx_distill.errors import InputError
from onnx_distill.model import array, attribute, closest, consumers, fresh_name, image_input, initializers, producers
from onnx_distill.numerics import IntegerRange, activation_range, weight_range

CONSTANT_BITS = 8  # of a constant operand of Add, Mul or Concat: it lies in 8 bits anyway, and is often a bias

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
    """An activation to quantize. absorbed: names of the Relu and Clip nodes before it that it may replace, the nearest first."""

    value: str
    integers: IntegerRange
    absorbed: tuple[str, ...] = ()


@dataclass(frozen=True)
class WeightSite:
    """A weight to quantize; axis is that of the output channels, or None for one scale."""

    value: str
    integers: IntegerRange
    axis: int | None


@dataclass(frozen=True)
class Plan:
    """What to quantize.

    activations: values whose ranges calibration finds. constants: initializers that stand where an activation could, as in
    Mul(x, 6); their ranges are their own. aliases: output of a layout operator -> the activation whose quantizer it shares.
    """

    activations: tuple[ActivationSite, ...]
    weights: tuple[WeightSite, ...]
    aliases: dict[str, str]
    constants: tuple[ActivationSite, ...] = ()


def plan(model: onnx.ModelProto, config: QuantizeConfig) -> Plan:
    """The quantizers for a float model that ends in its logits and whose nodes have names (with_node_names).

    Raises InputError when no operator can be quantized.
    """
    graph = _Graph(model, config)
    if not any(graph.role(node) == WEIGHTED for node in model.graph.node):
        raise InputError(
            f"nothing to quantize: no {', '.join(OUTPUT_AXIS)} with constant weights among the nodes (after --exclude)."
        )
    wanted = dict.fromkeys(graph.root(value) for node in model.graph.node for value in graph.touched(node))
    edge = graph.edge_values()
    weights = _weight_sites(graph, config)
    activations = tuple(_activation_site(value, graph, edge, config) for value in wanted if value not in graph.constants)
    operands = [value for value in wanted if value in graph.constants and value not in {site.value for site in weights}]
    constants = tuple(ActivationSite(value, activation_range(CONSTANT_BITS, config.symmetric)) for value in operands)
    return Plan(activations, weights, graph.aliases(wanted), constants)


def _activation_site(value: str, graph: _Graph, edge: set[str], config: QuantizeConfig) -> ActivationSite:
    bits = config.edge_bits if value in edge and config.edge_bits else config.activation_bits
    absorbed = graph.absorbed(value)
    integers = activation_range(bits, config.symmetric, nonnegative=any(graph.bounds(node)[0] == 0 for node in absorbed))
    return ActivationSite(value, integers, tuple(node.name for node in absorbed))


def _weight_sites(graph: _Graph, config: QuantizeConfig) -> tuple[WeightSite, ...]:
    sites: dict[str, WeightSite] = {}
    for node in graph.model.graph.node:
        if graph.role(node) != WEIGHTED or node.input[1] not in graph.constants:
            continue
        bits = config.edge_bits if config.edge_bits and graph.is_first_or_last(node) else config.weight_bits
        axis = weight_axis(node, len(graph.constants[node.input[1]].dims)) if config.per_channel else None
        site = WeightSite(node.input[1], weight_range(bits), axis)
        sites[site.value] = _wider(site, sites.get(site.value, site))
    return tuple(sites.values())


def _wider(site: WeightSite, known: WeightSite) -> WeightSite:
    """One site for a weight that two nodes share: the wider range, per tensor where their axes differ."""
    integers = max(site.integers, known.integers, key=lambda integers: integers.qmax)
    return WeightSite(site.value, integers, site.axis if site.axis == known.axis else None)


def weight_axis(node: onnx.NodeProto, rank: int) -> int | None:
    """Axis of the output channels in the weight of a Conv, Gemm or MatMul; None where the runtime wants one scale."""
    if node.op_type == "Gemm" and attribute(node, "transB", 0):
        return 0
    if node.op_type == "MatMul" and rank != 2:  # QLinearMatMul refuses scales per column of any other rank (1.19.2)
        return None
    return OUTPUT_AXIS[node.op_type] % rank


class _Graph:
    """Look-ups for one model under one configuration."""

    def __init__(self, model: onnx.ModelProto, config: QuantizeConfig):
        self.model, self.symmetric = model, config.symmetric
        self.constants, self.made_by, self.readers = initializers(model), producers(model), consumers(model)
        self.image = image_input(model).name
        self.outputs = {value.name for value in model.graph.output}
        self.not_float = _not_float(model)
        node_names = [node.name for node in model.graph.node]
        for pattern in config.exclude:
            if not fnmatch.filter(node_names, pattern):
                near = closest(pattern, node_names)
                raise InputError(
                    f"--exclude {pattern!r} matches no node{near}. List them with `onnx-distill inspect --nodes`."
                )
        self.excluded = {name for pattern in config.exclude for name in fnmatch.filter(node_names, pattern)}
        self.before_first, self.first = self._until_weighted({self.image})
        _, self.last = self._until_weighted(self.outputs, backwards=True)
        self.after_last, _ = self._until_weighted({node.output[0] for node in self.last.values()})

    def role(self, node: onnx.NodeProto) -> str | None:
        """The node's row in PLACEMENT, or None where the runtime has no integer kernel for this form of it."""
        if node.name in self.excluded or node.domain not in ("", "ai.onnx"):
            return None
        if node.output[0] in self.not_float:
            return None
        if node.op_type == "Gemm" and (
            attribute(node, "alpha", 1.0),
            attribute(node, "beta", 1.0),
            attribute(node, "transA", 0),
        ) != (1.0, 1.0, 0):
            return None
        role = PLACEMENT.get(node.op_type)
        return None if role == WEIGHTED and not self._integer_sides(node) else role

    def _integer_sides(self, node: onnx.NodeProto) -> bool:
        """Weight and bias are constants, the bias one value a channel or one for all; MatMul also takes two activations."""
        if node.op_type == "MatMul":
            return True
        if node.input[1] not in self.constants or node.input[0] in self.constants:
            return False
        if len(node.input) < 3 or not node.input[2]:
            return True
        weight = self.constants[node.input[1]].dims
        return node.input[2] in self.constants and array(self.constants[node.input[2]]).size in (
            1,
            weight[weight_axis(node, len(weight))],
        )

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
        if self.symmetric:  # -limit..limit: only a lower bound of 0 is an end of such a range
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

    def touched(self, node: onnx.NodeProto) -> list[str]:
        """Activations that must be quantized for this node to run in integers."""
        role = self.role(node)
        if role == WEIGHTED:
            inputs = [node.input[0], *(name for name in node.input[1:2] if name not in self.constants)]
        elif role == JOINING:
            inputs = list(node.input)
        else:
            return []
        return [*inputs, *(self.absorbing(name) for name in node.output)]

    def is_first_or_last(self, node: onnx.NodeProto) -> bool:
        return node.output[0] in self.first or node.output[0] in self.last

    def absorbing(self, value: str) -> str:
        """`value`, or the output of the Relu or Clip, or chain of them, that alone reads it and is absorbed."""
        readers = self.readers.get(value, [])
        while value not in self.outputs and len(readers) == 1 and self.absorbs(readers[0]):
            value = readers[0].output[0]
            readers = self.readers.get(value, [])
        return value

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
        """The image and what becomes of it up to the first layers; what the last layers read, and all behind them."""
        read = {name for node in self.last.values() for name in node.input[:2] if name not in self.constants}
        return {self.root(value) for value in self.before_first | read | self.after_last}

    def _until_weighted(self, values: set[str], backwards: bool = False) -> tuple[set[str], dict[str, onnx.NodeProto]]:
        """Everything computed from `values` (backwards: needed for them) through no weighted node, themselves included,
        and the weighted nodes at which that ends, by their output."""
        reached, ends = set(values), {}
        for node in reversed(self.model.graph.node) if backwards else self.model.graph.node:
            near, far = (node.output, node.input) if backwards else (node.input, node.output)
            if reached.isdisjoint(near):
                continue
            if self.role(node) == WEIGHTED:
                ends[node.output[0]] = node
            else:
                reached.update(name for name in far if name)
        return reached, ends


def _not_float(model: onnx.ModelProto) -> set[str]:
    """Values known to be something else than float32, such as the integers of a computed shape."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    known = {
        value.name: value.type.tensor_type.elem_type for value in [*inferred.input, *inferred.value_info, *inferred.output]
    }
    return {name for name, kind in known.items() if kind not in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.FLOAT)}


def with_node_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every node has a name of its own; given names stay."""
    named = onnx.ModelProto()
    named.CopyFrom(model)
    taken, seen = {node.name for node in named.graph.node}, set()
    for number, node in enumerate(named.graph.node):
        if not node.name or node.name in seen:
            node.name = fresh_name(f"{node.op_type}_{number}", taken)
        seen.add(node.name)
    return named
