"""The report of one run, gathered from its models, its test images and its log."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from onnx_distill import __version__, pipeline
from onnx_distill.compare import compare
from onnx_distill.data import Images, batches
from onnx_distill.model import replacing
from onnx_distill.page import Disagreement, Report, to_html, to_json
from onnx_distill.pipeline import Outcome

COMPARED, BATCH = 256, 32  # images that noise is measured on: sums over all their activations hardly move after that
SHOWN = 12  # images on which teacher and student part
MOST_CLASSES = 200  # of a confusion that a page can show


def report_of(
    teacher: onnx.ModelProto,
    outcome: Outcome,
    images: Images,
    log: list[dict[str, float]],
    config: dict[str, Any],
    command: str,
    threads: int = 0,
    class_names: list[str] | None = None,
) -> Report:
    """What `run` found, measured on its test images beside its teacher."""
    student = onnx.load(str(outcome.student.parent / "trained.qdq.onnx"))
    float_model = pipeline.ready(pipeline.logits_model(student, teacher), images.read(np.arange(1)).shape[1:])
    few = np.arange(min(COMPARED, len(images)))
    layers = compare(float_model, student, (batch.images for batch in batches(images, BATCH, few)), threads)
    value = float_model.graph.output[0].name
    ours, theirs = (
        pipeline.logits_of(m, images, threads, value).argmax(axis=1) for m in (onnx.load(str(outcome.student)), teacher)
    )
    losses = [(int(line["step"]), line["loss"]) for line in log if "loss" in line]
    epochs = [(line["epoch"], line["score"]) for line in log if "score" in line]
    per_epoch = losses[-1][0] / epochs[-1][0] if losses and epochs and epochs[-1][0] else 1.0
    return Report(
        title=f"onnx-distill: {outcome.student}",
        rows=outcome.rows,
        losses=losses,
        scores=[(round(epoch * per_epoch), score) for epoch, score in epochs],
        layers=layers,
        confusion=_confusion(theirs, ours, pipeline.classes_of(float_model)),
        class_names=class_names or [],
        disagreements=_disagreements(images, theirs, ours),
        config=config,
        commands=[command],
        versions=_versions(),
    )


def write_report(report: Report, folder: Path) -> Path:
    """report.json and report.html in the folder; the path of the page. Raises InputError where matplotlib is missing."""
    for name, text in (("report.json", to_json(report)), ("report.html", to_html(report))):
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return folder / "report.html"


def _confusion(teacher: np.ndarray, student: np.ndarray, classes: int) -> np.ndarray | None:
    if classes > MOST_CLASSES:
        return None
    return np.bincount(teacher * classes + student, minlength=classes * classes).reshape(classes, classes)


def _disagreements(images: Images, teacher: np.ndarray, student: np.ndarray) -> list[Disagreement]:
    where = np.flatnonzero(teacher != student)[:SHOWN]
    pixels = images.read(where) if len(where) else np.zeros((0, 1, 1, 1), np.float32)
    labels = [None if images.labels is None else int(images.labels[i]) for i in where]
    return [Disagreement(p, int(teacher[i]), int(student[i]), label) for p, i, label in zip(pixels, where, labels)]


def _versions() -> dict[str, str]:
    return {
        "onnx-distill": __version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
        "Python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
