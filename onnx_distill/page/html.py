"""The page, put together: no scripts, nothing loaded from elsewhere; every part has a heading, an anchor and words for its pictures."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
import yaml

from onnx_distill.page import charts, tables
from onnx_distill.page.cards import cards
from onnx_distill.page.facts import Disagreement, Report
from onnx_distill.page.style import STYLE

MOST_CLASSES = 20  # of a confusion that can be read
LONGEST_NAME = 18  # letters of a class beside one
SMALL = 96  # pixels; images below it are shown with their pixels, not blurred


def to_html(report: Report) -> str:
    """One file with everything in it. Raises InputError without matplotlib."""
    made = [(title, part) for title, part in ((title, part(report)) for title, part in PARTS.items()) if part]
    links = "".join(f'<a href="#{_anchor(title)}">{title}</a> ' for title, _ in made)
    body = "\n".join(
        f'<section aria-labelledby="{_anchor(title)}"><h2 id="{_anchor(title)}">{title}</h2>\n{part}</section>'
        for title, part in made
    )
    title, more = escape(report.title), f'<p class="soft">{escape(report.subtitle)}</p>' if report.subtitle else ""
    more += f'<p class="bad"><b>{escape(report.refused)}.</b></p>' if report.refused else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title>\n<style>\n{STYLE}</style></head>\n<body>\n"
        f'<header><h1>{title}</h1>{more}{cards(report.rows)}<nav aria-label="Parts of this page">{links}</nav></header>\n'
        f"<main>\n{body}\n</main>\n</body></html>\n"
    )


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _results(report: Report) -> str:
    if not report.rows:
        return ""
    return tables.results(report.rows, report.measured_on) + (tables.change(report.partings) if report.partings else "")


def _classes(report: Report) -> str:
    """Right answers of each class, beside the confusion of labels and the student's answers."""
    if not report.classes:
        return ""
    listed = tables.classes(report.classes, report)
    if report.label_confusion is None:
        return listed
    figure = _confusion(
        report.label_confusion, report, "label", "each label", "pale: right", "whose answers are wrong most often"
    )
    return f"{listed}{figure}"


def _confusion(counts: np.ndarray, report: Report, side: str, of: str, pale: str, few: str) -> str:
    """A figure of the classes that matter: side, of: what its rows are, in a word and in a sentence."""
    shown = _most_confused(counts)
    only = f", the {len(shown)} classes {few}" if len(counts) > MOST_CLASSES else ""
    names, part = [_short(report.name_of(int(number))) for number in shown], counts[np.ix_(shown, shown)]
    said = f"How many images of {of} got each answer of the student{only}; {pale}"
    chart = charts.confusion(part, names, said, side)
    return f'<figure class="scroll square" tabindex="0">{chart}<figcaption>{escape(said)}.</figcaption></figure>'


def _training(report: Report) -> str:
    steps = len(report.losses) > 1
    shown = []
    if steps:
        first, last = report.losses[0][1], report.losses[-1][1]
        said = f"Training loss, from {first:.4g} to {last:.4g} over {report.losses[-1][0]} steps"
        shown.append(charts.line(report.losses, "loss, running mean", said, logarithmic=True))
    if len(report.scores) > 1:
        best = max(score for _, score in report.scores)
        said = f"Score of the held-out images, from {100 * report.scores[0][1]:.2f} to {100 * best:.2f} % at best"
        points = [(step, 100 * score) for step, score in report.scores]
        level = None if report.teacher_score is None else 100 * report.teacher_score
        said += "" if level is None else f"; the float model has {level:.2f} %"
        shown.append(charts.line(points, f"{report.score_of or 'held-out images right'}, %", said, marker="o", level=level))
    if steps and report.rates:
        said = f"Learning rate, at most {max(rate for _, rate in report.rates):.3g}"
        shown.append(charts.line(report.rates, "learning rate", said))
    return f'<div class="panels">{"".join(f"<div>{one}</div>" for one in shown)}</div>' if shown else ""


