"""What is in a model and what stands in the way of training it: facts as a dataclass, and as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from onnx_distill.errors import InputError
from onnx_distill.facts.floats import held
from onnx_distill.facts.logits import find_logits, label, value_types
from onnx_distill.facts.provenance import provenance
from onnx_distill.lookup import data_inputs, producers, quantized_node, shape_of
from onnx_distill.normalize import Rewrite, normalize
from onnx_distill.placement import with_node_names
from onnx_distill.quantization.layer_bits import LayerBits, bits_summary, layer_bits
from onnx_distill.quantization.plain import plain_quantizers
from onnx_distill.trainable.trainability import Obstacle, find_obstacles, operator

LAST_NODES = 6  # listed for those who must name the logits themselves: enough for Gemm, Reshape, Softmax and what follows


@dataclass(frozen=True)
class Value:
    """A graph input or output."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]  # '?' where a dimension is free and has no name


@dataclass(frozen=True)
class Rewrites:
    """What one rule of normalize/ would rewrite: nodes of one operator ('' for a rule of the whole graph)."""

    rule: str
    operator: str
    count: int


@dataclass(frozen=True)
class Inspection:
    """What is in a model. dataclasses.asdict of it goes into JSON as it is."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    opsets: dict[str, int]  # domain -> version; the default domain is 'ai.onnx'
    ir_version: int
    producer: str
    logits: Value | None
    logits_reason: str  # why this value, or why there is none
    last_nodes: tuple[str, ...]  # 'Softmax prob -> prob', in graph order
    operators: dict[str, int]  # operator -> nodes in the whole graph, most frequent first
    parameters: int  # floats that it holds: initializers, and those that Constant and ConstantOfShape nodes make
    parameter_bytes: int
    quantized: str | None  # the first quantized node and its operator, None in a float model
    rewrites: tuple[Rewrites, ...]  # what normalize would make of it, so that it can be trained
    obstacles: tuple[Obstacle, ...]  # what is left after them
    refused: str  # why nothing can be rewritten; '' where it can
    provenance: dict[str, str]  # what this project's commands wrote into it
    layers: tuple[LayerBits, ...]  # with their bits; of a float model after the rewrites, as --bits and --exclude name them


def inspect(model: onnx.ModelProto, logits: str | None = None) -> Inspection:
    """Facts about the model; nothing is run. Works on models that cannot be cut or trained, and says why they cannot.

    logits: where the user would cut it; None: find_logits looks. Raises InputError for a name that is not in the model.
    """
    types = value_types(model)
    found, reason = _logits(model, logits, types)
    quantized = quantized_node(model)
    parameters, parameter_bytes = held(model)
    rewrites, obstacles, refused, rewritten = _after_rewrites(model, found.name if found else None, quantized is not None)
    return Inspection(
        inputs=tuple(map(_value, data_inputs(model))),
        outputs=tuple(map(_value, model.graph.output)),
        opsets={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        ir_version=model.ir_version,
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        logits=found,
        logits_reason=reason,
        last_nodes=tuple(f"{n.op_type} {label(n)} -> {', '.join(n.output)}" for n in model.graph.node[-LAST_NODES:]),
        operators=_operators(model),
        parameters=parameters,
        parameter_bytes=parameter_bytes,
        quantized=f"{label(quantized)} ({quantized.op_type})" if quantized is not None else None,
        rewrites=rewrites,
        obstacles=obstacles,
        refused=refused,
        provenance=provenance(model),
        layers=_layers(rewritten),
    )


def _value(value: onnx.ValueInfoProto) -> Value:
    return Value(value.name, TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower(), tuple(shape_of(value)))


def _logits(model: onnx.ModelProto, name: str | None, types: dict[str, onnx.ValueInfoProto]) -> tuple[Value | None, str]:
    try:
        found = find_logits(model, name)
    except InputError as error:
        if name is not None:
            raise
        return None, str(error)
    return _value(types.get(found.value, onnx.ValueInfoProto(name=found.value))), found.reason


def _after_rewrites(
    model: onnx.ModelProto, logits: str | None, quantized: bool
) -> tuple[tuple[Rewrites, ...], tuple[Obstacle, ...], str, onnx.ModelProto]:
    """The rewrites, the obstacles left, why there are none of the first, and the model after them; a quantized one stays."""
    try:
        made, done = (model, []) if quantized else normalize(model)
        return _grouped(done), find_obstacles(made, _kept(made, logits)), "", made
    except InputError as error:
        return (), (), str(error), model


def _layers(model: onnx.ModelProto) -> tuple[LayerBits, ...]:
    """None where the model's quantizers are not of 8 bits and fewer."""
    try:
        return tuple(layer_bits(with_node_names(plain_quantizers(model))))
    except InputError:
        return ()


