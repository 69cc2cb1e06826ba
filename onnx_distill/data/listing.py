"""Which image files there are, and their labels: a folder per class, one flat folder, or a list file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    """Image files in a fixed order; labels: int64 [n], as stored, or None; class_names: of folders that are classes, by their labels."""

    entries: tuple[Entry, ...]
    labels: np.ndarray | None
    class_names: dict[int, str] = field(default_factory=dict)
    empty: tuple[str, ...] = ()  # folders without images, which are no classes

    def knows(self, classes: Mapping[int, str]) -> bool:
        """Whether any class folder has one of the names."""
        return bool({_same(name) for name in classes.values()} & {_same(name) for name in self.class_names.values()})

    def numbered_as(self, classes: Mapping[int, str], whose: str) -> Listing:
        """The same with each class folder labelled as the class of its name. classes: stored label -> name.

        Raises InputError for a folder that has none of the names. whose: where the names are from, for the message.
        """
        labels = {_same(name): label for label, name in classes.items()}
        strange = [name for name in self.class_names.values() if _same(name) not in labels]
        if strange:
            near = closest(strange[0], list(classes.values()))
            raise InputError(
                f"folder {strange[0]!r} is no class of {whose}{near}; wanted a folder for each, of the same names."
            )
        made = {label: labels[_same(name)] for label, name in self.class_names.items()}
        numbers = np.array([made[label] for label in self.labels.tolist()], np.int64) if self.labels is not None else None
        return replace(self, labels=numbers, class_names={made[label]: name for label, name in self.class_names.items()})


def _same(name: str) -> str:
    """Names that are one class: 'T-Shirt' and 't-shirt'."""
    return name.strip().casefold()


def list_folder(folder: str | os.PathLike) -> Listing:
    """A folder per class: classes are numbered in the order of their names (sorted by code point), and where all names are numbers, by
    those. Or one flat folder: no labels.

    Hidden files, files that are not named like images, folders without images and __MACOSX are left out. Raises InputError for a
    folder without images, or with images both in it and in its subfolders.
    """
    root = Path(folder)
    flat = _images_in(root)
    classes = [child for child in sorted(_children(root)) if child.is_dir() and not _is_rubbish(child)]
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
    empty, full = tuple(name for name, files in by_class if not files), [(name, files) for name, files in by_class if files]
    entries = tuple(_entry(root, path) for _, files in full for path in files)
    numbers = _numbers([name for name, _ in full])
    labels = np.repeat(np.array(numbers, np.int64), [len(files) for _, files in full])
    return Listing(entries, labels, dict(zip(numbers, (name for name, _ in full))), empty)


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


def _numbers(names: Sequence[str]) -> list[int]:
    """The label of each class folder: its own number where all are named by different ones, else its place."""
    own = [int(name) for name in names if name.isdecimal() and len(name) < 10]
    return own if len(set(own)) == len(names) else list(range(len(names)))


def _is_rubbish(folder: Path) -> bool:
    """Hidden, or what macOS puts into its zip files."""
    return folder.name.startswith(".") or folder.name == "__MACOSX"


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
        if _is_rubbish(child):
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
