"""The tables of a page: results, quantized values, partings, runtimes."""

from __future__ import annotations

import math
from html import escape
from typing import Any, Sequence

from onnx_distill.compare import Layer
from onnx_distill.page.classes import ClassResult, change_interval, share_interval
from onnx_distill.page.facts import Partings, Report
from onnx_distill.report import table_cells
from onnx_distill.run.result import Row

NOISIEST = 10  # values, or classes, that stand above the whole table
MOST_CLASSES = 20  # of a table that is not folded
FEW, MANY = 4, 6  # columns that a phone, and half a screen, have room for
FULL_BAR = 50.0  # dB; what 8 bits give on values that fill their range


def table(heads: Sequence[str], lines: Sequence[Sequence[str]], caption: str = "", marked: int = -1, left: int = 1) -> str:
    """An HTML table of cells that are HTML already; the first cell of a line is its head. left: columns of text.

    One of more than FEW columns has lines that stack below each other where the page is too small for it, each cell beside its head.
    """
    sides = [' class="left"' if column < left else "" for column in range(len(heads))]
    head = "".join(f'<th scope="col"{side}>{cell}</th>' for cell, side in zip(heads, sides))
    body = "".join(
        f"<tr{_mark(number == marked)}>"
        + "".join(
            f'<th scope="row">{cell}</th>' if column == 0 else f'<td{sides[column]} data-head="{heads[column]}">{cell}</td>'
            for column, cell in enumerate(line)
        )
        + "</tr>\n"
        for number, line in enumerate(lines)
    )
    said = escape(caption or "table")
    above = (
        f'<p class="soft">{said}</p>' if caption else ""
    )  # no <caption>: it would be as wide as the table, not as the page
    return (
        f'{above}<div class="scroll" tabindex="0" role="region" aria-label="{said}">'
        f'<table aria-label="{said}"{_stacks(heads)}><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'
    )


def _stacks(heads: Sequence[str]) -> str:
    kinds = "stacks" if len(heads) > MANY else "stacks few" if len(heads) > FEW else ""
    return f' class="{kinds}"' if kinds else ""


def _mark(yes: bool) -> str:
    return ' class="mark"' if yes else ""


def results(rows: list[Row], measured_on: str) -> str:
    """Float, PTQ and, where training helped, distilled: what `onnx-distill run` prints at its end."""
    heads, *lines = table_cells(rows)
    heads[0] = "model"
    shown = [[escape(cell) for cell in line] for line in lines]
    if any(row.measured.top1 is not None for row in rows):
        heads.insert(2, "95 % interval")
        for line, row in zip(shown, rows):
            line[1:2] = [line[1].partition(" ±")[0], _interval(row.measured.top1, row.measured.count)]
    said = "; ratios in brackets are to the first line" if any("batch" in head for head in heads) else ""
    sizes = "; sizes are of the files" if any(row.measured.size_bytes for row in rows) else ""
    return table([escape(head) for head in heads], shown, f"{measured_on}{said}{sizes}", marked=len(rows) - 1)


def _interval(share: float | None, count: int) -> str:
    if share is None or not count:
        return "-"
    low, high = share_interval(round(share * count), count)
    return f"{100 * low:.2f} to {100 * high:.2f}"


def classes(found: Sequence[ClassResult], report: Report) -> str:
    """Accuracy class by class: all of a few; of many those that lost the most, and the rest folded."""
    heads = ["class", "images", "float right %", "student right %", "change", "student, 95 % interval"]
    lines = {one: _class(one, report) for one in found}
    if len(found) <= MOST_CLASSES:
        return table(heads, list(lines.values()), "Right answers of each class, in the order of the classes")
    worst = sorted(found, key=lambda one: (one.student_right - one.teacher_right) / one.images)[:NOISIEST]
    first = table(heads, [lines[one] for one in worst], f"The {NOISIEST} classes that lost the most")
    whole = table(heads, list(lines.values()), "In the order of the classes")
    return f"{first}<details><summary>All {len(found)} classes</summary>{whole}</details>"


def _class(one: ClassResult, report: Report) -> list[str]:
    theirs, ours = (100 * right / one.images for right in (one.teacher_right, one.student_right))
    change = f"{ours - theirs:+.2f}" if one.teacher_right != one.student_right else "0.00"
    interval = _interval(one.student_right / one.images, one.images)
    return [escape(report.name_of(one.number)), f"{one.images:,}", f"{theirs:.2f}", f"{ours:.2f}", change, interval]


