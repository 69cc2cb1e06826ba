"""Where quantizers go: the plan that the table of operators makes for one model.

Every value that enters or leaves an operator which stock ONNX Runtime can run in integers is quantized once, at its root:
layout operators pass the integers of their input through, and a Relu or Clip is absorbed by the range of the quantizer
behind it. Two quantizers in a row are avoided for a second reason: the runtime merges such pairs into one and moves
their grid (DoubleQDQPairsRemover, 1.19.2), so that a fifth of the values would differ from the simulation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import onnx

from onnx_distill.bits import ACTIVATION, WEIGHT, chosen_bits
from onnx_distill.closest import closest
from onnx_distill.config import QuantizeConfig
from onnx_distill.edit import fresh_name
from onnx_distill.errors import InputError
from onnx_distill.numerics import IntegerRange, activation_range, weight_range
from onnx_distill.placement.graph import Graph
from onnx_distill.placement.table import OUTPUT_AXIS, WEIGHTED, weight_axis
from onnx_distill.targets import target_of

CONSTANT_BITS = 8  # of a constant operand of Add, Mul or MatMul: it lies in 8 bits anyway


@dataclass(frozen=True)
class ActivationSite:
    """An activation to quantize. absorbed: names of the Relu and Clip nodes before it that it may replace, the nearest first."""

    value: str
    integers: IntegerRange
    absorbed: tuple[str, ...] = ()
    layer: str = field(default="", compare=False)  # its name for people, as in quantization/layer_bits.py


@dataclass(frozen=True)
class WeightSite:
    """A weight to quantize; axis is that of the output channels, or None for one scale."""

    value: str
    integers: IntegerRange
    axis: int | None
    layer: str = field(default="", compare=False)  # the first node that reads it


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
    graph = Graph(model, config)
    if not any(graph.role(node) == WEIGHTED for node in model.graph.node):
        raise InputError(
            f"nothing to quantize: no {', '.join(OUTPUT_AXIS)} with constant weights among the nodes (after --exclude)."
        )
    wanted = dict.fromkeys(graph.root(value) for node in model.graph.node for value in graph.touched(node))
    edge = graph.edge_values()
    weights = _weight_sites(graph, config)
    activations = tuple(_activation_site(value, graph, edge, config) for value in wanted if value not in graph.constants)
    operands = [value for value in wanted if value in graph.constants and value not in {site.value for site in weights}]
    constants = tuple(ActivationSite(value, _range(CONSTANT_BITS, config)) for value in operands)
    _check_rules(graph, config, weights, [site.value for site in activations])
    return Plan(activations, weights, graph.aliases(wanted), constants)


def _activation_site(value: str, graph: Graph, edge: set[str], config: QuantizeConfig) -> ActivationSite:
    default = config.edge_bits if value in edge and config.edge_bits else config.activation_bits
    names, absorbed = graph.layer_names(value), graph.absorbed(value)
    bits = chosen_bits(names, ACTIVATION, config.rules, default)
    integers = _range(bits, config, nonnegative=any(graph.bounds(node)[0] == 0 for node in absorbed))
    return ActivationSite(value, integers, tuple(node.name for node in absorbed), names[-1])


def _range(bits: int, config: QuantizeConfig, nonnegative: bool = False) -> IntegerRange:
    return activation_range(bits, bool(config.symmetric), nonnegative, fills=not target_of(config.target).clips)


def _weight_sites(graph: Graph, config: QuantizeConfig) -> tuple[WeightSite, ...]:
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.model.graph.node:
        if graph.role(node) == WEIGHTED and node.input[1] in graph.constants:
            readers.setdefault(node.input[1], []).append(node)
    return tuple(_weight_site(value, nodes, graph, config) for value, nodes in readers.items())


def _weight_site(value: str, readers: list[onnx.NodeProto], graph: Graph, config: QuantizeConfig) -> WeightSite:
    """One site for all that read the weight: the wider range, per tensor where their axes differ."""
    edges = [bool(config.edge_bits) and graph.is_first_or_last(node) for node in readers]
    default = max(config.edge_bits if edge else config.weight_bits for edge in edges)
    bits = chosen_bits([node.name for node in readers], WEIGHT, config.rules, default)
    rank = len(graph.constants[value].dims)
    axes = {weight_axis(node, rank) if config.per_channel else None for node in readers}
    integers = weight_range(bits, target_of(config.target).weight_limit)
    return WeightSite(value, integers, axes.pop() if len(axes) == 1 else None, readers[0].name)


def _check_rules(graph: Graph, config: QuantizeConfig, weights: Iterable[WeightSite], values: Iterable[str]) -> None:
    """Raises InputError for bits that no layer gets."""
    weighted = [n.name for n in graph.model.graph.node if len(n.input) > 1 and n.input[1] in {w.value for w in weights}]
    made = [name for value in values for name in graph.layer_names(value)]
    for text, rule in zip(config.bits, config.rules):
        names = (weighted if rule.weight else []) + (made if rule.activation else [])
        if not any(map(rule.matches, names)):
            near = closest(rule.pattern, list(dict.fromkeys(names)))
            raise InputError(f"--bits {text!r} matches no layer{near}. List them with `onnx-distill inspect --layers`.")


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
