"""The form of a float model that stock runtimes run in integers once it has quantizers: one rewrite a file, as in normalize.

Only what is quantized is written so, for as floats the operators are better left as they are. Weights that change have new names.
Before that, channels.py and equalize.py level the channels between layers; there names stay.
"""

from __future__ import annotations

import fnmatch
from types import ModuleType
from typing import Iterable

import onnx

from onnx_distill.edit import prune
from onnx_distill.integer_form import bounds_first, channel_scale, closed_gates, flatten, hard_gates
from onnx_distill.normalize.graph import Graph

# Each has OPS, the operators that it looks at; find(node, graph) -> the nodes that it would change beside this one, or None where it must
# not fire; and rewrite(node, *others, graph), which replaces them in the graph. Those in ASYMMETRIC want zero points that are free.
REWRITES: tuple[ModuleType, ...] = (hard_gates, closed_gates, channel_scale, flatten, bounds_first)
ASYMMETRIC = frozenset([closed_gates])


def integer_form(model: onnx.ModelProto, exclude: Iterable[str] = (), symmetric: bool = False) -> onnx.ModelProto:
    """A copy with the same inputs and outputs, equal to float32 rounding. Nodes whose names fit a pattern of `exclude` stay.

    symmetric: activations will have a zero point of 0.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = Graph(made)
    kept = {node.name for pattern in exclude for node in graph.nodes if fnmatch.fnmatch(node.name, pattern)}
    for rule in (rule for rule in REWRITES if not symmetric or rule not in ASYMMETRIC):
        for node in graph.nodes:
            others = rule.find(node, graph) if node.op_type in rule.OPS and node.domain in ("", "ai.onnx") else None
            if others is not None and not kept.intersection(other.name for other in (node, *others)):
                rule.rewrite(node, *others, graph)
    prune(graph.finish())
    return made
