"""IDX files, the format of MNIST: two zero bytes, a type, the rank, big-endian sizes, then the values; often gzipped."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from pathlib import Path

import numpy as np

from onnx_distill.errors import InputError

GZIP = b"\x1f\x8b"
TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
NAME = re.compile(r"(.*)-images-idx3-ubyte(\.gz)?")


def looks_like_idx(head: bytes) -> bool:
    """True for files that start as IDX or gzip does."""
    return head.startswith((b"\0\0", GZIP))


def read_idx(path: Path) -> np.ndarray:
    """The array in an IDX file, plain or gzipped, in this machine's byte order.

    Raises InputError when the file is damaged, cut short, too long or not IDX.
    """
    content = _content(path)
    shape, dtype = _header(path, content)
    start, wanted = 4 + 4 * len(shape), math.prod(shape) * dtype.itemsize
    if len(content) - start != wanted:
        raise InputError(
            f"{path} is truncated or damaged: its header, sizes {list(shape)} of {dtype.newbyteorder('=').name}, "
            f"promises {wanted} bytes; it holds {max(0, len(content) - start)}."
        )
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def sibling_labels(path: Path) -> Path | None:
    """The *-labels-idx1-ubyte[.gz] beside a *-images-idx3-ubyte[.gz], where there is one."""
    match = NAME.fullmatch(path.name)
    if not match:
        return None
    plain = path.with_name(f"{match[1]}-labels-idx1-ubyte")
    gzipped = path.with_name(f"{plain.name}.gz")
    return next((p for p in ([gzipped, plain] if match[2] else [plain, gzipped]) if p.is_file()), None)


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if not content.startswith(GZIP):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is a truncated or damaged gzip file: {error}") from None


def _header(path: Path, content: bytes) -> tuple[tuple[int, ...], np.dtype]:
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in TYPES:
        types = " ".join(f"{code:02x}" for code in TYPES)
        raise InputError(f"{path} starts with bytes {content[:4].hex(' ')}; IDX wants 00 00, a type ({types}) and the rank.")
    rank = content[3]
    sizes = content[4 : 4 + 4 * rank]
    if len(sizes) < 4 * rank or not rank:
        raise InputError(f"{path} is truncated or damaged: it ends within the sizes of its {rank} dimensions.")
    return tuple(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, 4 * rank, 4)), np.dtype(TYPES[content[2]])
