"""Changes of a model in place that hold for any graph: what nothing needs goes, values get other names."""

from __future__ import annotations

from typing import Iterable

import onnx

from onnx_distill.lookup import producers, read_by


def prune(model: onnx.ModelProto) -> None:
    """Remove, in place, nodes, initializers and value infos that no graph output needs; graph inputs stay."""
    needed = needed_by(model, [value.name for value in model.graph.output])
    keep(model.graph.node, lambda node: any(name in needed for name in node.output))
    keep(model.graph.initializer, lambda tensor: tensor.name in needed)
    keep(model.graph.sparse_initializer, lambda tensor: tensor.values.name in needed)
    made = {name for node in model.graph.node for name in node.output}
    keep(model.graph.value_info, lambda value: value.name in made)


def needed_by(model: onnx.ModelProto, values: Iterable[str]) -> set[str]:
    """These values and all that they are computed from."""
    made_by, needed, stack = producers(model), set(), list(values)
    while stack:
        name = stack.pop()
        if name in needed:
            continue
        needed.add(name)
        if name in made_by:
            stack.extend(read_by(made_by[name]))
    return needed


def rename_values(node: onnx.NodeProto, new: dict[str, str]) -> None:
    """Old value name -> new one, in place, in what the node reads and makes, in its subgraphs too."""
    node.input[:] = [new.get(name, name) for name in node.input]
    node.output[:] = [new.get(name, name) for name in node.output]
    for graph in (graph for entry in node.attribute for graph in (entry.g, *entry.graphs)):
        for value in graph.output:
            value.name = new.get(value.name, value.name)
        for inner in graph.node:
            rename_values(inner, new)


def keep(repeated, wanted) -> None:
    """Drop, in place, the items that are not `wanted`; the others are not copied."""
    for index in reversed(range(len(repeated))):
        if not wanted(repeated[index]):
            del repeated[index]


def insert_before(model: onnx.ModelProto, before: dict[str, list[onnx.NodeProto]]) -> None:
    """Put nodes, in place, each list in front of the node whose first output it has in the table."""
    for position in reversed(range(len(model.graph.node))):
        for node in reversed(before.get(model.graph.node[position].output[0], [])):
            model.graph.node.insert(position, node)


def fresh_name(base: str, taken: set[str]) -> str:
    """`base`, or `base_1`, `base_2`, ... whichever is not in `taken`; it is added to `taken`."""
    name, number = base, 0
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    taken.add(name)
    return name
