"""Whether a model just parsed is one that may be worked on: whole tensors, known versions, every value made once and in time.

Sizes are compared with what is there before anything of that size is made.
"""

from __future__ import annotations

import math
from typing import Iterator

import onnx
from onnx import TensorProto, defs

from onnx_distill.errors import InputError, first_line

OLDEST_OPSET = 7  # before it Add and its like had attributes to broadcast; onnxruntime runs nothing older
IR_VERSIONS = (3, 13)
NEWEST_IR = 10  # that onnxruntime 1.19.2 loads; what later ones added (devices, 4-bit floats) no classifier here has
BITS = {
    **dict.fromkeys("DOUBLE INT64 UINT64 COMPLEX64".split(), 64),
    **dict.fromkeys("FLOAT INT32 UINT32".split(), 32),
    **dict.fromkeys("FLOAT16 BFLOAT16 INT16 UINT16".split(), 16),
    **dict.fromkeys("INT8 UINT8 BOOL FLOAT8E4M3FN FLOAT8E4M3FNUZ FLOAT8E5M2 FLOAT8E5M2FNUZ FLOAT8E8M0".split(), 8),
    **dict.fromkeys("INT4 UINT4 FLOAT4E2M1".split(), 4),
    **dict.fromkeys("INT2 UINT2".split(), 2),
    "COMPLEX128": 128,
}
FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor in the model: initializers, attributes, those of subgraphs and functions."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _of_node(node)


def _of_graph(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _of_node(node)


def _of_node(node: onnx.NodeProto) -> Iterator[TensorProto]:
    for entry in node.attribute:
        yield from [entry.t] if entry.HasField("t") else []
        yield from entry.tensors
        for sparse in [*([entry.sparse_tensor] if entry.HasField("sparse_tensor") else []), *entry.sparse_tensors]:
            yield from (sparse.values, sparse.indices)
        for graph in [*([entry.g] if entry.HasField("g") else []), *entry.graphs]:
            yield from _of_graph(graph)


def size_bytes(tensor: TensorProto) -> int:
    """Bytes of the tensor's values. Raises ValueError for a shape or type that nothing can have."""
    if any(size < 0 for size in tensor.dims):
        raise ValueError(f"tensor {tensor.name!r} has the shape {list(tensor.dims)}.")
    bits = BITS.get(_type_name(tensor))
    if bits is None:
        raise ValueError(f"tensor {tensor.name!r} is of type {_type_name(tensor)}, which has no fixed size.")
    return (math.prod(tensor.dims) * bits + 7) // 8


def _type_name(tensor: TensorProto) -> str:
    known = tensor.data_type in TensorProto.DataType.values()
    return TensorProto.DataType.Name(tensor.data_type) if known else str(tensor.data_type)


def check_tensors(model: onnx.ModelProto, where: str) -> None:
    """Raises InputError where a tensor does not hold as many values as its shape says."""
    try:
        for tensor in tensors(model):
            check_tensor(tensor)
    except ValueError as error:
        raise InputError(f"{where} is not a valid ONNX model: {error}") from None


def check_tensor(tensor: TensorProto) -> None:
    """Raises ValueError where the tensor does not hold as many values as its shape says."""
    if tensor.data_location == TensorProto.EXTERNAL:
        raise ValueError(f"tensor {tensor.name!r} lies in another file; give the model's path, or load that file first.")
    if tensor.raw_data:
        have, wanted = len(tensor.raw_data), size_bytes(tensor)
    else:
        counts = {field: len(getattr(tensor, field)) for field in FIELDS}
        have, wanted = sum(counts.values()), _values(tensor)
    if have != wanted:
        unit = "bytes" if tensor.raw_data else "values"
        raise ValueError(
            f"tensor {tensor.name!r} has {have} {unit}, wanted {wanted} for its shape {list(tensor.dims)}. Is the file truncated?"
        )


def _values(tensor: TensorProto) -> int:
    """How many entries a list of the tensor's values has: small ones are packed, complex ones are two."""
    if any(size < 0 for size in tensor.dims):
        raise ValueError(f"tensor {tensor.name!r} has the shape {list(tensor.dims)}.")
    name = _type_name(tensor)
    count = math.prod(tensor.dims)
    if name.startswith("COMPLEX"):
        return 2 * count
    return (count * BITS[name] + 7) // 8 if BITS.get(name, 8) < 8 else count


def check_text(message, where: str) -> None:
    """Raises InputError where a name or another text is not UTF-8: protobuf then gives bytes for it."""
    for field, value in message.ListFields():
        values = value if hasattr(value, "extend") else [value]
        if field.type == field.TYPE_STRING:
            broken = [text for text in values if isinstance(text, bytes)]
            if broken:
                raise InputError(
                    f"{where} is not a valid ONNX model: its {field.name} {broken[0]!r} cannot be decoded as UTF-8."
                )
        elif field.type == field.TYPE_MESSAGE:
            for inner in values:
                check_text(inner, where)


def check_versions(model: onnx.ModelProto, where: str) -> None:
    """Raises InputError for versions of the format or the operators that are not known; newer formats are written down as 10."""
    oldest, newest = IR_VERSIONS
    if not oldest <= model.ir_version <= newest:
        raise InputError(
            f"{where} has IR version {model.ir_version}, wanted {oldest} to {newest}. Is it an ONNX model? Export it again."
        )
    model.ir_version = min(model.ir_version, NEWEST_IR)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx") and not OLDEST_OPSET <= entry.version <= defs.onnx_opset_version():
            raise InputError(
                f"{where} has opset {entry.version}, wanted {OLDEST_OPSET} to {defs.onnx_opset_version()}. "
                "Export it again with an opset from 17 to 21."
            )


def check_graph(light: onnx.ModelProto, where: str) -> None:
    """Raises InputError where the graph, a copy without weights, is not one that can be run."""
    problem = _broken_names(light.graph)
    if problem:
        raise InputError(f"{where} is not a valid ONNX model: {problem}")
    held = [
        entry.t
        for node in light.graph.node
        for entry in node.attribute
        if node.op_type == "Constant" and entry.HasField("t")
    ]
    for tensor in [*light.graph.initializer, *held]:
        if not tensor.raw_data and not any(getattr(tensor, field) for field in FIELDS):
            tensor.dims[:] = [0]  # the checker wants values for a shape
    try:
        onnx.checker.check_model(light)
    except onnx.checker.ValidationError as error:
        raise InputError(f"{where} is not a valid ONNX model: {first_line(error)}") from None


def _broken_names(graph: onnx.GraphProto) -> str | None:
    held = [tensor.name for tensor in graph.initializer] + [sparse.values.name for sparse in graph.sparse_initializer]
    made = [name for node in graph.node for name in node.output if name]
    for names in (held, [value.name for value in graph.input], [value.name for value in graph.output], held + made):
        twice = _first_twice(names)
        if twice is not None:
            return f"two values have the name {twice!r}."
    known = {*held, *(value.name for value in graph.input)}
    for node in graph.node:
        missing = [name for name in node.input if name and name not in known]
        if missing:
            return _why_missing(missing[0], node, set(made))
        known.update(node.output)
    return None


def _why_missing(value: str, node: onnx.NodeProto, made: set[str]) -> str:
    reader = f"{node.op_type} {(node.name or next(iter(node.output), ''))!r}"
    if value in made:
        return f"{reader} reads {value!r}, which is made only after it: the nodes form a circle or are out of order."
    return f"{reader} reads {value!r}, which nothing makes."


def _first_twice(names: list[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
