"""Names that a user may have meant."""

from __future__ import annotations

import difflib


def closest(name: str, names: list[str]) -> str:
    """'; closest: a, b' for the names most like `name`, or ''."""
    matches = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    return f"; closest: {', '.join(repr(m) for m in matches)}" if matches else ""
