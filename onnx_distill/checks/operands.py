"""Whether what nodes read and are told fits, where neither onnx's checker nor the runtime looks before it computes.

ONNX Runtime 1.19.2 takes much on trust: a Conv reads on behind the end of a bias that is too short, and its gradient writes there;
Upsample copies as many scales as there are onto its stack. What it does with values that fit and must not be is in lethal.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import onnx
from onnx import AttributeProto, TensorProto

from onnx_distill.checks import lethal
from onnx_distill.checks.seen import Operands, Seen
from onnx_distill.errors import InputError

MOST_AXES = 8  # of what a setting is a list for
MOST_PIXELS = 1 << 20  # of a window's size, step and padding
MOST_VALUES = 1 << 31  # in one batch of images
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
OPTIONAL = onnx.defs.OpSchema.FormalParameterOption.Optional
WINDOWS = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool")
LEAST = {"kernel_shape": 1, "strides": 1, "dilations": 1, "pads": 0, "output_padding": 0}
TYPES = ("to", "dtype", "stash_type")  # attributes that name a type of values
CONSTANTS = {
    "value": AttributeProto.TENSOR,
    "sparse_value": AttributeProto.SPARSE_TENSOR,
    "value_int": AttributeProto.INT,
    "value_ints": AttributeProto.INTS,
    "value_float": AttributeProto.FLOAT,
    "value_floats": AttributeProto.FLOATS,
    "value_string": AttributeProto.STRING,
    "value_strings": AttributeProto.STRINGS,
}
# Inputs that are lists with an entry for each axis, or two: shapes, axes, scales, pads.
LISTS: dict[str, tuple[int, ...]] = {
    "Expand": (1,),
    "Pad": (1, 3),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Squeeze": (1,),
    "Tile": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}


def check_operands(model: onnx.ModelProto, where: str, types: Mapping[str, onnx.TypeProto.Tensor]) -> None:
    """Raises InputError for a node whose operands, attributes or types of values cannot be what it needs, or would kill the process.

    types: of inputs and computed values, as far as they are known.
    """
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    for node, operands in _nodes(model.graph, Seen(opset, types, {}, set())):
        problem = next((found for found in (check(node, operands) for check in CHECKS) if found), None)
        if problem:
            label = node.name or next(iter(node.output), "")
            raise InputError(f"{where} cannot be used: {node.op_type} {label!r} {problem}. Is the file damaged?")
    for value in model.graph.input:
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.HasField("dim_value")]
        if math.prod(size for size in sizes if size > 0) > MOST_VALUES or any(size < -1 for size in sizes):  # -1: free
            raise InputError(f"{where} cannot be used: its input {value.name!r} is of shape {sizes}. Is the file damaged?")
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        kind = value.type.tensor_type.elem_type
        if value.type.HasField("tensor_type") and (kind not in TensorProto.DataType.values() or not kind):
            raise InputError(f"{where} cannot be used: {value.name!r} has values of type {kind}, which does not exist.")


def _nodes(graph: onnx.GraphProto, outer: Seen) -> Iterator[tuple[onnx.NodeProto, Operands]]:
    """Every node of the graph and its subgraphs, with what it reads."""
    constants = {**outer.constants, **{tensor.name: tensor for tensor in graph.initializer}}
    seen = replace(outer, constants=constants, measured=set(outer.measured))
    for node in graph.node:
        operands = Operands(node, seen)
        yield node, operands
        held = _held(node.attribute[0]) if node.op_type == "Constant" and node.output and node.attribute else None
        if held is not None:
            constants[node.output[0]] = held
        if _is_measured(node, seen):
            seen.measured.update(node.output)
        rounds = lethal.rounds(node, operands)
        for entry in node.attribute:
            for inner in [*([entry.g] if entry.HasField("g") else []), *entry.graphs]:
                yield from _nodes(inner, replace(seen, rounds=rounds))


def _held(entry: AttributeProto) -> TensorProto | None:
    """The tensor of a Constant, where it has one or whole numbers."""
    if entry.HasField("t"):
        return entry.t
    whole = {"value_int": [entry.i], "value_ints": list(entry.ints)}.get(entry.name)
    dims = [] if entry.name == "value_int" else [len(entry.ints)]
    return None if whole is None else onnx.helper.make_tensor("", TensorProto.INT64, dims, whole)


def _is_measured(node: onnx.NodeProto, seen: Seen) -> bool:
    if node.op_type in ("Shape", "Size", "Constant"):
        return True
    return bool(node.input) and all(name in seen.constants or name in seen.measured for name in node.input if name)


def _left_out(node: onnx.NodeProto, operands: Operands) -> str | None:
    """The runtime looks up a value without a name, and dies, where an operator cannot do without it."""
    if all(node.input) or node.domain not in ("", "ai.onnx"):
        return None
    try:
        known = onnx.defs.get_schema(node.op_type, operands.opset, "").inputs
    except onnx.defs.SchemaError:
        return None
    for place, name in enumerate(node.input):
        if known and not name and known[min(place, len(known) - 1)].option != OPTIONAL:
            return f"leaves out its input {place}, which it cannot do without"
    return None


def _types(node: onnx.NodeProto, operands: Operands) -> str | None:
    for entry in node.attribute:
        if entry.name in TYPES and entry.type == AttributeProto.INT and entry.i not in TensorProto.DataType.values():
            return f"has {entry.name} = {entry.i}, which is no type of values"
    return None


def _constant(node: onnx.NodeProto, operands: Operands) -> str | None:
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    held = [(entry.name, entry.type) for entry in node.attribute]
    return None if len(held) == 1 and held[0] in CONSTANTS.items() else f"has {len(held)} attributes; wanted one value"


def _lists(node: onnx.NodeProto, operands: Operands) -> str | None:
    for place in LISTS.get(node.op_type, ()):
        dims = operands.dims(place)
        if dims is not None and (len(dims) > 1 or any(isinstance(size, int) and size > 2 * MOST_AXES for size in dims)):
            return f"reads {node.input[place]!r} of shape {dims} where a list belongs, an entry or two for each axis"
    return None


def _weights(node: onnx.NodeProto, operands: Operands) -> str | None:
    weight, bias = operands.dims(1), operands.dims(2)
    if node.op_type in WEIGHTED and weight is not None and 0 in weight:
        return f"has a weight of shape {weight}, without values"
    if node.op_type not in ("Conv", "ConvTranspose") or weight is None:
        return None
    group = next((entry.i for entry in node.attribute if entry.name == "group"), 1)
    if len(weight) < 3 or group < 1 or isinstance(weight[0], int) and weight[0] % group:
        return f"has a weight of shape {weight} and {group} groups"
    outer, inner = weight[:2]
    channels = outer if node.op_type == "Conv" or not isinstance(inner, int) else inner * group
    fits = bias is None or len(bias) == 1 and (bias[0] == channels or not all(isinstance(n, int) for n in (*bias, channels)))
    return None if fits else f"has {channels} output channels and a bias of shape {bias}"


def _norms(node: onnx.NodeProto, operands: Operands) -> str | None:
    if node.op_type not in ("BatchNormalization", "InstanceNormalization"):
        return None
    shapes = [shape for shape in (operands.dims(place) for place in range(1, len(node.input))) if shape is not None]
    fits = all(len(shape) == 1 for shape in shapes) and len({size for (size,) in shapes if isinstance(size, int)}) < 2
    return None if fits else f"has parameters of shapes {shapes}; wanted one entry for each channel"


def _windows(node: onnx.NodeProto, operands: Operands) -> str | None:
    """A negative pad is read as memory before the image."""
    if node.op_type not in WINDOWS:
        return None
    weight = operands.dims(1) if "Conv" in node.op_type else None
    for entry in node.attribute:
        least = LEAST.get(entry.name)
        if least is not None and not (
            entry.type == AttributeProto.INTS and all(least <= n <= MOST_PIXELS for n in entry.ints)
        ):
            return f"has {entry.name} = {list(entry.ints)}; wanted {least} to {MOST_PIXELS}"
        if (
            entry.name == "kernel_shape"
            and weight is not None
            and any(isinstance(n, int) and n != size for n, size in zip(weight[2:], entry.ints))
        ):
            return f"has kernel_shape = {list(entry.ints)} and a weight of shape {weight}"
    return None


def _bounds(node: onnx.NodeProto, operands: Operands) -> str | None:
    for place in (1, 2) if node.op_type == "Clip" else ():
        dims = operands.dims(place)
        if dims is not None and (len(dims) > 1 or any(isinstance(size, int) and size != 1 for size in dims)):
            return f"has a bound of shape {dims}; wanted one number"
    return None


CHECKS = (_left_out, _types, _constant, _lists, _weights, _norms, _windows, _bounds, *lethal.CHECKS)
