"""Calls of the model's own functions are replaced by what they do, and an If whose condition is known by its branch.

The condition is known where it is an initializer or comes out of a Constant; one that depends on the shape of the images is
found by shapes.py, which calls `branch_taken`. An If that depends on the images stays.
"""

from __future__ import annotations

import onnx
from onnx import inliner

from onnx_distill.edit import rename_values
from onnx_distill.errors import InputError, first_line
from onnx_distill.facts.logits import label
from onnx_distill.facts.weightless import take_nodes, without_weights
from onnx_distill.lookup import array, attribute
from onnx_distill.normalize.graph import Graph


def rewrite(graph: Graph) -> list[str]:
    return [*_inline_functions(graph), *_take_branches(graph)]


def _inline_functions(graph: Graph) -> list[str]:
    calls = {(function.domain, function.name) for function in graph.model.functions}
    called = [label(node) for node in graph.nodes if (node.domain, node.op_type) in calls]
    if calls:
        model = graph.with_nodes()
        take_nodes(model, _inlined(without_weights(model)))
        del model.functions[:]
        graph.read_in(model)
    return called


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return inliner.inline_local_functions(model, convert_version=True)
    except RuntimeError as error:
        raise InputError(
            f"the model's own functions cannot be inlined: {first_line(error)}. Export it without them."
        ) from None


def _take_branches(graph: Graph) -> list[str]:
    done: list[str] = []
    while True:  # a branch may hold an If of its own
        found = [node for node in graph.nodes if node.op_type == "If" and _condition(node.input[0], graph) is not None]
        if not found:
            return done
        for node in found:
            graph.replace(node, branch_taken(node, bool(_condition(node.input[0], graph)), graph))
        done += [label(node) for node in found]


def _condition(value: str, graph: Graph) -> bool | None:
    made_by = graph.producer(value)
    if made_by is not None and made_by.op_type == "Constant":
        tensor = attribute(made_by, "value")
        return None if tensor is None else bool(array(tensor).reshape(-1)[0])
    known = graph.constant(value)
    return None if known is None or known.size != 1 else bool(known.reshape(-1)[0])


def branch_taken(node: onnx.NodeProto, condition: bool, graph: Graph) -> list[onnx.NodeProto]:
    """What takes the place of an If: the nodes of a branch, with names that nothing else in the graph has, making its outputs."""
    branch = attribute(node, "then_branch" if condition else "else_branch")
    inner = [*(name for other in branch.node for name in other.output if name), *(t.name for t in branch.initializer)]
    new = {name: graph.fresh(name) for name in inner}
    for tensor in branch.initializer:
        graph.add_tensor(tensor, new[tensor.name])
    nodes = [_renamed(other, new, graph) for other in branch.node]
    for given, wanted in zip(branch.output, node.output):
        if wanted:
            nodes.append(graph.node("Identity", [new.get(given.name, given.name)], node, wanted))
    return nodes


def _renamed(node: onnx.NodeProto, new: dict[str, str], graph: Graph) -> onnx.NodeProto:
    made = onnx.NodeProto()
    made.CopyFrom(node)
    rename_values(made, new)
    made.name = graph.fresh(node.name) if node.name else ""
    return made
