"""ONNX files in and out, and look-ups in a graph: values, producers, consumers, initializers."""

from __future__ import annotations

import contextlib
import difflib
import errno
import math
import os
import tempfile
from pathlib import Path
from typing import Iterable, Iterator

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import external_data_helper, numpy_helper

from onnx_distill import check
from onnx_distill.declared import correct_shapes
from onnx_distill.errors import InputError, first_line
from onnx_distill.external import read_external
from onnx_distill.operands import check_operands

QUANTIZED_OPS = frozenset(
    "QuantizeLinear DequantizeLinear DynamicQuantizeLinear ConvInteger MatMulInteger QGemm QAttention "
    "MatMulNBits DynamicQuantizeMatMul MatMulIntegerToFloat".split()
)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk, a quota, a limit on file sizes
LARGEST_PROTO = 2**31 - 2**20  # bytes; protobuf's limit is 2 GiB
SMALL = 1024  # elements; shape inference reads the contents of small initializers (shapes, axes) and never of larger ones


def load(source: str | os.PathLike | onnx.ModelProto) -> onnx.ModelProto:
    """The model in a file (external data read in), or a copy of a ModelProto; checked to be a usable ONNX graph.

    Opset 7 and newer, IR 3 to 13; an IR newer than the runtime's is written down as 10, and nodes of one name are told apart. Raises InputError for anything that
    is not a whole ONNX model, before memory is spent on what it only claims to hold.
    """
    where = "the given ModelProto" if isinstance(source, onnx.ModelProto) else str(source)
    try:
        return _checked(source, where)
    except UnicodeDecodeError as error:  # where a damaged file spoils a name
        raise InputError(f"{where} is not a valid ONNX model: {first_line(error)}") from None


def _checked(source: str | os.PathLike | onnx.ModelProto, where: str) -> onnx.ModelProto:
    if isinstance(source, onnx.ModelProto):
        model = onnx.ModelProto()
        model.CopyFrom(source)
    else:
        model = _read(Path(source))
    if not model.graph.node or not model.graph.output:
        raise InputError(f"{where} is not a whole ONNX model: it has no nodes or no outputs. Is the file truncated?")
    check.check_text(model, where)
    check.check_versions(model, where)
    check.check_tensors(model, where)
    check.check_graph(without_weights(model), where)
    _name_apart(model)
    check_operands(model, where, {})  # first: onnx 1.16 divides by a stride of 0 when it infers shapes
    check_operands(model, where, correct_shapes(model, without_weights(model), where))
    return model


def _name_apart(model: onnx.ModelProto) -> None:
    """Nodes of one name get others, but for the first: the runtime loads no such model."""
    taken, seen = {node.name for node in model.graph.node}, {""}
    for node in model.graph.node:
        if node.name in seen and node.name:
            node.name = fresh_name(node.name, taken)
        seen.add(node.name)


def _read(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise InputError(f"no file {path}{closest(path.name, [p.name for p in _siblings(path)])}")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError:
        raise InputError(f"{path} is not an ONNX file, or a truncated one ({path.stat().st_size} bytes).") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    read_external(check.tensors(model), path.parent, str(path))
    return model


def _siblings(path: Path) -> list[Path]:
    return sorted(path.parent.glob("*.onnx")) if path.parent.is_dir() else []


def closest(name: str, names: list[str]) -> str:
    """'; closest: a, b' for the names most like `name`, or ''."""
    matches = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    return f"; closest: {', '.join(repr(m) for m in matches)}" if matches else ""


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place on success and is gone on failure.

    Raises InputError when the folder cannot be written or the disk is full.
    """
    target = Path(path)
    temporary = None
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}. {_remedy(error, target)}") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def check_writable(path: str | os.PathLike) -> None:
    """Raises InputError now for what `replacing` would refuse after an hour's work: no folder, or one that cannot be written to."""
    target = Path(path)
    try:
        with os.scandir(target.parent):
            pass
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}. {_remedy(error, target)}") from None
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"cannot write {target}: the folder {target.parent} is read-only for you. Choose another place.")


