"""Configurations made by the names that the command line has, too; a name that there is not is answered with what may be meant.

And their short form: what is not at its default, so that a notebook shows what was chosen.
"""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import Any, Callable, TypeVar

from onnx_distill.closest import closest
from onnx_distill.errors import InputError

Kind = TypeVar("Kind")
# Option -> the field that it sets, and what is made of its value: the other side of a flag is its opposite.
ALIASES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "lr": ("learning_rate", lambda rate: rate),
    "per_tensor": ("per_channel", lambda yes: not yes),
    "asymmetric": ("symmetric", lambda yes: not yes),
    "no_preflight": ("preflight", lambda yes: not yes),
}


def by_option_names(kind: type[Kind]) -> type[Kind]:
    """The dataclass itself: keywords may be options, such as lr or **{"weight-bits": 4}. Raises InputError for one that is no field."""
    made: Callable[..., None] = kind.__init__

    @functools.wraps(made)
    def by_names(self, *args, **given):
        made(self, *args, **_as_fields(kind, given))

    setattr(kind, "__init__", by_names)  # noqa: B010  (mypy does not let it be assigned)
    setattr(kind, "__repr__", _short)  # noqa: B010
    return kind


def _as_fields(kind: type, given: dict[str, Any]) -> dict[str, Any]:
    names: list[str] = [field.name for field in fields(kind)]
    found: dict[str, Any] = {}
    for option, value in given.items():
        name = option.lstrip("-").replace("-", "_")
        field, read = ALIASES.get(name, (name, None))
        if field not in names:
            known = [*names, *(alias for alias, (field, _) in ALIASES.items() if field in names)]
            raise InputError(f"{kind.__name__} has no {option!r}{closest(name, known)}; wanted one of {', '.join(names)}.")
        if field in found:
            raise InputError(f"{kind.__name__}: {option!r} and {field!r} are both given; wanted one of them.")
        found[field] = value if read is None else read(value)
    return found


def _short(config: Any) -> str:
    """TrainConfig(epochs=8): what one would type to make it again."""
    usual = type(config)()
    return _shown(
        config, [field.name for field in fields(config) if getattr(config, field.name) != getattr(usual, field.name)]
    )


def spelled_out(config: Any) -> str:
    """Every field, as a dataclass usually shows itself; a run is known again by it (training/record.py)."""
    return _shown(config, [field.name for field in fields(config)])


def _shown(config: Any, names: list[str]) -> str:
    return f"{type(config).__name__}({', '.join(f'{name}={getattr(config, name)!r}' for name in names)})"
