"""The pages lead to everything: the table of files names every file, README leads to every page."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TABLE = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`([\w*]+(?:\.py|/))`", TABLE)
MODULES = sorted(
    path.name + ("/" if path.is_dir() else "")
    for path in (ROOT / "onnx_distill").iterdir()
    if (path.is_dir() and (path / "__init__.py").is_file()) or (path.suffix == ".py" and not path.name.startswith("__"))
)


@pytest.mark.parametrize("name", MODULES)
def test_table_of_files_names(name):
    assert any(fnmatch(name, pattern) for pattern in NAMED)


def test_table_of_files_names_no_file_that_is_gone():
    assert [one for one in NAMED if not any(fnmatch(name, one) for name in MODULES)] == []


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_readme_leads_to(page):
    assert f"](docs/{page})" in (ROOT / "README.md").read_text(encoding="utf-8")
