"""The few numbers that a reader wants first: accuracy, agreement, size, speed, each beside what it is measured by."""

from __future__ import annotations

from html import escape
from typing import Optional

from onnx_distill.run.result import Row


def cards(rows: list[Row]) -> str:
    """Of the last row, beside the first one (the float model) and the one between (PTQ); '' where there is nothing to compare."""
    if len(rows) < 2:
        return ""
    found = [_accuracy(rows), _agreement(rows), _size(rows), *_speed(rows)]
    shown = "".join(
        f"<div><dt>{escape(name)}</dt><dd><b>{escape(value)}</b><small>{escape(beside)}</small></dd></div>"
        for name, value, beside in (card for card in found if card is not None)
    )
    return f'<dl class="cards">{shown}</dl>'


Card = Optional[tuple[str, str, str]]


def _accuracy(rows: list[Row]) -> Card:
    shares = [row.measured.top1 for row in rows]
    if shares[0] is None or shares[-1] is None:
        return None
    others = ", ".join(f"{row.name} {100 * share:.2f}" for row, share in zip(rows[:-1], shares) if share is not None)
    return "top-1", f"{100 * shares[-1]:.2f} %", others


def _agreement(rows: list[Row]) -> Card:
    first, last = rows[-2].measured.agreement, rows[-1].measured.agreement
    if last is None:
        return None
    before = (
        f"{rows[-2].name} {100 * first:.2f}"
        if len(rows) > 2 and first is not None
        else f"on {rows[-1].measured.count:,} images"
    )
    return f"same answer as {rows[0].name}", f"{100 * last:.2f} %", before


def _size(rows: list[Row]) -> Card:
    first, last = rows[0].measured.size_bytes, rows[-1].measured.size_bytes
    if not first or not last:
        return None
    return "times smaller", f"{first / last:.2f}x", f"{last / 1000:,.0f} kB, {rows[0].name} {first / 1000:,.0f} kB"


def _speed(rows: list[Row]) -> list[Card]:
    first, last = rows[0].measured.latency_seconds or {}, rows[-1].measured.latency_seconds or {}
    return [
        (
            f"times as fast, batch {size}",
            f"{first[size] / last[size]:.2f}x",
            f"{_milliseconds(last[size])}, {rows[0].name} {_milliseconds(first[size])}",
        )
        for size in sorted(first)
        if size in last
    ]


def _milliseconds(seconds: float) -> str:
    """Three digits, or all of them from a thousand on."""
    ms = 1000 * seconds
    return f"{ms:,.0f} ms" if ms >= 1000 else f"{ms:.3g} ms"
