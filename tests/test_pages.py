"""The pages lead to everything: the table of files names every file and room, README leads to every page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "onnx_distill"
TABLE = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
# Rooms of which the table names no file.
SUMMED_UP = ("cli/", "data/", "integer_form/", "lower/", "normalize/", "page/", "verify/")


def named(cell: str) -> list[str]:
    """The files and rooms in a cell of the table; behind a room stand files that are in it."""
    first, *others = re.findall(r"`(\w+(?:\.py|/))`", cell)
    return [first, *((first if first.endswith("/") else "") + other for other in others)]


def shown(folder: Path) -> list[str]:
    """The modules and rooms in a folder, by their paths in the package."""
    rooms = [path for path in folder.iterdir() if (path / "__init__.py").is_file()]
    files = [path for path in folder.glob("*.py") if not path.name.startswith("__")]
    return sorted(path.relative_to(PACKAGE).as_posix() + ("/" if path in rooms else "") for path in rooms + files)


NAMED = [name for cell in re.findall(r"^\| (`.*?) \|", TABLE, re.MULTILINE) for name in named(cell)]
MODULES = shown(PACKAGE)
IN_ROOMS = [name for room in MODULES if room.endswith("/") and room not in SUMMED_UP for name in shown(PACKAGE / room)]


@pytest.mark.parametrize("name", MODULES + IN_ROOMS)
def test_table_of_files_names(name):
    assert name in NAMED


def test_table_of_files_names_no_file_that_is_gone():
    assert [name for name in NAMED if not (PACKAGE / name).exists()] == []


def test_table_of_files_names_nothing_twice():
    assert sorted(set(NAMED)) == sorted(NAMED)


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_readme_leads_to(page):
    assert f"](docs/{page})" in (ROOT / "README.md").read_text(encoding="utf-8")
