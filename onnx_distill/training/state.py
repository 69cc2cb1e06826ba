"""Where a training stands, on disk: written whole or not at all, the last few kept, damage noticed by checksum.

A file is one line that says what it is, the sha256 of the rest in hexadecimal and a newline, then an .npz: arrays, and under
FACTS the rest as JSON. Nothing in it is pickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import numpy as np

from onnx_distill.errors import InputError
from onnx_distill.files.replacing import replacing

MAGIC = b"onnx-distill checkpoint 1\n"
FACTS = "facts"
NAME = re.compile(r"step-(\d+)\.ckpt")
DIGEST = 65  # bytes: a sha256 in hexadecimal and a newline


@dataclass(frozen=True)
class State:
    """After `step` optimiser steps: named arrays, and facts that JSON can hold (its numbers come back bit for bit)."""

    step: int
    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


def to_bytes(state: State) -> bytes:
    buffer = io.BytesIO()
    facts = json.dumps({"step": state.step, **state.facts}).encode()
    named: dict[str, Any] = {FACTS: np.frombuffer(facts, np.uint8)}
    named.update((f"a/{name}", array) for name, array in state.arrays.items())
    np.savez(buffer, **named)
    content = buffer.getvalue()
    return MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def from_bytes(content: bytes) -> State:
    """Raises ValueError for anything that to_bytes did not write, or that was damaged since."""
    head, digest, body = content[: len(MAGIC)], content[len(MAGIC) :][:DIGEST], content[len(MAGIC) + DIGEST :]
    if head != MAGIC or hashlib.sha256(body).hexdigest().encode() + b"\n" != digest:
        raise ValueError("its checksum does not fit its content")
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as archive:
            facts = json.loads(archive[FACTS].tobytes())
            arrays = {name[2:]: archive[name] for name in archive.files if name != FACTS}
    except zipfile.BadZipFile:
        raise ValueError("it is no archive") from None
    return State(facts.pop("step"), arrays, facts)


class StateStore:
    """The checkpoints of one run, files step-NNN.ckpt in a folder."""

    def __init__(
        self, folder: Path, keep: int = 2, on_damaged: Callable[[str], None] = lambda message: None, anew: bool = False
    ):
        """keep: how many of the newest stay; two, so that one is left when the newest turns out damaged. anew: what is there is of
        another run, is not found, and goes when the first checkpoint of this one is saved."""
        self.folder, self.keep, self.on_damaged, self._anew = folder, keep, on_damaged, anew

    def save(self, state: State) -> None:
        """Raises InputError when it cannot be written; the older ones are then untouched."""
        self._make_folder()
        if self._anew:
            self.clear()
        self._anew = False
        try:
            with replacing(self.folder / f"step-{state.step:08}.ckpt") as temporary:
                temporary.write_bytes(to_bytes(state))
        except InputError as error:
            kept = self._files()
            raise InputError(f"{error} {f'--resume goes on from step {kept[-1][0]}.' if kept else ''}".strip()) from None
        for _, path in self._files()[: -self.keep]:
            path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove every checkpoint: the run begins again."""
        for _, path in self._files():
            path.unlink(missing_ok=True)

    def newest(self) -> State | None:
        """The newest checkpoint that is whole, or None; damaged ones are told to `on_damaged` and passed over."""
        for _, path in reversed([] if self._anew else self._files()):
            try:
                return from_bytes(path.read_bytes())
            except (ValueError, OSError) as error:
                self.on_damaged(f"{path} is damaged ({error}); the checkpoint before it is used")
        return None

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make {self.folder}: {error.strerror or error}. Choose another folder.") from None

    def _files(self) -> list[tuple[int, Path]]:
        """(step, path), oldest first."""
        if not self.folder.is_dir():
            return []
        found = [(NAME.fullmatch(path.name), path) for path in self.folder.iterdir()]
        return sorted((int(match[1]), path) for match, path in found if match)
