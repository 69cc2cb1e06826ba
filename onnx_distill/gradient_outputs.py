"""A training model whose gradients are outputs, in place of buffers that each of them is added to.

    buffer = InPlaceAccumulatorV2(buffer, gradient, reset)        ->        the gradient itself is an output

The runtime's Module wants the former: a pass over every gradient, and a node for each parameter. As outputs they are written
where the caller wants them by the node that makes them.
"""

from __future__ import annotations

import onnx
from onnx import helper

from onnx_distill.edit import keep

ACCUMULATOR = "InPlaceAccumulatorV2"
BUFFER_ENDS_WITH = "_grad.accumulation.buffer"  # the name of a parameter stands before it (1.19.2)


def with_gradient_outputs(training: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """(a copy without accumulators, parameter -> the output that is its gradient); the other outputs stay in front, in order."""
    made = onnx.ModelProto()
    made.CopyFrom(training)
    graph = made.graph
    accumulators = [node for node in graph.node if node.op_type == ACCUMULATOR]
    types = {value.name: value.type for value in graph.input}
    apart = {name for node in accumulators for name in (node.input[0], *node.input[2:], *node.output)}
    outputs: dict[str, str] = {}
    for buffer, gradient in [node.input[:2] for node in accumulators]:
        name = gradient
        if name in outputs.values() or name in types:  # two parameters of one gradient: an output has one name
            name = f"{buffer}/copy"
            graph.node.append(helper.make_node("Identity", [gradient], [name], name))
        outputs[buffer[: -len(BUFFER_ENDS_WITH)]] = name
        value = graph.output.add(name=name)
        value.type.CopyFrom(types[buffer])
    for values in (graph.input, graph.output):
        keep(values, lambda value: value.name not in apart)
    keep(graph.node, lambda node: node.op_type != ACCUMULATOR)
    return made, outputs
