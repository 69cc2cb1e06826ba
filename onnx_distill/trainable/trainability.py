"""Which operators onnxruntime-training 1.19.2 gives an exact gradient on the CPU, and what goes wrong with the others.

Every line of the tables was run: a small graph with the operator in it, its gradient beside differences of its outputs
(`gradient_check`), in a process of its own. `docs/operators.md` is made from them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from onnx_distill import gradients, lookup
from onnx_distill.edit import prune
from onnx_distill.errors import InputError
from onnx_distill.facts.logits import label, value_types

FLOATS = frozenset([TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16])

# Operators with an exact gradient, save for the cases in CASES.
EXACT = frozenset(
    "Abs Add Cast Clip Concat Conv Cos Div Dropout Erf Exp Expand Flatten Gather GatherElements GatherND Gelu Gemm "
    "GlobalAveragePool Identity LayerNormalization LeakyRelu Log LogSoftmax MatMul Max MaxPool Min Mul Neg Pad Pow Reciprocal "
    "ReduceL2 ReduceLogSumExp ReduceMean ReduceSum Relu Reshape ScatterElements ScatterND Sigmoid Sin Slice Softmax Split Sqrt "
    "Squeeze Sub Tanh Tile TopK Transpose Trilu Unsqueeze Where "
    "com.microsoft::Gelu com.microsoft::FastGelu com.microsoft::QuickGelu".split()
)
# `train` turns these into fake quantization before it asks for gradients.
FAKE_QUANTIZED = frozenset(["QuantizeLinear", "DequantizeLinear"])
# Operators whose output does not depend on the floats they read, or by leaps: no gradient flows through, none is asked for.
CONSTANT_OUTPUT = frozenset(
    "Shape Size ConstantOfShape EyeLike ArgMax ArgMin NonZero IsNaN IsInf Equal Greater Less GreaterOrEqual LessOrEqual "
    "And Or Not Xor OneHot Range RandomNormalLike RandomUniformLike Constant".split()
)
NO_GRADIENT = "no gradient"
UNKNOWN = "not among the operators known to train"
OBSTACLES: dict[str, str] = {
    **dict.fromkeys(
        "Acos Acosh Asin Asinh Atan Atanh Bernoulli Compress Cosh CumSum DepthToSpace Det Einsum GlobalLpPool "
        "GlobalMaxPool GroupNormalization Hardmax LpNormalization LpPool Mean MeanVarianceNormalization Mod RNN "
        "ReduceLogSum ReduceProd Shrink Sinh SpaceToDepth Tan GRU LSTM SequenceAt Scan Swish".split(),
        NO_GRADIENT,
    ),
    "Sum": "no gradient; the same as a chain of Add",
    "BatchNormalization": "would train on batch statistics; fold it into the Conv before it, or write it as Mul and Add",
    "If": "kills the process; export the model with its condition fixed",
    "Loop": "no gradient; export the model with the loop unrolled",
    "ConvTranspose": "gradient without a CPU kernel",
    "Upsample": "gradient without a CPU kernel (a Resize)",
}
# Inputs, by place, that are settings of an operator: the runtime gives them no gradient, and nobody wants them trained.
SETTINGS: dict[str, frozenset[int]] = {
    "BatchNormalization": frozenset([3, 4]),
    "Clip": frozenset([1, 2]),
    "Dropout": frozenset([1, 2]),
    "Pad": frozenset([1, 2, 3]),
    "Pow": frozenset([1]),
    "Resize": frozenset([1, 2, 3]),
    "Upsample": frozenset([1]),
    "Where": frozenset([0]),
}
# Wrong wherever it stands, even where no gradient passes: the runtime rewrites each of them for training.
WRONG_ANYWHERE = frozenset(["BatchNormalization"])
REMEDY = "Export the model without it, or cut before it with --logits."


@dataclass(frozen=True)
class Graph:
    """What the checks of one node may look up."""

    opset: int
    constants: dict[str, TensorProto]
    read: frozenset[str]  # every value that a node or a graph output reads
    types: dict[str, onnx.ValueInfoProto]
    live: frozenset[str]  # values that depend on what is trained

    def shape(self, value: str) -> tuple[int | str, ...] | None:
        """An int where fixed, a name or '?' where free; None where even the rank is unknown."""
        if value in self.constants:
            return tuple(self.constants[value].dims)
        info = self.types.get(value)
        return tuple(lookup.shape_of(info)) if info is not None and info.type.tensor_type.HasField("shape") else None

    def is_static(self, value: str) -> bool:
        shape = self.shape(value)
        return shape is not None and all(isinstance(size, int) and size > 0 for size in shape)


@dataclass(frozen=True)
class Obstacle:
    """Nodes up to the logits that cannot be trained as they stand, all for one reason."""

    op: str
    reason: str
    nodes: tuple[str, ...]


def refuse(model: onnx.ModelProto, parameters: Collection[str]) -> None:
    """Raises InputError for a node whose gradient would be wrong or missing, or whose training would kill the process, and for
    a parameter that no gradient could reach. The model ends in its logits.
    """
    found = find_obstacles(model, parameters=parameters)
    if found:
        more = sum(len(obstacle.nodes) for obstacle in found) - 1
        others = f" {more} more nodes like it or worse: see `onnx-distill inspect`." if more else ""
        first = found[0]
        raise InputError(f"{first.op} {first.nodes[0]!r} cannot be trained: {first.reason}. {REMEDY}{others}")
    _refuse_unreached(model, parameters)


def find_obstacles(
    model: onnx.ModelProto, logits: str | None = None, parameters: Collection[str] | None = None
) -> tuple[Obstacle, ...]:
    """What could not be trained among the nodes that gradients from the logits (None: from the outputs) pass through.

    parameters: what is trained; None: every float initializer.
    """
    trained = _up_to(model, logits)
    graph = graph_of(trained, parameters)
    grouped: dict[tuple[str, str], list[str]] = {}
    for node in trained.graph.node:
        if node.op_type in WRONG_ANYWHERE or graph.live.intersection(node.output):
            reason = why_not_trainable(node, graph)
            if reason:
                grouped.setdefault((operator(node), reason), []).append(label(node))
    return tuple(Obstacle(op, reason, tuple(nodes)) for (op, reason), nodes in grouped.items())


def settings(model: onnx.ModelProto) -> set[str]:
    """Values that every node reading them reads as a setting or to compare with: bounds, exponents, thresholds."""
    read: set[str] = set()
    trained: set[str] = set()
    for node in model.graph.node:
        apart = range(len(node.input)) if _is_constant(node) else SETTINGS.get(node.op_type, ())
        read.update(name for place, name in enumerate(node.input) if place in apart)
        trained.update(name for place, name in enumerate(node.input) if place not in apart)
    return read - trained - {""}


def operator(node: onnx.NodeProto) -> str:
    """'Conv', or 'com.microsoft::Gelu' outside ONNX's own operators."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def _up_to(model: onnx.ModelProto, logits: str | None) -> onnx.ModelProto:
    if logits is None:
        return model
    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.output[:]
    part.graph.output.add(name=logits)
    prune(part)
    return part


