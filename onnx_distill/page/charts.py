"""Charts as SVG text for a page: drawn by matplotlib, coloured by the page's style sheet, so that they read in light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from types import ModuleType
from typing import Optional

import numpy as np

from onnx_distill.compare import Layer
from onnx_distill.errors import InputError

# What stands for a colour while matplotlib draws, and becomes the page's own; no chart uses these otherwise.
INK, FIRST, SECOND, LINE = "#010203", "#040506", "#070809", "#0a0b0c"
PAGE = {INK: "currentColor", FIRST: "var(--first)", SECOND: "var(--second)", LINE: "var(--line)"}
HALF, WIDE = 4.0, 5.0  # inches; the page scales them to a third of its width, and to half of it
NAMED, MOST_TICKS = 5, 8  # of the noisiest values; numbers below a chart
STEPS = [factor * 10**power for power in range(7) for factor in (1, 2, 5)]


def pyplot() -> ModuleType:
    """matplotlib without a screen. Raises InputError where it is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise InputError("the report's charts need matplotlib; run: pip install 'onnx-distill[report]'") from None
    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    return plt


def line(
    points: Sequence[tuple[float, float]],
    name: str,
    said: str,
    logarithmic: bool = False,
    marker: str = "",
    level: Optional[float] = None,
) -> str:
    """One value by step. said: what the chart shows, for those who cannot see it. level: the float model's value, a line across."""
    figure, axes = _figure(HALF, 2.4)
    axes.plot(*zip(*points), color=FIRST, linewidth=1.6, marker=marker, markersize=4, label="student")
    if level is not None:
        axes.axhline(level, color=SECOND, linewidth=1.6, linestyle="--", label="float")
        axes.legend(frameon=False, labelcolor=INK, fontsize=9, loc="best")
    axes.set_xlabel("step")
    axes.set_title(name, loc="left", fontsize=11)
    axes.margins(x=0.02)
    _scale(axes, [value for _, value in points] + ([] if level is None else [level]), logarithmic)
    return _svg(figure, said)


def _scale(axes, values: list[float], logarithmic: bool) -> None:
    """Logarithmic where that shows more: over a factor of five; its ticks as plain numbers."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    low, high = min(values), max(values)
    if logarithmic and low > 0 and high > 5 * low:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    elif high == low:
        axes.set_ylim(low - (abs(low) / 10 or 1), high + (abs(high) / 10 or 1))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def noise(layers: list[Layer], kind: str) -> str:
    """Signal to quantization noise and bits of each weight, or activation, in the order of the graph, numbered as in the table; the
    noisiest are named."""
    shown = [(number, layer) for number, layer in enumerate(layers, start=1) if layer.kind == kind]
    known = [(n, layer) for n, layer in shown if layer.noise_db is not None and np.isfinite(layer.noise_db)]
    said = f"Signal to noise and bits of {len(shown)} {kind}s; the table below says the same in numbers"
    figure, (above, below) = _figure(WIDE, 3.4, rows=2, heights=(3, 1))
    style = dict(
        color=FIRST if kind == "weight" else SECOND, marker="s" if kind == "weight" else "o", markersize=4, linewidth=0
    )
    if known:
        above.plot([n for n, _ in known], [layer.noise_db for _, layer in known], **style)
        _name_noisiest(above, known)
    below.plot([n for n, _ in shown], [layer.bits for _, layer in shown], **style)
    above.set_title(f"{kind}s: signal to noise, dB", loc="left", fontsize=11)
    below.set_ylabel("bits")
    below.set_ylim(0, 8.8)
    below.set_yticks((0, 4, 8))
    below.set_xlabel("no. in the table, in the order of the graph")
    _ticks(below, shown[0][0], shown[-1][0])
    return _svg(figure, said)


def _name_noisiest(axes, known: list[tuple[int, Layer]]) -> None:
    """The number of each of the NAMED noisiest below its mark, but for those too near to one that has its number already."""
    apart: float = (known[-1][0] - known[0][0]) / MOST_TICKS
    named: list[int] = []
    for number, layer in sorted(known, key=lambda pair: pair[1].noise_db or 0.0)[:NAMED]:
        if all(abs(number - other) > apart for other in named):
            named.append(number)
            place = dict(textcoords="offset points", xytext=(0, -13), ha="center", fontsize=9, color=INK)
            axes.annotate(str(number), (number, layer.noise_db), **place)
    axes.margins(y=0.25)


def _ticks(axes, first: int, last: int) -> None:
    """Whole numbers that begin and end with values that there are."""
    step = next(step for step in STEPS if (last - first) / step <= MOST_TICKS)
    inner = [number for number in range(step, last, step) if first + step / 2 < number < last - step / 2]
    axes.set_xticks([first, *inner, last] if last > first else [first])


def confusion(counts: np.ndarray, names: list[str], said: str, side: str = "teacher") -> str:
    """The class of `side` (teacher, label) by row, the student's by column: how many images, the more the darker, where the two part."""
    size = max(3.4, 0.36 * len(counts) + 1.6)
    figure, axes = _figure(size, size)
    most = max(1, int((counts * (1 - np.eye(len(counts), dtype=int))).max()))
    for row, column in zip(*np.nonzero(counts)):
        count = int(counts[row, column])
        if row != column:
            axes.add_patch(_cell(column, row, 0.15 + 0.45 * count / most))
        weight = {"alpha": 0.55} if row == column else {"fontweight": "bold"}
        axes.annotate(str(count), (column, row), ha="center", va="center", fontsize=8, color=INK, **weight)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), xlabel="student", ylabel=side, aspect="equal")
    axes.grid(False)
    return _svg(figure, said)


def _cell(column: int, row: int, alpha: float):
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=FIRST, alpha=alpha, linewidth=0)


def _figure(width: float, height: float, rows: int = 1, heights: Sequence[float] = (1,)):
    plt = pyplot()
    inks = dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor", "xtick.color", "ytick.color"), INK
    )
    lines = {
        "grid.color": LINE,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with plt.rc_context({**inks, **lines, **TEXT}):
        figure, axes = plt.subplots(
            rows, figsize=(width, height), layout="constrained", sharex=True, gridspec_kw={"height_ratios": heights}
        )
    for one in np.atleast_1d(axes):
        one.set_facecolor("none")
        one.set_axisbelow(True)
    return figure, axes


TEXT = {"svg.fonttype": "none", "svg.hashsalt": "onnx-distill", "font.family": "sans-serif", "font.size": 10}


def _svg(figure, said: str) -> str:
    """The figure as an <svg> element, without dates or a fixed size; the same figure is the same text."""
    buffer, plt = io.StringIO(), pyplot()
    with plt.rc_context(TEXT):
        figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Type": None, "Format": None}
        )
    plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for drawn, shown in PAGE.items():
        text = text.replace(drawn, shown)
    head, _, rest = text.partition(">")
    head = re.sub(r' (width|height|version|xmlns:xlink)="[^"]*"', "", head)
    unique = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{_prefix(said)}", rest)
    return f'{head} role="img" aria-label="{escape(said)}">{unique}'.replace("xlink:href", "href")


def _prefix(said: str) -> str:
    """Of the ids in a chart, which have to differ from those of the other charts of a page."""
    return re.sub(r"\W", "", said)[:24] + "-"
