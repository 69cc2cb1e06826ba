"""Sizes of the files that a run began and ended with, as they lie on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from onnx_distill.run.result import Row


def as_stored(rows: Sequence[Row], teacher: str | None, exported: Path) -> list[Row]:
    """The rows, the first and the last with the sizes of the files that they are in, where those are there; the others as measured."""
    found = list(rows)
    for place, path in ((0, teacher), (-1, exported)):
        if found and path is not None and Path(path).is_file():
            measured = replace(found[place].measured, size_bytes=stored_bytes(Path(path)))
            found[place] = replace(found[place], measured=measured)
    return found


def stored_bytes(path: Path) -> int:
    """Of an ONNX file and of the files beside it that hold its weights."""
    tensors = onnx.load(str(path), load_external_data=False).graph.initializer
    beside = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    files = [path, *(path.parent / name for name in beside)]
    return sum(file.stat().st_size for file in files if file.is_file())
