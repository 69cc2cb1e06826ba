"""The report of one run, gathered from its folder, its models' answers and its images."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnxruntime
from PIL import Image

from onnx_distill import __version__
from onnx_distill.compare import Layer, compare
from onnx_distill.data import Images, batches
from onnx_distill.errors import InputError, first_line
from onnx_distill.facts.provenance import provenance
from onnx_distill.files.replacing import replacing
from onnx_distill.model import load
from onnx_distill.numerics import log_softmax
from onnx_distill.page import Answer, Disagreement, Partings, Report, to_html, to_json
from onnx_distill.page.classes import by_class
from onnx_distill.page.stored import as_stored
from onnx_distill.ready.adopt import adopt
from onnx_distill.ready.calibrated import ready
from onnx_distill.ready.deployable import deployable, logits_model
from onnx_distill.ready.measure import rows_of, scores_of
from onnx_distill.run.folder import TRAINED, read_log
from onnx_distill.run.log_table import AFTER
from onnx_distill.run.refused import exported_in
from onnx_distill.run.result import Row

COMPARED, BATCH = 256, 32  # images that noise is measured on: sums over all their activations hardly move after that
SHOWN, PAIRS = 12, 10  # images on which teacher and student part; exchanges of answers
MOST_CLASSES = 200  # of a confusion that a file should hold
PAGE, VERIFIED = "report.html", "verify.json"


@dataclass(frozen=True)
class Measured:
    """Rows of the result, the logits behind each (by its name; the teacher first, the student last), on which images."""

    rows: list[Row]
    scores: dict[str, np.ndarray]
    images: Images
    said: str  # which images they are


def measured(
    folder: Path,
    teacher: onnx.ModelProto,
    qdq: onnx.ModelProto | None,
    images: Images,
    said: str,
    storage: str,
    threads: int = 0,
    batch_sizes: tuple[int, ...] = (1, 64),
) -> Measured:
    """Teacher, the QDQ student that training began with (None: not known) and the exported one of a run folder, side by side."""
    trained, exported = load(folder / TRAINED), load(exported_in(folder, storage))
    models = {"float": teacher, "distilled" if _is_trained(provenance(exported)) else "PTQ": exported}
    if qdq is not None and "distilled" in models:
        began = deployable(adopt(qdq, logits_model(qdq, teacher)), teacher, None, storage)
        models = {"float": teacher, "PTQ": began, "distilled": exported}
    scores = scores_of(models, images, threads, trained.graph.output[0].name)
    return Measured(rows_of(models, scores, images, threads, batch_sizes), scores, images, said)


def report_of(
    folder: Path,
    teacher: onnx.ModelProto,
    found: Measured,
    config: dict[str, Any],
    commands: list[str],
    storage: str = "int8",
    threads: int = 0,
    chosen: Mapping[str, Any] = MappingProxyType({}),
) -> Report:
    """What a run found. config: its options, by their names on the command line; chosen: those not at their defaults; commands: that
    it can be repeated by."""
    trained, exported = load(folder / TRAINED), exported_in(folder, storage)
    theirs, *_, ours = found.scores.values()
    steps, scores = _curves(read_log(folder))
    origin, classes = provenance(load(exported)), theirs.shape[1]
    teacher_says, student_says, labels = theirs.argmax(axis=1), ours.argmax(axis=1), found.images.labels
    return Report(
        title=str(exported),
        subtitle=_subtitle(origin, config),
        refused=_sentence(origin.get("refused", "")),
        rows=as_stored(found.rows, config.get("teacher"), exported),
        measured_on=found.said,
        losses=[(step, line["loss"]) for step, line in steps.items()],
        rates=[(step, line["learning_rate"]) for step, line in steps.items() if "learning_rate" in line],
        scores=scores,
        score_of=origin.get("score_of", ""),
        teacher_score=float(origin["score_teacher"]) if "score_teacher" in origin else None,
        layers=_layers(trained, teacher, found.images, threads),
        partings=_partings(theirs, ours, labels),
        confusion=_confusion(teacher_says, student_says, classes),
        classes=by_class(teacher_says, student_says, labels),
        label_confusion=None if labels is None else _confusion(labels, student_says, classes),
        class_names={number: found.images.class_names[number] for number in sorted(found.images.class_names)},
        disagreements=_disagreements(found.images, theirs, ours),
        verification=_verification(folder / VERIFIED),
        config=config,
        chosen=dict(chosen),
        commands=commands,
        provenance=origin,
        versions=_versions(threads),
    )


def write_report(report: Report, folder: Path) -> Path:
    """report.json and report.html in the folder; the path of the page. Raises InputError where matplotlib is missing."""
    for name, text in (("report.json", to_json), (PAGE, to_html)):
        made = text(report)
        with replacing(folder / name) as temporary:
            temporary.write_text(made, encoding="utf-8", errors="backslashreplace")  # paths may be any bytes
    return folder / PAGE


def _is_trained(origin: dict[str, str]) -> bool:
    """Whether a student is a trained one, and not the PTQ model that training began with."""
    return "kept" not in origin and origin.get("epochs") != "0"


def _subtitle(origin: dict[str, str], config: dict[str, Any]) -> str:
    bits = "".join(
        f"{letter}{origin[name]}" for letter, name in (("W", "weight_bits"), ("A", "activation_bits")) if name in origin
    )
    how = ", ".join(f"{name} {origin[name]}" for name in ("temperature", "alpha", "epochs") if name in origin)
    of = f" of {config['teacher']}" if "teacher" in config else ""
    by = f"by onnx-distill {origin.get('tool', __version__)}"
    if not _is_trained(origin):
        why = origin.get("kept", "it is the PTQ model: no trained one was better yet")
        return f"{bits or 'QDQ'} student{of} {by}. {_sentence(why)}."
    return f"{bits or 'QDQ'} student{of}, distilled {by}" + (f": {how}." if how else ".")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _curves(log: list[dict[str, float]]) -> tuple[dict[int, dict[str, float]], list[tuple[int, float]]]:
    """(step -> its line, the last one where a run went back), (step, score) of each evaluation."""
    steps: dict[int, dict[str, float]] = {}
    for line in log:
        if "loss" in line:
            steps[int(line["step"])] = line
    scores = {line["epoch"]: line for line in log if "score" in line}
    last = max(scores, default=0.0)
    per_epoch = max(steps, default=0) / last if steps and last else 1.0
    at = lambda epoch: int(scores[epoch].get(AFTER, round(epoch * per_epoch)))  # noqa: E731  (older logs lack it)
    return dict(sorted(steps.items())), [(at(epoch), scores[epoch]["score"]) for epoch in sorted(scores)]


def _layers(trained: onnx.ModelProto, teacher: onnx.ModelProto, images: Images, threads: int) -> list[Layer]:
    shape = images.read(np.arange(1)).shape[1:]
    float_model = ready(logits_model(trained, teacher), shape)
    few = np.arange(min(COMPARED, len(images)))
    return compare(float_model, trained, (batch.images for batch in batches(images, BATCH, few)), threads)


def _partings(theirs: np.ndarray, ours: np.ndarray, labels: np.ndarray | None) -> Partings:
    teacher, student = theirs.argmax(axis=1), ours.argmax(axis=1)
    where = np.flatnonzero(teacher != student)
    exchanged, counts = np.unique(np.stack([teacher[where], student[where]], axis=1), axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:PAIRS]
    pairs = tuple((int(exchanged[i][0]), int(exchanged[i][1]), int(counts[i])) for i in order)
    right = (None, None) if labels is None else tuple(int((a[where] == labels[where]).sum()) for a in (teacher, student))
    return Partings(len(teacher), len(where), right[0], right[1], pairs)


def _confusion(said: np.ndarray, student: np.ndarray, classes: int) -> np.ndarray | None:
    if classes > MOST_CLASSES:
        return None
    return np.bincount(said * classes + student, minlength=classes * classes).reshape(classes, classes)


def _disagreements(images: Images, theirs: np.ndarray, ours: np.ndarray) -> list[Disagreement]:
    """The images on which both are surest of their own answer, by the probability each gives it above that of the other's."""
    teacher, student = theirs.argmax(axis=1), ours.argmax(axis=1)
    where = np.flatnonzero(teacher != student)
    p, q = (np.exp(log_softmax(scores[where])) for scores in (theirs, ours))
    rows, t, s = np.arange(len(where)), teacher[where], student[where]
    order = np.argsort(-(p[rows, t] - p[rows, s] + q[rows, s] - q[rows, t]), kind="stable")[:SHOWN]
    return [
        Disagreement(
            images.name(int(where[i])),
            _png(images.picture(int(where[i]))),
            Answer(int(t[i]), float(p[i, t[i]])),
            Answer(int(s[i]), float(q[i, s[i]])),
            None if images.labels is None else int(images.labels[where[i]]),
        )
        for i in order
    ]


def _png(pixels: np.ndarray) -> str:
    """A data: address of uint8 pixels [height, width, channels]; of other than 1, 3 or 4 channels the first alone."""
    shown = pixels if pixels.shape[2] in (3, 4) else pixels[..., 0]
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(shown)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _verification(path: Path) -> dict[str, Any] | None:
    """What `onnx-distill verify --json` wrote to verify.json in the run folder, where it did."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {name: found[name] for name in ("images", "bound", "traced", "runners", "pairs", "passed")}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not what `onnx-distill verify --json` prints: {first_line(error)}. Make it again."
        ) from None


def _versions(threads: int) -> dict[str, str]:
    return {
        "onnx-distill": __version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
        "Python": platform.python_version(),
        "threads": str(threads or "the runtime's choice"),
        "machine": f"{_processor()}, {os.cpu_count()} processors, {platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    """The processor's name, where the system tells it."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or "unknown processor"
