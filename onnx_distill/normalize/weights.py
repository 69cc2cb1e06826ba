"""Weights that are not numbers, or so large that what is computed with them is not, are refused, with the layer's name.

With weights of up to MOST float32 still holds the square of what two layers in a row make of values around 1. With larger ones the
answer depends on the order of the sums: LayerNormalization written out divides by an infinite deviation and gives 0, the
operator itself NaN (runtime 1.19.2). Nothing is rewritten.
"""

from __future__ import annotations

import numpy as np
import onnx

from onnx_distill.errors import InputError
from onnx_distill.facts.logits import label
from onnx_distill.normalize.graph import Graph

OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LayerNormalization", "InstanceNormalization")
MOST = 1e9  # (MOST^2)^2 is 1e36, and float32 ends at 3.4e38


def rewrite(graph: Graph) -> list[str]:
    """Nothing. Raises InputError for a layer that has such a weight."""
    for node in graph.nodes:
        if node.op_type in OPS and node.domain in ("", "ai.onnx"):
            for name in filter(graph.is_constant, node.input):
                _check(node, np.asarray(graph.constant(name)))
    return []


def _check(node: onnx.NodeProto, values: np.ndarray) -> None:
    if values.dtype.kind != "f" or not values.size:
        return
    worst = max(float(values.max()), -float(values.min()))  # without a copy; NaN is the largest and the smallest
    if not worst <= MOST:
        raise InputError(
            f"{node.op_type} {label(node)!r} has a weight of {worst:.3g}; wanted numbers up to {MOST:g}. "
            "Is the file damaged? Export the model again."
        )
