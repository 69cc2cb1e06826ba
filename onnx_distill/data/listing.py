"""Which image files there are, and their labels: a folder per class, one flat folder, or a list file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnx_distill.closest import closest
from onnx_distill.errors import InputError

SUFFIXES = frozenset(".jpg .jpeg .jpe .jfif .png .gif .bmp .webp .tif .tiff .ppm .pgm .pnm".split())


@dataclass(frozen=True)
class Entry:
    """Where the bytes of one image are: a whole file, or a part of one."""

    name: str  # for messages, relative to what the user named
    path: str
    offset: int = 0
    size: int = -1  # bytes; -1 to the end

    def read(self) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True)
class Listing:
    """Image files in a fixed order; labels: int64 [n], as stored, or None; class_names: of the folders, or empty."""

    entries: tuple[Entry, ...]
    labels: np.ndarray | None
    class_names: tuple[str, ...] = ()


def list_folder(folder: str | os.PathLike) -> Listing:
    """A folder per class: classes are numbered in the order of their names (sorted by code point). Or one flat folder: no labels.

    Hidden files and files that are not named like images are left out. Raises InputError for a folder without images, or
    with images both in it and in its subfolders.
    """
    root = Path(folder)
    flat = _images_in(root)
    classes = [child for child in sorted(_children(root)) if child.is_dir() and not child.name.startswith(".")]
    by_class = [(child.name, _images_in(child, deep=True)) for child in classes]
    found = sum(len(files) for _, files in by_class)
    if flat and found:
        raise InputError(
            f"{root} has {len(flat)} images in it and {found} in subfolders; wanted a folder per class, or one flat folder."
        )
    if not flat and not found:
        raise InputError(f"no images in {root} or its subfolders; wanted files ending in {', '.join(sorted(SUFFIXES))}.")
    if flat:
        return Listing(tuple(_entry(root, path) for path in flat), None)
    entries = tuple(_entry(root, path) for _, files in by_class for path in files)
    labels = np.repeat(np.arange(len(by_class), dtype=np.int64), [len(files) for _, files in by_class])
    return Listing(entries, labels, tuple(name for name, _ in by_class))


def list_files(paths: Sequence[str | os.PathLike]) -> Listing:
    """Single image files, in the order given and named as given; no labels. Raises InputError for one that is missing or no image file."""
    for path in map(Path, paths):
        if not path.exists():
            beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            raise InputError(f"no file {path}{closest(path.name, beside)}")
        if not is_image_file(path):
            raise InputError(f"{path} is no image file; wanted files ending in {', '.join(sorted(SUFFIXES))}.")
    return Listing(tuple(Entry(os.fspath(path), os.fspath(path)) for path in paths), None)


def is_image_file(path: Path) -> bool:
    """Whether the file is named like an image."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def list_file(folder: str | os.PathLike, names: str | os.PathLike) -> Listing:
    """The images of a text file, a `name label` a line, names relative to `folder`; blank lines and # comments are left out.

    A name may contain spaces; a file that is missing is found out when it is read. Raises InputError for a line that is
    neither, or a name that leaves the folder.
    """
    root, path = Path(folder), Path(names)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text; wanted one `name label` a line.") from None
    rows = [_line(path, number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    if not rows:
        raise InputError(f"{path} lists no images; wanted one `name label` a line.")
    return Listing(tuple(_entry(root, root / name) for name, _ in rows), np.array([label for _, label in rows], np.int64))


def _children(folder: Path) -> list[Path]:
    if not folder.is_dir():
        beside = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise InputError(f"no folder {folder}{closest(folder.name, beside)}")
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror or error}") from None


def _images_in(folder: Path, deep: bool = False) -> list[Path]:
    found = []
    for child in sorted(_children(folder)):
        if child.name.startswith("."):
            continue
        if deep and child.is_dir():
            found += _images_in(child, deep)
        elif is_image_file(child):
            found.append(child)
    return found


def _entry(root: Path, path: Path) -> Entry:
    return Entry(os.path.relpath(path, root), str(path))


def _line(path: Path, number: int, line: str) -> tuple[str, int]:
    name, _, label = line.strip().rpartition(" ") if "\t" not in line else line.strip().rpartition("\t")
    try:
        if not name.strip():
            raise ValueError
        return _inside(path, number, name.strip()), int(label)
    except ValueError:
        raise InputError(f"{path} line {number} is {line[:60]!r}; wanted `name label`, the label a whole number.") from None


def _inside(path: Path, number: int, name: str) -> str:
    if os.path.isabs(name) or ".." in Path(name).parts:
        raise InputError(f"{path} line {number} names {name!r}, outside the image folder; wanted a name inside it.")
    return name
