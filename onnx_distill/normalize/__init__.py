"""What real exporters write becomes what can be cut, quantized and trained: one rewrite a file, PASSES is the table."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import onnx

from onnx_distill.edit import prune
from onnx_distill.normalize import (
    absorb_pad,
    affine,
    auto_pad,
    batch,
    batch_norm,
    cast_like,
    clip,
    constants,
    conv1d,
    conv_transpose,
    depth_to_space,
    division,
    einsum,
    float16,
    functions,
    gemm,
    global_pool,
    group_norm,
    hard_swish,
    identity,
    inputs,
    later,
    layer_norm,
    leaky_relu,
    matmul_vector,
    max_pool,
    opset,
    pad,
    prelu,
    shapes,
    slice,
    softplus,
    split,
    squeeze,
    sums,
    transpose,
    weights,
    where,
)
from onnx_distill.normalize.graph import Graph

# Whole-graph passes, once, in this order: each has rewrite(graph) -> labels of the nodes it changed.
PREPARATIONS: tuple[ModuleType, ...] = (
    inputs,
    constants,
    functions,
    opset,
    cast_like,
    constants,
    float16,
    batch,
    shapes,
    later,
    constants,
)
FINISHING: tuple[ModuleType, ...] = (
    shapes,
    division,
    weights,
)  # rewrites write shapes down, and fold constants into weights
# One node at a time, over the graph again and again until none fires: each has OPS, the operators that it looks at, and
# rewrite(node, graph) -> the nodes that take its place, or None where it must not fire.
REWRITES: tuple[ModuleType, ...] = (
    identity,
    batch_norm,
    auto_pad,
    pad,
    absorb_pad,
    global_pool,
    max_pool,
    conv_transpose,
    depth_to_space,
    split,
    slice,
    where,
    einsum,
    matmul_vector,
    transpose,
    squeeze,
    conv1d,
    clip,
    sums,
    softplus,
    leaky_relu,
    prelu,
    hard_swish,
    layer_norm,
    group_norm,
    affine,  # last: what has a constant in it is recognised as something better before
    gemm,
)
MOST_ROUNDS = 20  # a rewrite makes simpler operators; more rounds than this is two rewrites undoing each other


@dataclass(frozen=True)
class Rewrite:
    """One rewrite that was made: the name of its file, the operator and the label of the node it replaced."""

    rule: str
    operator: str
    node: str


def normalize(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Rewrite]]:
    """A model with the same inputs and outputs, equal to 1e-5, whose operators can be trained where that is possible; and
    what was rewritten. Normalizing twice is normalizing once.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return normalize_in_place(made)


def normalize_in_place(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Rewrite]]:
    """normalize, without the memory of a copy: `model` is the one that comes back."""
    graph, done = Graph(model), []
    for preparation in PREPARATIONS:
        done += [Rewrite(_name(preparation), "", label) for label in preparation.rewrite(graph)]
    for _ in range(MOST_ROUNDS):
        fired = [rewrite for rule in REWRITES for rewrite in _apply(rule, graph)]
        if not fired:
            break
        done += fired
    for preparation in FINISHING:
        done += [Rewrite(_name(preparation), "", label) for label in preparation.rewrite(graph)]
    prune(graph.finish())
    return model, done


def _apply(rule: ModuleType, graph: Graph) -> list[Rewrite]:
    done = []
    for node in graph.nodes:
        if node.op_type in rule.OPS and node.domain in ("", "ai.onnx") and graph.holds(node):
            new = rule.rewrite(node, graph)
            if new is not None:
                graph.replace(node, new) if graph.holds(node) else None
                done.append(Rewrite(_name(rule), node.op_type, node.name or node.output[0]))
    return done


def _name(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]
