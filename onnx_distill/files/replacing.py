"""A file that appears whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path
from typing import Iterator

from onnx_distill.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk, a quota, a limit on file sizes


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
