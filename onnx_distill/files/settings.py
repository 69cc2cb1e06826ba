"""A command's options in a file: YAML, TOML or JSON read, YAML written, each option under its name on the command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import yaml

from onnx_distill.closest import closest
from onnx_distill.errors import InputError, first_line
from onnx_distill.files.replacing import replacing

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_settings(path: str | os.PathLike, known: list[str] | None = None) -> dict[str, Any]:
    """Option name (with underscores, without dashes) -> value. `known`: the names that the command has; None: any will do.

    Names may be written with dashes. Raises InputError for a file that cannot be read, is no mapping, or has unknown names.
    """
    found = _parsed(Path(path))
    if not isinstance(found, dict):
        raise InputError(f"{path} holds {type(found).__name__}; wanted `option: value` lines.")
    settings = {str(name).replace("-", "_"): value for name, value in found.items()}
    for name in settings:
        if known is not None and name not in known:
            raise InputError(f"{path} has {name!r}, no option of this command{closest(name, known)}")
    return {name: value for name, value in settings.items() if value is not None}


def write_settings(path: str | os.PathLike, settings: dict[str, Any], comment: str = "") -> None:
    """Write YAML that read_settings reads back; whole or not at all. comment: its first line."""
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    with replacing(path) as temporary:
        temporary.write_text(f"# {comment}\n{text}" if comment else text, encoding="utf-8")


def _parsed(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(f"no file {path}{closest(path.name, beside)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {first_line(error)}") from None
    try:
        return tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)  # JSON is YAML
    except (tomllib.TOMLDecodeError, yaml.YAMLError, RecursionError) as error:
        place = getattr(error, "problem_mark", None)
        where = f" line {place.line + 1}" if place else ""
        raise InputError(
            f"{path}{where} is not {'TOML' if path.suffix == '.toml' else 'YAML'}: {first_line(error)}"
        ) from None
