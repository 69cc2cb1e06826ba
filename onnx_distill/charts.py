"""Charts as SVG text for a page: drawn by matplotlib, in the page's own text colour, so that they read in light and dark."""

from __future__ import annotations

import io
import re
from types import ModuleType

import numpy as np

from onnx_distill.compare import Layer
from onnx_distill.errors import InputError

INK = "#010203"  # stands for the page's text colour while matplotlib draws; no chart uses it otherwise
ACCENT, SECOND = "#e07b39", "#3b8ea5"  # readable on white and on black
WIDTH = 8.5  # inches; the page scales it


def pyplot() -> ModuleType:
    """matplotlib without a screen. Raises InputError where it is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise InputError("the report's charts need matplotlib; run: pip install 'onnx-distill[report]'") from None
    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    return plt


def training(losses: list[tuple[int, float]], scores: list[tuple[int, float]]) -> str:
    """Loss by step, and the score of each evaluation (0..1) on an axis of its own."""
    figure, axes = _figure(3.2)
    axes.plot(*zip(*losses), color=ACCENT, linewidth=1.5)
    axes.set(xlabel="step", ylabel="loss")
    axes.set_yscale("log" if min(loss for _, loss in losses) > 0 else "linear")
    right = axes.twinx()
    steps, values = zip(*scores)
    right.plot(steps, [100 * value for value in values], color=SECOND, marker="o", linewidth=1.5)
    right.set_ylabel("held-out images right, %")
    axes.yaxis.label.set_color(ACCENT)
    right.yaxis.label.set_color(SECOND)
    return _svg(figure)


def noise(layers: list[Layer]) -> str:
    """A bar for each quantized value: signal to quantization noise in dB, weights and activations apart, bits written at its foot."""
    shown = [layer for layer in layers if layer.noise_db is not None and np.isfinite(layer.noise_db)]
    figure, axes = _figure(max(2.0, 0.19 * len(shown) + 0.8))
    colours = [ACCENT if layer.kind == "weight" else SECOND for layer in shown]
    axes.barh(range(len(shown)), [layer.noise_db for layer in shown], color=colours)
    for place, layer in enumerate(shown):
        axes.annotate(f"{layer.bits} bits", (0, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_yticks(range(len(shown)), [_short(layer.value) for layer in shown], fontsize=7)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set(xlabel="signal to quantization noise, dB (weights orange, activations blue); 6 dB are one bit")
    return _svg(figure)


def confusion(counts: np.ndarray, names: list[str]) -> str:
    """Teacher's class by row, student's by column; what lies on the diagonal, where they agree, is left out of the colours."""
    off = np.where(np.eye(len(counts), dtype=bool), np.nan, counts)
    figure, axes = _figure(5.5)
    picture = axes.imshow(off, cmap="viridis", aspect="equal")
    if len(counts) <= 20:
        for row, column in zip(*np.nonzero(counts)):
            axes.annotate(
                str(counts[row, column]), (column, row), ha="center", va="center", fontsize=7, color=_over(off, row, column)
            )
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set(xlabel="student", ylabel="teacher")
    figure.colorbar(picture, ax=axes, shrink=0.8)
    return _svg(figure)


def _over(off: np.ndarray, row: int, column: int) -> str:
    """The colour of a number in a cell: the page's on the bare diagonal, else what stands out."""
    if row == column:
        return INK
    return "black" if off[row, column] > 0.6 * np.nanmax(off) else "white"


def _short(name: str, most: int = 48) -> str:
    return name if len(name) <= most else f"...{name[-most + 3 :]}"


def _figure(height: float):
    plt = pyplot()
    colours = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)
    with plt.rc_context({**colours, "svg.fonttype": "none", "svg.hashsalt": "onnx-distill", "font.family": "sans-serif"}):
        figure, axes = plt.subplots(figsize=(WIDTH, height), layout="constrained")
    axes.set_facecolor("none")
    axes.spines[["top"]].set_visible(False)
    return figure, axes


def _svg(figure) -> str:
    """The figure as an <svg> element, without dates or a fixed size; the same figure is the same text."""
    buffer, plt = io.StringIO(), pyplot()
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "onnx-distill"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    return re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1), count=1
    )
