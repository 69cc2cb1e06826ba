"""Cells of text in aligned columns."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """The rows as text, each column as wide as its widest cell; the first `left` columns stand to the left."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    cell = lambda i, text: text.ljust(widths[i]) if i < left else text.rjust(widths[i])  # noqa: E731
    return "\n".join("  ".join(cell(i, text) for i, text in enumerate(row)).rstrip() for row in rows)
