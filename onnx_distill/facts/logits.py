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
# What a classifier ends in whose exporter left the Softmax out, as torch's do; and what may stand behind that.
SCORES = frozenset("Gemm MatMul Add Conv ReduceMean GlobalAveragePool AveragePool BatchNormalization".split())
AFTER_SCORES = frozenset("Identity Dropout Reshape Flatten Squeeze".split())
RENAMING = frozenset("Identity Dropout Reshape Flatten Squeeze Unsqueeze Cast".split())
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
    is not met. Without one, the only output of a model is taken that a layer of SCORES makes, not one of probabilities. A model that
    was cut before says itself where. Raises InputError when there is no such value, or more than one.
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
    node = _renamed(made_by, value)
    softened = _softened(made_by, node) if node is not None and node.op_type != "LogSoftmax" else None
    if softened is not None:
        raise InputError(
            f"{name!r} is the output of a Softmax, probabilities; the logits are what it reads: --logits {softened}"
        )
    softmax = [label(node) for node in consumers(model).get(value, []) if node.op_type in SOFTMAX]
    return Logits(rows_of(value, made_by), "named by the user", softmax[0] if softmax else None)


def _renamed(made_by: dict[str, onnx.NodeProto], value: str) -> onnx.NodeProto | None:
    """The node that makes the value's numbers, whatever writes them down again behind it."""
    node = made_by.get(value)
    while node is not None and node.op_type in RENAMING:
        node = made_by.get(node.input[0])
    return node


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
    final = {output: (node, _softened(made_by, node)) for output, node in origins.items() if node is not None}
    found = {value: (node, output) for output, (node, value) in reversed(list(final.items())) if value is not None}
    scores = _only_scores(model, made_by) if not found else None
    if scores is not None:
        return scores
    if not found:
        raise InputError(_why_none(origins))
    if len(found) > 1:
        listed = ", ".join(f"{value!r} (output {output!r})" for value, (_, output) in reversed(list(found.items())))
        raise InputError(f"{len(found)} values feed a final Softmax: {listed}; wanted one. Choose with --logits NAME.")
    value, (node, output) = next(iter(found.items()))
    return Logits(
        rows_of(value, made_by), f"feeds {node.op_type} {label(node)!r}, the last before output {output!r}", label(node)
    )


def _softened(made_by: dict[str, onnx.NodeProto], node: onnx.NodeProto) -> str | None:
    """What the node is the Softmax of, also one written out: exp(x - max(x)) / sum(exp(x - max(x))), as jax2tf writes it; else None."""
    if node.op_type in SOFTMAX:
        return node.input[0]
    powers, total = (_maker(made_by, name) for name in node.input[:2]) if node.op_type == "Div" else (None, None)
    if powers is None or total is None or (powers.op_type, total.op_type) != ("Exp", "ReduceSum"):
        return None
    shifted = _maker(made_by, powers.input[0])
    if _maker(made_by, total.input[0]) is not powers or shifted is None:
        return None
    largest = _maker(made_by, shifted.input[1]) if shifted.op_type == "Sub" else None
    is_maximum = largest is not None and largest.op_type == "ReduceMax" and largest.input[0] == shifted.input[0]
    return shifted.input[0] if is_maximum else powers.input[0]


def _maker(made_by: dict[str, onnx.NodeProto], value: str) -> onnx.NodeProto | None:
    """The node that makes the value, but for those that rename it or write its axes anew."""
    node = made_by.get(value)
    while node is not None and node.op_type in ("Identity", "Reshape", "Unsqueeze", "Expand"):
        node = made_by.get(node.input[0])
    return node


def _only_scores(model: onnx.ModelProto, made_by: dict[str, onnx.NodeProto]) -> Logits | None:
    """The model's one output, if a layer of SCORES makes it and no more than AFTER_SCORES stands behind that."""
    if len(model.graph.output) != 1:
        return None
    value = model.graph.output[0].name
    node = made_by.get(value)
    while node is not None and node.op_type in AFTER_SCORES:
        node = made_by.get(node.input[0])
    if node is None or node.op_type not in SCORES or value not in made_by:
        return None
    return Logits(value, f"the only output, made by {node.op_type} {label(node)!r} with no Softmax behind it", None)


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
