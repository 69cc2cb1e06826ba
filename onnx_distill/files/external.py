"""Weights that lie in files beside the model, read in: only out of the model's own folder, and never more than a file holds."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Iterable

import onnx

from onnx_distill.checks.check import size_bytes
from onnx_distill.errors import InputError

MOST_TIMES = (
    4  # that all weights together may be as large as the files they lie in: tied weights share bytes, bombs share all
)


def read_external(tensors: Iterable[onnx.TensorProto], folder: Path, where: str) -> None:
    """Put the bytes of every tensor that lies in a file into the tensor. Raises InputError, before anything is read, for a
    file outside the folder or one that does not hold what is asked of it.
    """
    outside = [tensor for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL]
    try:
        places = [_place(tensor, folder) for tensor in outside]
        _check_total(places)
        for tensor, (path, offset, size) in zip(outside, places):
            _read(tensor, path, offset, size)
    except (OSError, ValueError) as error:
        raise InputError(f"external data of {where} cannot be read: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)


def _place(tensor: onnx.TensorProto, folder: Path) -> tuple[Path, int, int]:
    """File, offset and size in bytes."""
    given = {entry.key: entry.value for entry in tensor.external_data}
    path = _inside(given.get("location", ""), folder, tensor.name)
    offset, size = _number(given, "offset", tensor, 0), size_bytes(tensor)
    length = _number(given, "length", tensor, size)
    held = path.stat().st_size
    if length != size:
        raise ValueError(f"{tensor.name!r} has {length} bytes, wanted {size} for its shape {list(tensor.dims)}.")
    if offset + size > held:
        raise ValueError(f"{tensor.name!r} ends at byte {offset + size} of {path}, which has {held}. Is the file truncated?")
    return path, offset, size


def _inside(location: str, folder: Path, name: str) -> Path:
    parts = {*PurePosixPath(location).parts, *PureWindowsPath(location).parts}
    absolute = PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor
    if not location or "\0" in location or absolute or ".." in parts:
        raise ValueError(f"{name!r} lies in {location!r}; wanted a file in the model's own folder.")
    path = folder / location
    if Path(os.path.realpath(path)) != Path(os.path.realpath(folder), *PurePosixPath(location).parts):
        raise ValueError(f"{name!r} lies behind a symbolic link, {location!r}; wanted a file in the model's own folder.")
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{name!r} lies in {location!r}, which is no ordinary file.")
    return path


def _number(given: dict[str, str], key: str, tensor: onnx.TensorProto, default: int) -> int:
    text = given.get(key, "")
    if text and not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError(f"{key} of {tensor.name!r} is {text[:20]!r}; wanted a number of bytes.")
    return int(text) if text else default


def _check_total(places: list[tuple[Path, int, int]]) -> None:
    total, held = sum(size for _, _, size in places), sum(path.stat().st_size for path in {path for path, _, _ in places})
    if total > MOST_TIMES * held:
        raise ValueError(f"{total} bytes of weights are said to lie in files of {held} bytes.")


def _read(tensor: onnx.TensorProto, path: Path, offset: int, size: int) -> None:
    with open(path, "rb") as file:
        file.seek(offset)
        tensor.raw_data = file.read(size)
    if len(tensor.raw_data) != size:
        raise ValueError(f"{path} ended while it was read.")
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.DEFAULT