def change(p: Partings) -> str:
    """A sentence on what quantization does to top-1, with how sure that is; '' without labels."""
    if p.teacher_right is None or p.student_right is None or not p.images:
        return ""
    low, high = change_interval(p.teacher_right, p.student_right, p.images)
    points = 100 * (p.student_right - p.teacher_right) / p.images
    sure = "which may be chance" if low <= 0 <= high else "which is more than chance"
    return (
        f"<p>The student's top-1 is {points:+.2f} points from the float model's on the same images, {sure}: "
        f"95 % interval {100 * low:+.2f} to {100 * high:+.2f}.</p>"
    )


def values(layers: list[Layer]) -> str:
    """Each quantized value in the order of the graph, below the noisiest of them."""
    numbered = list(enumerate(layers, start=1))
    heads = ["layer", "no.", "what", "bits", "signal to noise, dB", "own, dB", "clipped %", "unused %"]
    whole = table(heads, [_value(*pair) for pair in numbered], "All values, in the order of the graph")
    if len(layers) <= 2 * NOISIEST:
        return whole
    noisy = sorted((pair for pair in numbered if pair[1].noise_db is not None), key=lambda pair: pair[1].noise_db or 0.0)
    first = table(heads, [_value(*pair) for pair in noisy[:NOISIEST]], f"The {NOISIEST} noisiest")
    return f"{first}<details><summary>All {len(layers)} values</summary>{whole}</details>"


def _value(number: int, layer: Layer) -> list[str]:
    clipped, unused = f"{100 * layer.clipped:.2f}", f"{100 * layer.unused:.1f}"
    named, own = escape(layer.layer or layer.value), _decibel(layer.own_db)
    return [named, str(number), layer.kind, str(layer.bits), _noise(layer), own, clipped, unused]


def _decibel(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if math.isfinite(value) else "exact" if value > 0 else "lost"


def _noise(layer: Layer) -> str:
    if layer.noise_db is None or not math.isfinite(layer.noise_db):
        return _decibel(layer.noise_db)
    width = min(max(layer.noise_db / FULL_BAR, 0.0), 1.0)
    return f'{_decibel(layer.noise_db)}<span class="bar {layer.kind}" aria-hidden="true"><i style="width:{100 * width:.0f}%"></i></span>'


def bits(layers: list[Layer]) -> str:
    """How many weights and activations have how many bits."""
    parts = []
    for kind in ("weight", "activation"):
        found = [layer.bits for layer in layers if layer.kind == kind]
        counts = ", ".join(f"{found.count(size)} at {size} bits" for size in sorted(set(found)))
        parts += [f"{kind}s: {counts}"] if found else []
    return "; ".join(parts)


def partings(p: Partings, report: Report) -> str:
    """How often they part, who is right there, and which answers are exchanged."""
    text = f"They differ on {p.differing:,} of {p.images:,} images ({100 * p.differing / max(p.images, 1):.2f} %)"
    if p.differing and p.teacher_right is not None and p.student_right is not None:
        neither = p.differing - p.teacher_right - p.student_right
        text += f": on {p.teacher_right:,} the teacher is right, on {p.student_right:,} the student, on {neither:,} neither"
    lines = [[escape(report.name_of(a)), escape(report.name_of(b)), f"{count:,}"] for a, b, count in p.pairs]
    often = table(["teacher says", "student says", "images"], lines, "The most frequent partings", left=2) if lines else ""
    return f"<p>{text}.</p>{often}"


def runtimes(found: dict[str, Any]) -> str:
    """The answers of the exported file under each runtime, as `onnx-distill verify` found them."""
    share = lambda value: "-" if value is None else f"{100 * value:.2f}"  # noqa: E731
    first = found["runners"][0]["name"] if found["runners"] else ""
    beside = {pair["second"]: pair for pair in found["pairs"] if pair["first"] == first}
    lines = []
    for runner in found["runners"]:
        pair = beside.get(runner["name"])
        told = (
            [share(pair["agreement"]), f"{pair['differing_images']:,}", f"{pair['largest_steps']:.1f}"]
            if pair
            else ["-"] * 3
        )
        heavy = "-" if runner["float_nodes"] is None else str(runner["float_nodes"])
        lines.append([escape(runner["name"]), escape(runner["version"]), share(runner["top1"]), *told, heavy])
    least = min((pair["agreement"] for pair in found["pairs"]), default=1.0)
    verdict = '<b class="good">as wanted</b>' if found["passed"] else '<b class="bad">too low</b>'
    heads = ["", "version", "top-1 %", f"same as {escape(first)} %", "differ", "largest, steps", "float nodes"]
    said = f"Least agreement of any two on {found['images']:,} images: {share(least)} %; wanted {100 * found['bound']:g} %: {verdict}."
    return f"<p>{said}</p>" + table(
        heads, lines, "The exported file under each runtime; a step is one of the last quantizer", left=2
    )