def graph_of(model: onnx.ModelProto, parameters: Collection[str] | None = None) -> Graph:
    """parameters: what is trained; None: every float initializer."""
    floats = {tensor.name for tensor in model.graph.initializer if tensor.data_type in FLOATS}
    trained = floats - settings(model) if parameters is None else set(parameters)
    inline = {node.output[0]: lookup.attribute(node, "value") for node in model.graph.node if node.op_type == "Constant"}
    constants = {**lookup.initializers(model), **{name: tensor for name, tensor in inline.items() if tensor is not None}}
    read = {name for node in model.graph.node for name in lookup.read_by(node)} | {v.name for v in model.graph.output}
    return Graph(lookup.opset(model), constants, frozenset(read), value_types(model), frozenset(_live(model, trained)))


def _live(model: onnx.ModelProto, trained: set[str]) -> set[str]:
    """Values that change, not by leaps alone, with what is trained."""
    live = set(trained)
    for node in model.graph.node:
        if not live.isdisjoint(lookup.read_by(node)) and not _is_constant(node):
            live.update(name for name in node.output if name)
    return live


def _is_constant(node: onnx.NodeProto) -> bool:
    to_integers = node.op_type == "Cast" and lookup.attribute(node, "to") not in FLOATS
    return node.op_type in CONSTANT_OUTPUT or to_integers


def _refuse_unreached(model: onnx.ModelProto, parameters: Collection[str]) -> None:
    """A parameter must reach the logits by a way that gradients can take back."""
    reached, ends = {value.name for value in model.graph.output}, []
    for node in reversed(model.graph.node):
        if reached.intersection(node.output):
            ends += [node] if _is_constant(node) else []
            reached.update(lookup.read_by(node) if not _is_constant(node) else ())
    for name in parameters:
        if name not in reached:
            below = _live(model, {name})
            blamed = next((f", only by way of {operator(n)} {label(n)!r}" for n in ends if below & set(n.input)), "")
            raise InputError(
                f"parameter {name!r} cannot be trained: no gradient from the logits reaches it{blamed}. "
                "Cut the model at a value that it does reach, with --logits."
            )


def why_not_trainable(node: onnx.NodeProto, graph: Graph) -> str | None:
    """One line on what goes wrong with the node's gradient, or None for an exact one."""
    name = operator(node)
    if name in gradients.RULES and gradients.is_ours(gradients.Site(node, graph)):
        return gradients.problem(node, graph)
    if name in OBSTACLES:
        return OBSTACLES[name]
    if name in CASES:
        return CASES[name](node, graph)
    return None if name in EXACT or name in FAKE_QUANTIZED or node.domain.startswith("onnx_distill") else UNKNOWN


