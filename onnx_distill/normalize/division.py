"""Whole numbers divided by sizes of values that turn out to be 0 are refused: it kills the process (runtime 1.19.2).

By the end sizes are constants (shapes.py); other zeros are refused when a model is loaded (checks/lethal.py). Nothing is rewritten.
"""

from __future__ import annotations

from onnx_distill.normalize import compute
from onnx_distill.normalize.graph import Graph

OPS = ("Div", "Mod")


def rewrite(graph: Graph) -> list[str]:
    """Nothing. Raises InputError for such a node."""
    for node in graph.nodes:
        if node.op_type in OPS:
            compute.check_division(node, [graph.constant(name) for name in node.input])
    return []
