"""The report of a run as one HTML file that opens offline, and the same facts as JSON."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnx_distill import charts
from onnx_distill.compare import Layer
from onnx_distill.pipeline import Row
from onnx_distill.report import table_cells

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881 }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid var(--line) }
table { border-collapse: collapse } td, th { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid var(--line) }
td:first-child, th:first-child { text-align: left } tr:last-child td { font-weight: 600 }
pre { background: var(--soft); padding: .8rem; overflow-x: auto } svg { max-width: 100%; height: auto }
.images { display: flex; flex-wrap: wrap; gap: 1rem } figure { margin: 0; width: 8rem; font-size: .8rem }
figure img { width: 8rem; image-rendering: pixelated; background: var(--soft) }
"""


@dataclass(frozen=True)
class Disagreement:
    """A test image on which teacher and student differ. pixels: float [c, h, w], preprocessed."""

    pixels: np.ndarray
    teacher: int
    student: int
    label: int | None


@dataclass(frozen=True)
class Report:
    """What a report shows; a part that is empty is left out."""

    title: str
    rows: list[Row]
    losses: list[tuple[int, float]] = field(default_factory=list)  # (step, loss)
    scores: list[tuple[int, float]] = field(default_factory=list)  # (step, share of held-out images right)
    layers: list[Layer] = field(default_factory=list)
    confusion: np.ndarray | None = None  # counts [classes, classes], teacher by student
    class_names: list[str] = field(default_factory=list)
    disagreements: list[Disagreement] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)


def to_json(report: Report) -> str:
    """Everything but the pictures."""
    facts = {f.name: getattr(report, f.name) for f in dataclasses.fields(report) if f.name != "disagreements"}
    return json.dumps(facts, indent=1, default=_plain, allow_nan=False)


def _plain(value):
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {key: _finite(part) for key, part in dataclasses.asdict(value).items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no place in a report")


def _finite(value):
    """JSON knows no infinity; a layer without noise has none to report."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


def to_html(report: Report) -> str:
    """One file with everything in it: no scripts, nothing loaded from elsewhere. Raises InputError without matplotlib."""
    parts = [f"<h1>{html.escape(report.title)}</h1>", _table(report.rows)]
    if report.losses and report.scores:
        parts += ["<h2>Training</h2>", charts.training(report.losses, report.scores)]
    if report.layers:
        parts += ["<h2>Noise and bits of each quantized value</h2>", charts.noise(report.layers)]
    if report.confusion is not None:
        parts += ["<h2>Where teacher and student part</h2>", charts.confusion(report.confusion, _names(report))]
    if report.disagreements:
        parts += ["<h2>Images on which they part</h2>", f'<div class="images">{_images(report)}</div>']
    parts += _texts(report)
    body = "\n".join(parts)
    title = html.escape(report.title)
    return f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'


def _table(rows: list[Row]) -> str:
    heads, *lines = table_cells(rows)
    cells = lambda line, tag: "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line)  # noqa: E731
    return f"<table><tr>{cells(heads, 'th')}</tr>" + "".join(f"<tr>{cells(line, 'td')}</tr>" for line in lines) + "</table>"


def _names(report: Report) -> list[str]:
    count = len(report.confusion) if report.confusion is not None else 0
    return report.class_names if len(report.class_names) == count else [str(number) for number in range(count)]


def _images(report: Report) -> str:
    names = dict(enumerate(_names(report)))
    name = lambda number: html.escape(names.get(number, str(number)))  # noqa: E731
    shown = []
    for one in report.disagreements:
        label = "" if one.label is None else f"<br>label {name(one.label)}"
        caption = f"teacher {name(one.teacher)}<br>student {name(one.student)}{label}"
        shown.append(f'<figure><img alt="" src="{_png(one.pixels)}"><figcaption>{caption}</figcaption></figure>')
    return "".join(shown)


def _png(pixels: np.ndarray) -> str:
    """A data: address of the image, its values stretched to black and white."""
    from PIL import Image

    low, high = float(pixels.min()), float(pixels.max())
    grey = np.rint((pixels - low) * (255 / max(high - low, 1e-9))).astype(np.uint8)
    shown = grey[0] if len(grey) != 3 else grey.transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(shown)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _texts(report: Report) -> list[str]:
    shown = [
        ("Commands", "\n".join(report.commands)),
        ("Configuration", json.dumps(report.config, indent=1) if report.config else ""),
        ("Versions", "\n".join(f"{name} {version}" for name, version in report.versions.items())),
    ]
    return [f"<h2>{head}</h2><pre>{html.escape(text)}</pre>" for head, text in shown if text]