def _conv(node: onnx.NodeProto, graph: Graph) -> str | None:
    """Not with auto_pad, nor over one axis or three with groups."""
    auto_pad = _text(node, "auto_pad", "NOTSET")
    if auto_pad not in ("NOTSET", "VALID"):
        return f"wrong gradient with auto_pad {auto_pad}; write the pads out"
    shape = graph.shape(node.input[1])
    rank = len(shape) - 2 if shape is not None else len(lookup.attribute(node, "kernel_shape", []))
    if rank != 2 and lookup.attribute(node, "group", 1) > 1:
        return f"kills the process in {rank}D with groups; write it in 2D"
    return None


def _max_pool(node: onnx.NodeProto, graph: Graph) -> str | None:
    """Not with storage_order 1."""
    return "wrong gradient with storage_order 1" if lookup.attribute(node, "storage_order", 0) else None


def _leaky_relu(node: onnx.NodeProto, graph: Graph) -> str | None:
    """Not with a negative alpha."""
    return "wrong gradient where alpha is negative" if lookup.attribute(node, "alpha", 0.01) < 0 else None


def _clip(node: onnx.NodeProto, graph: Graph) -> str | None:
    """Not before opset 12, nor with a bound that depends on what is trained."""
    if graph.opset < 12:
        return "wrong or no gradient before opset 12; convert the model to a later opset"
    return "wrong gradient where a bound depends on what is trained" if graph.live.intersection(node.input[1:]) else None


def _dropout(node: onnx.NodeProto, graph: Graph) -> str | None:
    """Not with a ratio among its inputs."""
    return "wrong gradient with a ratio among its inputs; take the node out" if any(node.input[1:]) else None


def _matmul(node: onnx.NodeProto, graph: Graph) -> str | None:
    """Not with a vector."""
    ranks = [len(shape) for shape in map(graph.shape, node.input) if shape is not None]
    return "error where an operand is a vector; make it a matrix" if 1 in ranks else None


def _pad(node: onnx.NodeProto, graph: Graph) -> str | None:
    """Not before opset 11, with axes, or in another mode than constant."""
    if len(node.input) == 1:
        return "error in the attribute form, before opset 11; convert the model to a later opset"
    if len(node.input) > 3 and node.input[3]:
        return "error with an axes input; write pads for every axis"
    mode = _text(node, "mode", "constant")
    return f"no gradient in mode {mode}, only in constant" if mode != "constant" else None


def _pow(node: onnx.NodeProto, graph: Graph) -> str | None:
    """Of the base; not with an exponent that is an integer, or a base that broadcasts."""
    if node.input[1] in graph.live:
        return "gradient for the base only, and the exponent depends on what is trained"
    tensor = graph.constants.get(node.input[1])
    if tensor is not None and tensor.data_type not in FLOATS:
        return "error where the exponent is an integer; make it a float"
    return _unlike_output(node, graph, "base", node.input[:1])


def _reduce(node: onnx.NodeProto, graph: Graph) -> str | None:
    """Not before opset 18 where axes are dropped."""
    dropped = graph.opset < 18 and not lookup.attribute(node, "keepdims", 1)
    return "error before opset 18 where axes are dropped; convert the model to a later opset" if dropped else None


def _slice(node: onnx.NodeProto, graph: Graph) -> str | None:
    """Not before opset 10, nor backwards."""
    if len(node.input) == 1:
        return "error in the attribute form, before opset 10; convert the model to a later opset"
    steps = graph.constants.get(node.input[4]) if len(node.input) > 4 else None
    return "error with a negative step" if steps is not None and (lookup.array(steps) < 0).any() else None


def _split(node: onnx.NodeProto, graph: Graph) -> str | None:
    """Not with an output that nothing reads."""
    if not all(node.output):
        return "kills the process where an output is left out; use Slice"
    return None if graph.read.issuperset(node.output) else "wrong gradient when an output is unused; use Slice"


def _transpose(node: onnx.NodeProto, graph: Graph) -> str | None:
    """Not without perm."""
    return None if lookup.attribute(node, "perm") else "error without perm; write it out"


def _where(node: onnx.NodeProto, graph: Graph) -> str | None:
    """Not where a choice broadcasts."""
    return _unlike_output(node, graph, "choice", [name for name in node.input[1:] if name in graph.live])


def _unlike_output(node: onnx.NodeProto, graph: Graph, what: str, values: Collection[str]) -> str | None:
    whole = graph.shape(node.output[0])
    broadcast = [name for name in values if whole is None or graph.shape(name) != whole]
    return f"wrong gradient where the {what} broadcasts; Expand it before" if broadcast else None


def _text(node: onnx.NodeProto, name: str, default: str) -> str:
    value = lookup.attribute(node, name, default.encode())
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


# What is wrong with some forms of an operator; the docstrings name the forms, for docs/operators.md.
CASES: dict[str, Callable[[onnx.NodeProto, Graph], str | None]] = {
    "Clip": _clip,
    "Conv": _conv,
    "Dropout": _dropout,
    "LeakyRelu": _leaky_relu,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "Pad": _pad,
    "Pow": _pow,
    "ReduceL2": _reduce,
    "ReduceLogSumExp": _reduce,
    "Slice": _slice,
    "Split": _split,
    "Transpose": _transpose,
    "Where": _where,
}
