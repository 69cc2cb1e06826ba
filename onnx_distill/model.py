"""ONNX files in and out: checked when they are read, whole or not at all when they are written."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import external_data_helper

from onnx_distill.checks import check
from onnx_distill.checks.operands import check_operands
from onnx_distill.closest import closest
from onnx_distill.edit import fresh_name
from onnx_distill.errors import InputError, first_line
from onnx_distill.facts.declared import correct_shapes
from onnx_distill.facts.weightless import without_weights
from onnx_distill.files.external import read_external
from onnx_distill.files.replacing import replacing

LARGEST_PROTO = 2**31 - 2**20  # bytes; protobuf's limit is 2 GiB


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