def _remedy(error: OSError, target: Path) -> str:
    if error.errno == errno.ENOENT and not target.parent.exists():
        return f"Make the folder {target.parent} first."
    return "Free space or choose another place." if error.errno in FULL else "Choose another place."


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def save(model: onnx.ModelProto, path: str | os.PathLike) -> None:
    """Write the model to `path`, whole or not at all; weights go to `path`.data when it is larger than protobuf allows."""
    target = Path(path)
    if _fits_one_file(model):
        with replacing(target) as temporary:
            temporary.write_bytes(model.SerializeToString(deterministic=True))
        return
    with replacing(f"{target}.data") as weights, replacing(target) as temporary:
        moved = onnx.ModelProto()
        moved.CopyFrom(model)
        external_data_helper.convert_model_to_external_data(moved, location=weights.name, size_threshold=1024)
        weights.unlink()
        onnx.save_model(moved, str(temporary))
        _point_external_data(temporary, weights.name, f"{target.name}.data")


def _fits_one_file(model: onnx.ModelProto) -> bool:
    try:
        return model.ByteSize() < LARGEST_PROTO
    except EncodeError:  # protobuf's answer, instead of a number, above 2 GiB
        return False


def _point_external_data(path: Path, old: str, new: str) -> None:
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location" and entry.value == old:
                entry.value = new
    path.write_bytes(model.SerializeToString(deterministic=True))


def opset(model: onnx.ModelProto) -> int:
    """Version of the default ONNX operator set that the model imports; 0 if it imports none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def initializers(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def without_weights(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto] | None = None) -> onnx.ModelProto:
    """A copy whose tensors of more than SMALL elements have no values: all that shape inference and conversions read.

    nodes: those it has in place of the model's own.
    """
    made = onnx.ModelProto()
    _copy_fields(model, made, ("graph",))
    _copy_fields(model.graph, made.graph, ("initializer", "node"))
    for tensor in model.graph.initializer:
        made.graph.initializer.append(tensor if math.prod(tensor.dims) <= SMALL else _emptied(tensor))
    for node in model.graph.node if nodes is None else nodes:
        _add_node(made.graph, node)
    return made


def _copy_fields(source, target, but: tuple[str, ...]) -> None:
    for field, value in source.ListFields():
        if field.name not in but:
            is_repeated = hasattr(value, "extend")
            getattr(target, field.name).extend(value) if is_repeated else setattr(target, field.name, value)


def _emptied(tensor: onnx.TensorProto) -> onnx.TensorProto:
    return onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)


def _add_node(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    held = node.attribute[0].t if node.op_type == "Constant" and len(node.attribute) == 1 else None
    if held is None or math.prod(held.dims) <= SMALL:
        graph.node.append(node)
    else:
        _copy_fields(node, graph.node.add(), ("attribute",))
        graph.node[-1].attribute.add(name="value", type=onnx.AttributeProto.TENSOR, t=_emptied(held))


def take_nodes(model: onnx.ModelProto, changed: onnx.ModelProto) -> None:
    """Give the model, in place, the nodes, functions, opsets and new initializers of a changed copy made `without_weights`."""
    weights = {t.name: t for t in model.graph.initializer}
    held = {node.output[0]: attribute(node, "value") for node in model.graph.node if node.op_type == "Constant"}
    held = {name: tensor for name, tensor in held.items() if tensor is not None and math.prod(tensor.dims) > SMALL}
    for tensor in changed.graph.initializer:
        if tensor.name not in weights:
            model.graph.initializer.append(tensor)
    for node in changed.graph.node:
        if node.op_type == "Constant" and node.output[0] in held:
            node.attribute[0].t.CopyFrom(held[node.output[0]])
    _set(model.graph.node, changed.graph.node)
    _set(model.functions, changed.functions)
    _set(model.opset_import, changed.opset_import)


def _set(repeated, items) -> None:
    del repeated[:]
    repeated.extend(items)


def array(tensor: onnx.TensorProto) -> np.ndarray:
    """A writable copy of the tensor's values."""
    return np.array(numpy_helper.to_array(tensor))


