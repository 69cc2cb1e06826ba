"""Images in tars, WebDataset's layout: one tar, all tars of a folder, or those that a pattern such as train-{000..003}.tar names."""

from __future__ import annotations

import os
import re
import tarfile
from pathlib import Path
from typing import Iterator

import numpy as np

from onnx_distill.closest import closest
from onnx_distill.data.listing import SUFFIXES, Entry, Listing
from onnx_distill.errors import InputError, first_line

LABEL_SUFFIX = ".cls"  # WebDataset: 0001.jpg, 0001.cls
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")
MOST_SHARDS = 100_000  # a longer range is a slip of the hand


def shards_at(path: Path) -> list[Path]:
    """The tars that make one set, in order: of a folder that holds no images, of a pattern, or the one; [] where there are none."""
    if path.is_dir():
        tars = sorted(child for child in path.iterdir() if _is_shard(child))
        return [] if tars and _holds_images(path) else tars
    if path.is_file():
        return [path] if _looks_like_tar(path) else []
    names = expanded(str(path))
    return [Path(name) for name in names] if len(names) > 1 else []


def expanded(pattern: str) -> list[str]:
    """Every name that a shell makes of {000..003} and {a,b}; a range that begins with 0 keeps its width."""
    braces = next((found for found in BRACES.finditer(pattern) if _choices(found[1])), None)
    if braces is None:
        return [pattern]
    rest = expanded(pattern[braces.end() :])
    return [f"{pattern[: braces.start()]}{choice}{end}" for choice in _choices(braces[1]) for end in rest]


def _choices(inner: str) -> list[str]:
    found = RANGE.fullmatch(inner)
    if found is None:
        return inner.split(",") if "," in inner else []
    first, last = int(found[1]), int(found[2])
    if abs(last - first) >= MOST_SHARDS:
        raise InputError(f"{{{inner}}} names {abs(last - first) + 1:,} files; wanted {MOST_SHARDS:,} at most.")
    width = max(map(len, found.groups())) if any(len(end) > 1 and end[0] == "0" for end in found.groups()) else 0
    step = 1 if last >= first else -1
    return [f"{number:0{width}}" for number in range(first, last + step, step)]


def list_shards(path: str | os.PathLike) -> Listing:
    """The images of every tar at `path` (shards_at), one tar after the other, each in its order.

    Raises InputError for one that is missing or broken, by its name, and where some tars have labels and others none.
    """
    tars = shards_at(Path(path))
    parts = [list_tar(tar, f"{tar.name}/" if len(tars) > 1 else "") for tar in tars]
    labelled = [tar for tar, part in zip(tars, parts) if part.labels is not None]
    bare = [tar for tar, part in zip(tars, parts) if part.labels is None]
    if labelled and bare:
        raise InputError(f"{labelled[0]} has labels, but {bare[0]} has none; wanted them in all shards, or in none.")
    labels = np.concatenate([part.labels for part in parts if part.labels is not None]) if labelled else None
    return Listing(tuple(entry for part in parts for entry in part.entries), labels)


def list_tar(path: str | os.PathLike, prefix: str = "") -> Listing:
    """The images of an uncompressed tar in their order there; the label of `key.jpg` is the number in `key.cls`, where all have one.

    prefix: of the images' names. Raises InputError for what is no tar, a compressed one, or one with labels for some images only.
    """
    images, labels = [], {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in _files(tar):
                key, suffix = os.path.splitext(member.name)
                if suffix.lower() in SUFFIXES:
                    images.append((key, Entry(prefix + member.name, str(path), member.offset_data, member.size)))
                elif suffix == LABEL_SUFFIX:
                    labels[key] = _tar_label(tar, member)
    except FileNotFoundError:
        raise InputError(f"no file {path}{closest(Path(path).name, _beside(Path(path)))}") from None
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise InputError(f"{path} cannot be read as an uncompressed tar: {first_line(error)}") from None
    if not images:
        raise InputError(f"no images in {path}; wanted members ending in {', '.join(sorted(SUFFIXES))}.")
    missing = [entry.name for key, entry in images if key not in labels]
    if labels and missing:
        raise InputError(
            f"{path} has labels, but none for {missing[0]!r} and {len(missing) - 1} more; wanted one for each, or none."
        )
    found = np.array([labels[key] for key, _ in images], np.int64) if labels else None
    return Listing(tuple(entry for _, entry in images), found)


def _files(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    return (member for member in tar if member.isfile())


def _tar_label(tar: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    content = tar.extractfile(member).read(32)  # type: ignore[union-attr]  # a file, as was checked
    try:
        return int(content)
    except ValueError:
        raise ValueError(f"{member.name} holds {content[:20]!r}, wanted a class number") from None


def _is_shard(path: Path) -> bool:
    return path.name.lower().endswith(TAR_SUFFIXES) and not path.name.startswith(".") and path.is_file()


def _holds_images(folder: Path) -> bool:
    return any(path.suffix.lower() in SUFFIXES and not path.name.startswith(".") for path in folder.rglob("*"))


def _looks_like_tar(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(262)[257:] == b"ustar" or path.name.lower().endswith(TAR_SUFFIXES)


def _beside(path: Path) -> list[str]:
    return [child.name for child in path.parent.iterdir()] if path.parent.is_dir() else []
