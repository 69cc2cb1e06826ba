"""Initializers that are listed as graph inputs too, as IR 3 wanted, are initializers alone, and the IR is 8 or newer.

A caller could give other weights through such an input; the trainer's runtime and quantizers want constants. Must not fire
on the inputs that have no initializer.
"""

from __future__ import annotations

from onnx_distill.edit import keep
from onnx_distill.lookup import initializers
from onnx_distill.normalize.graph import Graph

OLDEST_IR = 8  # of opset 17


def rewrite(graph: Graph) -> list[str]:
    model, constants = graph.model, initializers(graph.model)
    model.ir_version = max(model.ir_version, OLDEST_IR)
    listed = [value.name for value in model.graph.input if value.name in constants]
    keep(model.graph.input, lambda value: value.name not in constants)
    return listed
