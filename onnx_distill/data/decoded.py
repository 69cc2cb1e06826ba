"""Image files decoded once, on worker processes, into one array on disk: from then on they are read like any array.

A CPU takes longer to train on an image than to decode it, but the training step holds Python's lock; decoding all at once,
before, keeps the step from ever waiting, and every epoch but the first is free. Memory stays flat: the array is a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Callable, Iterator

import numpy as np

from onnx_distill.data.decode import BrokenImage, Framing, decode
from onnx_distill.data.listing import Entry, Listing
from onnx_distill.errors import InputError

CHUNK = 32  # images a task: long enough to hide the cost of handing it over, short enough for a smooth progress bar
NAMED = 3  # broken images that a message names


@dataclass(frozen=True)
class Decoded:
    """pixels: uint8 [n, height, width, channels], a memory map; rows: which of them are good; broken: (name, reason) of the rest."""

    pixels: np.ndarray
    rows: np.ndarray
    broken: tuple[tuple[str, str], ...]


def decode_all(
    listing: Listing,
    framing: Framing,
    workers: int = 0,
    cache: str | os.PathLike | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Decoded:
    """Every image of the listing, decoded; the result does not depend on the number of worker processes (0: in this one).

    cache: a folder that keeps the array for the next time that the same files (by path, size and time of change) are asked
    for in the same framing; None: a temporary file that is gone when the array is. Raises InputError for too little disk.
    """
    folder = Path(cache) if cache is not None else Path(tempfile.gettempdir())
    target = folder / f"{_fingerprint(listing, framing)}.npy" if cache is not None else None
    if target is None or not target.with_suffix(".json").is_file():
        target = _decode_to(folder, target, listing, framing, workers, on_progress)
    broken = json.loads(target.with_suffix(".json").read_text())
    pixels = np.load(str(target), mmap_mode="r", allow_pickle=False)
    if cache is None:
        with contextlib.suppress(PermissionError):  # Windows keeps a mapped file; elsewhere the mapping keeps its content
            target.unlink()
        target.with_suffix(".json").unlink()
    bad = {row for row, _ in broken}
    rows = np.array([row for row in range(len(pixels)) if row not in bad], np.int64)
    return Decoded(pixels, rows, tuple((listing.entries[row].name, reason) for row, reason in broken))


def refuse_broken(decoded: Decoded, most: float) -> None:
    """Raises InputError when more than the share `most` of the images is broken, or no image is left."""
    total, bad = len(decoded.pixels), len(decoded.broken)
    if bad > most * total or bad == total:
        named = "; ".join(f"{name}: {reason}" for name, reason in decoded.broken[:NAMED])
        raise InputError(
            f"{bad} of {total} images cannot be read ({named}{'; ...' if bad > NAMED else ''}); allowed are {most:.1%}."
        )


def _decode_to(folder: Path, target: Path | None, listing: Listing, framing: Framing, workers: int, on_progress) -> Path:
    shape = (len(listing.entries), framing.height, framing.width, framing.channels)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_space(folder, int(np.prod(shape, dtype=np.int64)))
        handle, name = tempfile.mkstemp(dir=folder, prefix=".onnx-distill-", suffix=".npy")
        os.close(handle)
    except OSError as error:
        raise InputError(
            f"cannot write to {folder}: {error.strerror or error}. Choose another folder with --cache."
        ) from None
    made = Path(name)
    try:
        np.lib.format.open_memmap(str(made), mode="w+", dtype=np.uint8, shape=shape).flush()
        broken = _fill(made, listing.entries, framing, workers, on_progress)
        if target is not None:
            os.replace(made, target)
            made = target
        made.with_suffix(".json").write_text(json.dumps(broken))  # last: its presence says that the array is whole
    except OSError as error:
        made.unlink(missing_ok=True)
        raise InputError(f"cannot write to {folder}: {error.strerror or error}. Free space, or set --cache.") from None
    except BaseException:
        made.unlink(missing_ok=True)
        raise
    return made


def check_space(folder: Path, wanted: int) -> None:
    """Raises InputError where the folder has no room for so many bytes of decoded images."""
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise InputError(
            f"the decoded images need {wanted / 1e9:.1f} GB, {folder} has {free / 1e9:.1f}; choose another with --cache."
        )


def _fill(path: Path, entries: tuple[Entry, ...], framing: Framing, workers: int, on_progress) -> list[tuple[int, str]]:
    """Decode every entry into its row of the array in `path`; (row, reason) of those that are broken."""
    starts = range(0, len(entries), CHUNK)
    tasks = [(str(path), start, entries[start : start + CHUNK], framing) for start in starts]
    broken: list[tuple[int, str]] = []
    for done, found in enumerate(_map(tasks, workers), start=1):
        broken += found
        on_progress(min(done * CHUNK, len(entries)), len(entries))
    return broken


def _map(tasks: list, workers: int) -> Iterator[list[tuple[int, str]]]:
    if not workers:
        yield from map(_decode_rows, tasks)
        return
    try:  # spawn: a fork of a process whose runtime has threads may hang
        with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=get_context("spawn")) as pool:
            yield from pool.map(_decode_rows, tasks)
    except BrokenProcessPool:
        raise InputError("a decoding process was killed, perhaps for memory; try fewer --workers.") from None


def _decode_rows(task: tuple[str, int, tuple[Entry, ...], Framing]) -> list[tuple[int, str]]:
    path, start, entries, framing = task
    rows = np.load(path, mmap_mode="r+", allow_pickle=False)
    broken = []
    for row, entry in enumerate(entries, start=start):
        try:
            rows[row] = decode(entry.read(), framing)
        except BrokenImage as error:
            broken.append((row, str(error)))
        except OSError as error:
            broken.append((row, error.strerror or str(error)))
    return broken


def _fingerprint(listing: Listing, framing: Framing) -> str:
    digest = hashlib.sha256(json.dumps(asdict(framing), sort_keys=True).encode())
    for entry in listing.entries:
        with contextlib.suppress(OSError):  # a missing file is part of the fingerprint too
            state = os.stat(entry.path)
            digest.update(f"{state.st_size} {state.st_mtime_ns} ".encode())
        digest.update(f"{os.path.abspath(entry.path)} {entry.offset} {entry.size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]
