"""A training model said in a newer operator set: from 17 to 21 only the reductions and Split changed how they are written.

onnx's version converter knows no operators of the training runtime; the rest of what changed are types and attributes whose
defaults mean what was meant before.
"""

from __future__ import annotations

import onnx

from onnx_distill.lookup import attribute, opset
from onnx_distill.lower.nodes import Constants, with_nodes

AXES_ARE_INPUTS = 18
REDUCTIONS = tuple(f"Reduce{kind}" for kind in "L1 L2 LogSum LogSumExp Max Mean Min Prod SumSquare".split())


def raised(training: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """A copy of the training model, of at least operator set `version` (21 at most)."""
    before, constants = opset(training), Constants()
    if before >= version:
        return training
    nodes = [_newer(node, constants) if before < AXES_ARE_INPUTS else node for node in training.graph.node]
    made = with_nodes(training, nodes, constants)
    for function in made.functions if before < AXES_ARE_INPUTS else ():
        body = [part for node in function.node for part in _newer_in_a_function(node)]
        del function.node[:]
        function.node.extend(body)
    for entry in [*made.opset_import, *(entry for function in made.functions for entry in function.opset_import)]:
        if entry.domain == "":
            entry.version = version
    return made


def _newer_in_a_function(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The node as _newer makes it; its axes come out of a Constant in front, for a function has no initializers, and may be an argument of it."""
    axes = next((entry for entry in node.attribute if entry.name == "axes"), None)
    if node.op_type not in REDUCTIONS or axes is None:
        return [_newer(node, Constants())]
    made, constant = (
        onnx.NodeProto.FromString(node.SerializeToString()),
        onnx.helper.make_node("Constant", [], [f"{node.output[0]}/axes"]),
    )
    constant.attribute.append(axes)
    constant.attribute[0].name = "value_ints"
    made.input.append(constant.output[0])
    del made.attribute[:]
    made.attribute.extend(entry for entry in node.attribute if entry.name != "axes")
    return [constant, made]


def _newer(node: onnx.NodeProto, constants: Constants) -> onnx.NodeProto:
    made = onnx.NodeProto.FromString(node.SerializeToString())
    axes = attribute(node, "axes", None)
    if node.op_type in REDUCTIONS and axes is not None:
        made.input.append(constants(axes))
        del made.attribute[:]
        made.attribute.extend(entry for entry in node.attribute if entry.name != "axes")
    if node.op_type == "Split" and len(node.input) == 1:
        made.attribute.append(onnx.helper.make_attribute("num_outputs", len(node.output)))
    return made