def data_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Graph inputs that are not initializers."""
    constants = initializers(model)
    return [value for value in model.graph.input if value.name not in constants]


def image_input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """The one data input. Raises InputError when there are none or several."""
    inputs = data_inputs(model)
    if len(inputs) != 1:
        names = ", ".join(repr(value.name) for value in inputs) or "none"
        raise InputError(f"the model has {len(inputs)} inputs ({names}); wanted exactly one, the images.")
    return inputs[0]


def shape_of(value: onnx.ValueInfoProto) -> list[int | str]:
    """Dimensions: an int where fixed, a name ('?' if unnamed) where free; Paddle and others write -1 for the latter."""
    dims = value.type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else (d.dim_param or "?") for d in dims]


def producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Value name -> the node that makes it."""
    return {name: node for node in model.graph.node for name in node.output if name}


def consumers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Value name -> the nodes that read it, in graph order."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            if name:
                readers.setdefault(name, []).append(node)
    return readers


def quantized_node(model: onnx.ModelProto) -> onnx.NodeProto | None:
    """The first node that works on or makes quantized values (functions, subgraphs included), or None in a float model."""
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while nodes:
        node = nodes.pop(0)
        if node.op_type.startswith("QLinear") or node.op_type in QUANTIZED_OPS:
            return node
        nodes[:0] = [inner for entry in node.attribute for graph in (entry.g, *entry.graphs) for inner in graph.node]
    return None


def attribute(node: onnx.NodeProto, name: str, default=None):
    """The attribute's Python value, or `default`."""
    for entry in node.attribute:
        if entry.name == name:
            return onnx.helper.get_attribute_value(entry)
    return default


def prune(model: onnx.ModelProto) -> None:
    """Remove, in place, nodes, initializers and value infos that no graph output needs; graph inputs stay."""
    made_by = producers(model)
    needed, stack = set(), [value.name for value in model.graph.output]
    while stack:
        name = stack.pop()
        if name in needed:
            continue
        needed.add(name)
        if name in made_by:
            stack.extend(read_by(made_by[name]))
    keep(model.graph.node, lambda node: any(name in needed for name in node.output))
    keep(model.graph.initializer, lambda tensor: tensor.name in needed)
    keep(model.graph.sparse_initializer, lambda tensor: tensor.values.name in needed)
    made = {name for node in model.graph.node for name in node.output}
    keep(model.graph.value_info, lambda value: value.name in made)


def read_by(node: onnx.NodeProto) -> list[str]:
    """Every outer value that a node reads, those read inside its subgraphs included."""
    names = [name for name in node.input if name]
    for entry in node.attribute:
        graphs = [entry.g] if entry.type == onnx.AttributeProto.GRAPH else list(entry.graphs)
        for graph in graphs:
            inner = {name for n in graph.node for name in n.output} | {t.name for t in graph.initializer}
            inner |= {value.name for value in graph.input}
            names += [name for n in graph.node for name in read_by(n) if name not in inner]
            names += [value.name for value in graph.output if value.name not in inner]
    return names


def rename_values(node: onnx.NodeProto, new: dict[str, str]) -> None:
    """Old value name -> new one, in place, in what the node reads and makes, in its subgraphs too."""
    node.input[:] = [new.get(name, name) for name in node.input]
    node.output[:] = [new.get(name, name) for name in node.output]
    for graph in (graph for entry in node.attribute for graph in (entry.g, *entry.graphs)):
        for value in graph.output:
            value.name = new.get(value.name, value.name)
        for inner in graph.node:
            rename_values(inner, new)


def keep(repeated, wanted) -> None:
    """Drop, in place, the items that are not `wanted`; the others are not copied."""
    for index in reversed(range(len(repeated))):
        if not wanted(repeated[index]):
            del repeated[index]


def fresh_name(base: str, taken: set[str]) -> str:
    """`base`, or `base_1`, `base_2`, ... whichever is not in `taken`; it is added to `taken`."""
    name, number = base, 0
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    taken.add(name)
    return name


def names(model: onnx.ModelProto) -> set[str]:
    """Every value and node name in the graph."""
    taken = {name for node in model.graph.node for name in [node.name, *node.input, *node.output]}
    taken |= {tensor.name for tensor in model.graph.initializer}
    return taken | {value.name for value in [*model.graph.input, *model.graph.output]}