def _noise(report: Report) -> str:
    if not report.layers:
        return ""
    about = (
        "Signal to quantization noise of each quantized value, the teacher's beside the student's: 6 dB more is one bit more. "
        "Own: what its quantizer alone makes of the teacher's values, without what gathered before it. "
        f"Clipped: values outside the range; unused: levels that no value takes. Of {len(report.layers)} values, {tables.bits(report.layers)}."
    )
    known = [layer for layer in report.layers if layer.noise_db is not None and np.isfinite(layer.noise_db)]
    drawn = [
        charts.noise(report.layers, kind) for kind in ("weight", "activation") if kind in {layer.kind for layer in known}
    ]
    chart = f'<div class="panels halves">{"".join(f"<div>{one}</div>" for one in drawn)}</div>' if drawn else ""
    return f"<p>{about}</p>{chart}{tables.values(report.layers)}"


def _partings(report: Report) -> str:
    if report.partings is None:
        return ""
    text = tables.partings(report.partings, report)
    if report.confusion is None or not report.partings.differing:
        return text
    of, pale = "each answer of the teacher", "pale: the same answer"
    figure = _confusion(report.confusion, report, "teacher", of, pale, "that part most")
    return f'<div class="beside"><div>{text}</div>{figure}</div>'


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}\N{HORIZONTAL ELLIPSIS}"


def _most_confused(confusion: np.ndarray) -> np.ndarray:
    """The classes, in their order: all, or those that are most often given by one of the two alone."""
    if len(confusion) <= MOST_CLASSES:
        return np.flatnonzero(confusion.sum(axis=0) + confusion.sum(axis=1))
    off = confusion * (1 - np.eye(len(confusion), dtype=confusion.dtype))
    order = np.argsort(-(off.sum(axis=0) + off.sum(axis=1)), kind="stable")
    return np.sort(order[:MOST_CLASSES])


def _images(report: Report) -> str:
    if not report.disagreements:
        return ""
    shown = "".join(_image(one, report) for one in report.disagreements)
    about = f"The {len(report.disagreements)} on which both are surest, each of its own answer."
    return f'<p>{about}</p><div class="images">{shown}</div>'


def _image(one: Disagreement, report: Report) -> str:
    teacher, student = (
        f"{report.name_of(a.number)} ({100 * a.share:.0f}\N{NO-BREAK SPACE}%)" for a in (one.teacher, one.student)
    )
    label = "" if one.label is None else f"<br>label <b>{escape(report.name_of(one.label))}</b>"
    said = escape(f"{one.name}: the teacher says {teacher}, the student {student}")
    caption = f"{escape(one.name)}<br>teacher <b>{escape(teacher)}</b><br>student <b>{escape(student)}</b>{label}"
    return f'<figure><img alt="{said}" src="{one.picture}" class="small"><figcaption>{caption}</figcaption></figure>'


def _runtimes(report: Report) -> str:
    return tables.runtimes(report.verification) if report.verification else ""


def _commands(report: Report) -> str:
    return f"<pre>{escape(chr(10).join(report.commands))}</pre>" if report.commands else ""


def _configuration(report: Report) -> str:
    if not report.config:
        return ""
    whole = f"<details><summary>All {len(report.config)} options</summary>{_yaml(report.config)}</details>"
    return f"{_yaml(report.chosen)}{whole}" if report.chosen else whole


def _yaml(options: dict[str, Any]) -> str:
    return f"<pre>{escape(yaml.safe_dump(options, sort_keys=False, allow_unicode=True))}</pre>"


def _origin(report: Report) -> str:
    found = {**report.provenance, **report.versions}
    pairs = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in found.items())
    return f'<dl class="pairs">{pairs}</dl>' if pairs else ""


PARTS = {  # heading: what makes its part, '' where there is nothing to show
    "Results": _results,
    "Classes": _classes,
    "Training": _training,
    "Where they part": _partings,
    "Images on which they part": _images,
    "Noise and bits": _noise,
    "Runtimes": _runtimes,
    "Commands": _commands,
    "Configuration": _configuration,
    "Origin and versions": _origin,
}
