"""What is in a model and what stands in the way of training it: facts as a dataclass, and as text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from onnx_distill import model as models
from onnx_distill.errors import InputError
from onnx_distill.logits import find_logits, label, value_types

LAST_NODES = 6  # listed for those who must name the logits themselves: enough for Gemm, Reshape, Softmax and what follows
FLOAT_BYTES = {TensorProto.FLOAT: 4, TensorProto.DOUBLE: 8, TensorProto.FLOAT16: 2, TensorProto.BFLOAT16: 2}

# Operators with an exact gradient in onnxruntime-training 1.19.2 on the CPU, save for the cases in CASES.
TRAINABLE = frozenset(
    "Conv MatMul Gemm Relu LeakyRelu Clip Sigmoid Tanh Gelu Erf Exp Log Sqrt Abs Pow Add Sub Mul Div Min Max Softmax "
    "LogSoftmax GlobalAveragePool MaxPool ReduceMean ReduceSum ReduceL2 Concat Slice Split Transpose Reshape Flatten "
    "Squeeze Unsqueeze Expand Gather Pad LayerNormalization Dropout Identity Neg Cast".split()
)
# `train` turns these into fake quantization before it asks for gradients.
FAKE_QUANTIZED = frozenset(["QuantizeLinear", "DequantizeLinear"])
# Operators whose output does not depend on the float values they read: no gradient is wanted behind them.
CONSTANT_OUTPUT = frozenset("Shape Size ConstantOfShape EyeLike ArgMax ArgMin NonZero IsNaN IsInf".split())

KNOWN_DOMAINS = ("", "ai.onnx", "com.microsoft")  # the last for Gelu before opset 20 and for QuantizeLinear of 16 bits
NO_GRADIENT = "no gradient"
UNKNOWN = "not among the operators known to train"
OBSTACLES: dict[str, str] = {
    **dict.fromkeys(
        "Elu Selu Softplus Softsign Mish Celu Mean Einsum Round Floor Ceil Sign ReduceMax ReduceMin GlobalMaxPool "
        "InstanceNormalization GroupNormalization LRN DepthToSpace SpaceToDepth".split(),
        NO_GRADIENT,
    ),
    "HardSwish": "no gradient; the same as x * Clip(x / 6 + 0.5, 0, 1)",
    "HardSigmoid": "no gradient; the same as Clip(alpha * x + beta, 0, 1)",
    "PRelu": "no gradient; the same as Relu(x) - slope * Relu(-x)",
    "Sum": "no gradient; the same as a chain of Add",
    "BatchNormalization": "would train on batch statistics; fold it into the Conv before it, or write it as Mul and Add",
    "AveragePool": "kills the process unless its shape is fully static; wrong gradient with auto_pad or 3D overlap",
    "Where": "wrong gradient where its inputs broadcast",
    "If": "kills the process",
    "ConvTranspose": "gradient without a CPU kernel",
    "Resize": "gradient without a CPU kernel",
    "Upsample": "gradient without a CPU kernel (a Resize)",
}


@dataclass(frozen=True)
class Value:
    """A graph input or output."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]  # '?' where a dimension is free and has no name


@dataclass(frozen=True)
class Obstacle:
    """Nodes up to the logits that cannot be trained as they stand, all for one reason."""

    op: str
    reason: str
    nodes: tuple[str, ...]


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
    parameters: int  # elements of float initializers
    parameter_bytes: int
    quantized: str | None  # the first quantized node and its operator, None in a float model
    obstacles: tuple[Obstacle, ...]


@dataclass(frozen=True)
class _Graph:
    """What the checks of one node may look up."""

    opset: int
    constants: dict[str, TensorProto]
    read: frozenset[str]  # every value that a node or a graph output reads


