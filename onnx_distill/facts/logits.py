"""The logits of a classifier: the value that feeds its final Softmax, found in the graph or named by the user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable

import onnx

from onnx_distill.closest import closest
from onnx_distill.errors import InputError, first_line
from onnx_distill.facts.rows import rows_of
from onnx_distill.facts.stand_in import stand_in
from onnx_distill.facts.weightless import without_weights
from onnx_distill.lookup import consumers, initializers, producers

SOFTMAX = ("Softmax", "LogSoftmax")
# What exporters put after the Softmax: operators that rename, move, round off or pick from its scores (their first input).
AFTER_SOFTMAX = frozenset(
    "Identity Dropout Reshape Flatten Squeeze Unsqueeze Transpose Cast Log Exp ArgMax ArgMin TopK Gather GatherElements "
    "GatherND Slice ReduceMax Split Equal Greater Less GreaterOrEqual LessOrEqual ZipMap ArrayFeatureExtractor".split()
)
MARK = "onnx_distill.logits"  # metadata of a cut model: its output, with no Softmax behind it, is the logits


@dataclass(frozen=True)
class Logits:
    """Where a model is cut."""

    value: str  # name of the value
    reason: str  # why this one, in words
    softmax: str | None  # the node that reads it, by name (by first output if it has none); None if there is no Softmax


def find_logits(model: onnx.ModelProto, name: str | None = None) -> Logits:
    """The value `name` (of a value, or of a node: its first output), or without a name the one that feeds the final Softmax.

    The final Softmax is met walking back from the graph outputs through AFTER_SOFTMAX; one inside the network (attention)
    is not met. A model that was cut before says itself where. Raises InputError when there is no such value, or more
    than one.
    """
    if name is not None:
        return _named(model, name)
    return _marked(model) or _before_softmax(model)


def _named(model: onnx.ModelProto, name: str) -> Logits:
    made_by = producers(model)
    by_name = {node.name: node for node in model.graph.node if node.name}
    if name not in made_by and name not in by_name:
        raise InputError(_no_such_name(model, name, sorted({*made_by, *by_name})))
    value = name if name in made_by else by_name[name].output[0]
    if made_by[value].op_type == "Softmax":
        raise InputError(
            f"{name!r} is the output of a Softmax, probabilities; the logits are what it reads: "
            f"--logits {made_by[value].input[0]}"
        )
    softmax = [label(node) for node in consumers(model).get(value, []) if node.op_type in SOFTMAX]
    return Logits(rows_of(value, made_by), "named by the user", softmax[0] if softmax else None)


def _no_such_name(model: onnx.ModelProto, name: str, known: list[str]) -> str:
    if name in initializers(model) or name in [value.name for value in model.graph.input]:
        problem = f"{name!r} is an input or an initializer; wanted a value that a node computes"
    else:
        problem = f"no node or value named {name!r}{closest(name, known)}"
    return f"{problem}. List them with `onnx-distill inspect`."


def _marked(model: onnx.ModelProto) -> Logits | None:
    marks = [entry.value for entry in model.metadata_props if entry.key == MARK]
    if marks and [value.name for value in model.graph.output] == marks:
        return Logits(marks[0], "the model was cut here before", None)
    return None


def _before_softmax(model: onnx.ModelProto) -> Logits:
    made_by = producers(model)
    origins = {output.name: _origin(made_by, output.name) for output in model.graph.output}
    final = {output: node for output, node in origins.items() if node is not None and node.op_type in SOFTMAX}
    found = {node.input[0]: (node, output) for output, node in reversed(list(final.items()))}
    if not found:
        raise InputError(_why_none(origins))
    if len(found) > 1:
        listed = ", ".join(f"{value!r} (output {output!r})" for value, (_, output) in reversed(list(found.items())))
        raise InputError(f"{len(found)} values feed a final Softmax: {listed}; wanted one. Choose with --logits NAME.")
    value, (node, output) = next(iter(found.items()))
    return Logits(
        rows_of(value, made_by), f"feeds {node.op_type} {label(node)!r}, the last before output {output!r}", label(node)
    )


def _origin(made_by: dict[str, onnx.NodeProto], value: str) -> onnx.NodeProto | None:
    """The node that made the value before AFTER_SOFTMAX passed it on; None at a graph input or initializer."""
    node = made_by.get(value)
    while node is not None and node.op_type in AFTER_SOFTMAX:
        node = made_by.get(node.input[0])
    return node


def _why_none(origins: dict[str, onnx.NodeProto | None]) -> str:
    ends = [
        f"output {output!r} comes from " + (f"{node.op_type} {label(node)!r}" if node is not None else "no node")
        for output, node in origins.items()
    ]
    return (
        f"no Softmax or LogSoftmax at the end of the model: {', '.join(ends)}. Name the logits with --logits NAME "
        f"(--logits {next(iter(origins))} if that output is the logits); `onnx-distill inspect` lists the last nodes."
    )


def label(node: onnx.NodeProto) -> str:
    """What to call a node: its name, or its first output where it has none."""
    return node.name or node.output[0]


def value_types(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto] | None = None) -> dict[str, onnx.ValueInfoProto]:
    """Value name -> its type and shape, for every value that the model declares or shape inference reaches.

    Dimensions that inference could only number ('unk__0') are left unnamed. Large weights are left out of it: they say
    nothing about shapes, and with them a model may be more than protobuf can hand over. nodes: in place of the model's own.
    """
    light = without_weights(model, nodes)
    stand_in(light.graph.node)
    try:
        graph = onnx.shape_inference.infer_shapes(light).graph
    except onnx.shape_inference.InferenceError as error:
        raise InputError(f"the model's shapes cannot be inferred: {first_line(error)}") from None
    types = {value.name: value for value in [*graph.value_info, *graph.input, *graph.output]}
    for value in types.values():
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param.startswith("unk__"):
                dim.Clear()
    return types
