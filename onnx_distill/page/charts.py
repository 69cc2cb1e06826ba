"""Charts as SVG text for a page: drawn by matplotlib, coloured by the page's style sheet, so that they read in light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from types import ModuleType

import numpy as np

from onnx_distill.compare import Layer
from onnx_distill.errors import InputError

# What stands for a colour while matplotlib draws, and becomes the page's own; no chart uses these otherwise.
INK, FIRST, SECOND, LINE = "#010203", "#040506", "#070809", "#0a0b0c"
PAGE = {INK: "currentColor", FIRST: "var(--first)", SECOND: "var(--second)", LINE: "var(--line)"}
HALF, FULL = 4.0, 9.0  # inches; the page scales them to a third of its width, and to all of it


def pyplot() -> ModuleType:
    """matplotlib without a screen. Raises InputError where it is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise InputError("the report's charts need matplotlib; run: pip install 'onnx-distill[report]'") from None
    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    return plt


def line(points: Sequence[tuple[float, float]], name: str, said: str, logarithmic: bool = False, marker: str = "") -> str:
    """One value by step. said: what the chart shows, for those who cannot see it."""
    figure, axes = _figure(HALF, 2.4)
    axes.plot(*zip(*points), color=FIRST, linewidth=1.6, marker=marker, markersize=4)
    axes.set_xlabel("step")
    axes.set_title(name, loc="left", fontsize=11)
    axes.margins(x=0.02)
    _scale(axes, [value for _, value in points], logarithmic)
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


def noise(layers: list[Layer], said: str) -> str:
    """Signal to quantization noise and bits of each quantized value, in the order of the graph, numbered as in the table."""
    figure, (above, below) = _figure(FULL, 4.2, rows=2, heights=(3, 1))
    for kind, colour, marker in (("weight", FIRST, "s"), ("activation", SECOND, "o")):
        shown = [(number, layer) for number, layer in enumerate(layers, start=1) if layer.kind == kind]
        known = [
            (number, layer.noise_db) for number, layer in shown if layer.noise_db is not None and np.isfinite(layer.noise_db)
        ]
        style = dict(color=colour, marker=marker, markersize=4.5, linewidth=0, label=f"{kind}s")
        if known:
            above.plot(*zip(*known), **style)
        if shown:
            below.plot(*zip(*((number, layer.bits) for number, layer in shown)), **style)
    above.set_ylabel("signal to noise, dB")
    above.legend(
        frameon=False, labelcolor=INK, loc="upper right", ncols=2, bbox_to_anchor=(1.0, 1.13), borderpad=0, fontsize=10
    )
    below.set_ylabel("bits")
    below.set_ylim(0, 8.8)
    below.set_yticks((0, 2, 4, 6, 8))
    below.set_xlabel("number of the value in the table below, in the order of the graph")
    return _svg(figure, said)


def confusion(counts: np.ndarray, names: list[str], said: str) -> str:
    """Teacher's class by row, student's by column: how many images, the more the darker, where the two part."""
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
    axes.set(
        xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), xlabel="student", ylabel="teacher", aspect="equal"
    )
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