def _grouped(done: Sequence[Rewrite]) -> tuple[Rewrites, ...]:
    counts: dict[tuple[str, str], int] = {}
    for rewrite in done:
        counts[rewrite.rule, rewrite.operator] = counts.get((rewrite.rule, rewrite.operator), 0) + 1
    return tuple(Rewrites(rule, operator, count) for (rule, operator), count in counts.items())


def _kept(model: onnx.ModelProto, logits: str | None) -> str | None:
    """The logits in the rewritten model: under their name, or as found there again; None for the outputs."""
    if logits is None or logits in producers(model):
        return logits
    try:
        return find_logits(model).value
    except InputError:
        return None


def _operators(model: onnx.ModelProto) -> dict[str, int]:
    counts: dict[str, int] = {}
    for node in model.graph.node:
        counts[operator(node)] = counts.get(operator(node), 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def render(inspection: Inspection) -> str:
    """The facts as aligned lines: a word on the left, what it is on the right."""
    size = f"{inspection.parameters:,} ({inspection.parameter_bytes / 1e6:.2f} MB)"
    rows = [("input", _describe(value)) for value in inspection.inputs]
    rows += [("output", _describe(value)) for value in inspection.outputs]
    rows += [("opset", ", ".join(f"{domain} {version}" for domain, version in inspection.opsets.items()))]
    rows += [("IR version", str(inspection.ir_version)), ("producer", inspection.producer or "not stated")]
    rows += [("logits", _describe(inspection.logits) if inspection.logits else "not found")]
    rows += [("" if inspection.logits else "why", inspection.logits_reason)]
    rows += [] if inspection.logits else _column("last nodes", inspection.last_nodes)
    rows += _column("operators", [f"{count:5} {op}" for op, count in inspection.operators.items()])
    rows += [("parameters", size), ("quantized", f"yes: {inspection.quantized}" if inspection.quantized else "no")]
    rows += [("bits", bits_summary(inspection.layers))] if inspection.quantized and inspection.layers else []
    rows += _column("made with", [f"{name} {value}" for name, value in inspection.provenance.items()])
    rows += _column("rewritten", [_rewrite(rewrites) for rewrites in inspection.rewrites] or ["nothing"])
    rows += [("refused", inspection.refused)] if inspection.refused else []
    rows += _column("not trainable", [_complaint(obstacle) for obstacle in inspection.obstacles] or ["nothing"])
    return "\n".join(f"{word:14} {text}".rstrip() for word, text in rows)


def _column(word: str, lines: Sequence[str]) -> list[tuple[str, str]]:
    return [(word if number == 0 else "", line) for number, line in enumerate(lines)]


def _describe(value: Value) -> str:
    if value.dtype == "undefined":
        return f"{value.name}  of unknown type and shape"
    return f"{value.name}  {value.dtype} [{', '.join(map(str, value.shape))}]"


def _rewrite(rewrites: Rewrites) -> str:
    return f"{rewrites.count:5} {rewrites.operator} ({rewrites.rule})".replace("  (", " (")


def _complaint(obstacle: Obstacle) -> str:
    more = f" and {len(obstacle.nodes) - 1} more" if len(obstacle.nodes) > 1 else ""
    return f"{obstacle.op}: {obstacle.reason} ({obstacle.nodes[0]}{more})"