def inspect(model: onnx.ModelProto, logits: str | None = None) -> Inspection:
    """Facts about the model; nothing is run. Works on models that cannot be cut or trained, and says why they cannot.

    logits: where the user would cut it; None: find_logits looks. Raises InputError for a name that is not in the model.
    """
    types = value_types(model)
    found, reason = _logits(model, logits, types)
    quantized = models.quantized_node(model)
    floats = [tensor for tensor in model.graph.initializer if tensor.data_type in FLOAT_BYTES]
    return Inspection(
        inputs=tuple(map(_value, models.data_inputs(model))),
        outputs=tuple(map(_value, model.graph.output)),
        opsets={entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        ir_version=model.ir_version,
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        logits=found,
        logits_reason=reason,
        last_nodes=tuple(f"{n.op_type} {label(n)} -> {', '.join(n.output)}" for n in model.graph.node[-LAST_NODES:]),
        operators=_operators(model),
        parameters=sum(math.prod(tensor.dims) for tensor in floats),
        parameter_bytes=sum(math.prod(tensor.dims) * FLOAT_BYTES[tensor.data_type] for tensor in floats),
        quantized=f"{label(quantized)} ({quantized.op_type})" if quantized is not None else None,
        obstacles=find_obstacles(model, found.name if found else None),
    )


def _value(value: onnx.ValueInfoProto) -> Value:
    return Value(
        value.name, TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower(), tuple(models.shape_of(value))
    )


def _logits(model: onnx.ModelProto, name: str | None, types: dict[str, onnx.ValueInfoProto]) -> tuple[Value | None, str]:
    try:
        found = find_logits(model, name)
    except InputError as error:
        if name is not None:
            raise
        return None, str(error)
    return _value(types.get(found.value, onnx.ValueInfoProto(name=found.value))), found.reason


def _operator(node: onnx.NodeProto) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def _operators(model: onnx.ModelProto) -> dict[str, int]:
    counts: dict[str, int] = {}
    for node in model.graph.node:
        counts[_operator(node)] = counts.get(_operator(node), 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def find_obstacles(model: onnx.ModelProto, logits: str | None = None) -> tuple[Obstacle, ...]:
    """What could not be trained among the nodes that gradients from the logits (None: from the outputs) pass through."""
    trained = _up_to(model, logits)
    graph = _Graph(models.opset(trained), _constants(trained), frozenset(_read(trained)))
    grouped: dict[tuple[str, str], list[str]] = {}
    for node in _gradient_path(trained):
        reason = why_not_trainable(node, graph)
        if reason:
            grouped.setdefault((_operator(node), reason), []).append(label(node))
    return tuple(Obstacle(op, reason, tuple(nodes)) for (op, reason), nodes in grouped.items())


def _up_to(model: onnx.ModelProto, logits: str | None) -> onnx.ModelProto:
    part = onnx.ModelProto()
    part.CopyFrom(model)
    if logits is not None:
        del part.graph.output[:]
        part.graph.output.add(name=logits)
    models.prune(part)
    return part


def _constants(model: onnx.ModelProto) -> dict[str, TensorProto]:
    """Initializers and the tensors of Constant nodes."""
    inline = {node.output[0]: models.attribute(node, "value") for node in model.graph.node if node.op_type == "Constant"}
    return {**models.initializers(model), **{name: tensor for name, tensor in inline.items() if tensor is not None}}


def _read(model: onnx.ModelProto) -> set[str]:
    return {name for node in model.graph.node for name in models.read_by(node)} | {
        value.name for value in model.graph.output
    }


def _gradient_path(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes that depend on the input or on float parameters: arithmetic on shapes is left out."""
    live = {value.name for value in models.data_inputs(model)}
    live |= {tensor.name for tensor in model.graph.initializer if tensor.data_type in FLOAT_BYTES}
    return [node for node in model.graph.node if _passes_on(node, live)]


def _passes_on(node: onnx.NodeProto, live: set[str]) -> bool:
    """True if the node reads a live value and its outputs depend on it; they are then added to `live`."""
    passes = node.op_type not in CONSTANT_OUTPUT and not live.isdisjoint(models.read_by(node))
    live.update(node.output if passes else ())
    return passes


def why_not_trainable(node: onnx.NodeProto, graph: _Graph) -> str | None:
    """One line on what goes wrong with the node's gradient, or None for an exact one."""
    if node.domain not in KNOWN_DOMAINS:
        return UNKNOWN
    if node.op_type in OBSTACLES:
        return OBSTACLES[node.op_type]
    if node.op_type in CASES:
        return CASES[node.op_type](node, graph)
    if node.op_type in TRAINABLE or node.op_type in FAKE_QUANTIZED:
        return None
    return UNKNOWN


def _conv(node: onnx.NodeProto, graph: _Graph) -> str | None:
    auto_pad = models.attribute(node, "auto_pad", b"NOTSET").decode()
    if auto_pad != "NOTSET":
        return f"wrong gradient with auto_pad {auto_pad}; write the pads out"
    weight = graph.constants.get(node.input[1])
    rank = len(weight.dims) - 2 if weight is not None else len(models.attribute(node, "kernel_shape", []))
    if rank == 1 and models.attribute(node, "group", 1) > 1:
        return "kills the process in 1D with groups; write it in 2D"
    return None


def _clip(node: onnx.NodeProto, graph: _Graph) -> str | None:
    return "wrong or no gradient before opset 12; convert the model to a later opset" if graph.opset < 12 else None


def _layer_normalization(node: onnx.NodeProto, graph: _Graph) -> str | None:
    return None if len(node.output) == 3 and all(node.output) else "error unless all three outputs are listed"


def _dropout(node: onnx.NodeProto, graph: _Graph) -> str | None:
    return None if len(node.output) == 2 else "error unless the mask output is listed; take the node out"


def _pad(node: onnx.NodeProto, graph: _Graph) -> str | None:
    if len(node.input) == 1:
        return "error in the attribute form, before opset 11; convert the model to a later opset"
    if len(node.input) > 3 and node.input[3]:
        return "error with an axes input; write pads for every axis"
    mode = models.attribute(node, "mode", b"constant").decode()
    return f"no gradient in mode {mode}, only in constant" if mode != "constant" else None


def _pow(node: onnx.NodeProto, graph: _Graph) -> str | None:
    return None if node.input[1] in graph.constants else "gradient for the base only, and the exponent is computed"


def _slice(node: onnx.NodeProto, graph: _Graph) -> str | None:
    if len(node.input) == 1:
        return "error in the attribute form, before opset 10; convert the model to a later opset"
    steps = graph.constants.get(node.input[4]) if len(node.input) > 4 else None
    return "error with a negative step" if steps is not None and (models.array(steps) < 0).any() else None


def _split(node: onnx.NodeProto, graph: _Graph) -> str | None:
    return "wrong gradient when an output is unused" if not graph.read.issuperset(node.output) else None


CASES: dict[str, Callable[[onnx.NodeProto, _Graph], str | None]] = {
    "Conv": _conv,
    "Clip": _clip,
    "Dropout": _dropout,
    "LayerNormalization": _layer_normalization,
    "Pad": _pad,
    "Pow": _pow,
    "Slice": _slice,
    "Split": _split,
}


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
    rows += _column("not trainable", [_complaint(obstacle) for obstacle in inspection.obstacles] or ["nothing"])
    return "\n".join(f"{word:14} {text}".rstrip() for word, text in rows)


def _column(word: str, lines: Sequence[str]) -> list[tuple[str, str]]:
    return [(word if number == 0 else "", line) for number, line in enumerate(lines)]


def _describe(value: Value) -> str:
    if value.dtype == "undefined":
        return f"{value.name}  of unknown type and shape"
    return f"{value.name}  {value.dtype} [{', '.join(map(str, value.shape))}]"


def _complaint(obstacle: Obstacle) -> str:
    more = f" and {len(obstacle.nodes) - 1} more" if len(obstacle.nodes) > 1 else ""
    return f"{obstacle.op}: {obstacle.reason} ({obstacle.nodes[0]}{more})"
