"""Where quantizers go: the plan that the table of operators makes for one model.

Every value that enters or leaves an operator which stock ONNX Runtime can run in integers is quantized once, at its root:
layout operators pass the integers of their input through, and a Relu or Clip is absorbed by the range of the quantizer
behind it. Two quantizers in a row are avoided for a second reason: the runtime merges such pairs into one and moves
their grid (DoubleQDQPairsRemover, 1.19.2), so that a fifth of the values would differ from the simulation.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from onnx_distill.config import QuantizeConfig
from onnx_distill.errors import InputError
from onnx_distill.model import fresh_name
from onnx_distill.numerics import IntegerRange, activation_range, weight_range
from onnx_distill.placement_graph import Graph
from onnx_distill.placement_table import OUTPUT_AXIS, WEIGHTED, weight_axis
from onnx_distill.targets import target_of

CONSTANT_BITS = 8  # of a constant operand of Add, Mul or MatMul: it lies in 8 bits anyway


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
    return Plan(activations, weights, graph.aliases(wanted), constants)


def _activation_site(value: str, graph: Graph, edge: set[str], config: QuantizeConfig) -> ActivationSite:
    bits = config.edge_bits if value in edge and config.edge_bits else config.activation_bits
    absorbed = graph.absorbed(value)
    integers = _range(bits, config, nonnegative=any(graph.bounds(node)[0] == 0 for node in absorbed))
    return ActivationSite(value, integers, tuple(node.name for node in absorbed))


def _range(bits: int, config: QuantizeConfig, nonnegative: bool = False) -> IntegerRange:
    return activation_range(bits, bool(config.symmetric), nonnegative, fills=not target_of(config.target).clips)


def _weight_sites(graph: Graph, config: QuantizeConfig) -> tuple[WeightSite, ...]:
    sites: dict[str, WeightSite] = {}
    for node in graph.model.graph.node:
        if graph.role(node) != WEIGHTED or node.input[1] not in graph.constants:
            continue
        bits = config.edge_bits if config.edge_bits and graph.is_first_or_last(node) else config.weight_bits
        axis = weight_axis(node, len(graph.constants[node.input[1]].dims)) if config.per_channel else None
        site = WeightSite(node.input[1], weight_range(bits, target_of(config.target).weight_limit), axis)
        sites[site.value] = _wider(site, sites.get(site.value, site))
    return tuple(sites.values())


def _wider(site: WeightSite, known: WeightSite) -> WeightSite:
    """One site for a weight that two nodes share: the wider range, per tensor where their axes differ."""
    integers = max(site.integers, known.integers, key=lambda integers: integers.qmax)
    return WeightSite(site.value, integers, site.axis if site.axis == known.axis else None)


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
