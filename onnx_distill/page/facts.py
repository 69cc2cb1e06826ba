"""What a report says: plain facts, whole in JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np

from onnx_distill.compare import Layer
from onnx_distill.page.classes import ClassResult
from onnx_distill.predict import Answer
from onnx_distill.run.result import Row


@dataclass(frozen=True)
class Disagreement:
    """A test image on which teacher and student differ. picture: a data: address of a PNG file."""

    name: str
    picture: str
    teacher: Answer
    student: Answer
    label: Optional[int]


@dataclass(frozen=True)
class Partings:
    """On how many of the images teacher and student differ, and who is right there; None without labels."""

    images: int
    differing: int
    teacher_right: Optional[int] = None
    student_right: Optional[int] = None
    pairs: tuple[tuple[int, int, int], ...] = ()  # (teacher's class, student's class, images), the most frequent first


@dataclass(frozen=True)
class Report:
    """What a report shows; a part that is empty is left out."""

    title: str
    rows: list[Row]
    subtitle: str = ""
    refused: str = ""  # why --max-drop refused the student
    measured_on: str = ""  # which images
    losses: list[tuple[int, float]] = field(default_factory=list)  # (step, loss)
    rates: list[tuple[int, float]] = field(default_factory=list)  # (step, learning rate)
    scores: list[tuple[int, float]] = field(default_factory=list)  # (step, score of the held-out images, 0..1)
    score_of: str = ""  # what the score is
    teacher_score: Optional[float] = None  # of the same images, 0..1
    layers: list[Layer] = field(default_factory=list)
    partings: Optional[Partings] = None
    confusion: Optional[np.ndarray] = None  # counts [classes, classes], teacher by student
    classes: list[ClassResult] = field(default_factory=list)  # where there are labels
    label_confusion: Optional[np.ndarray] = None  # counts [classes, classes], label by student
    class_names: dict[int, str] = field(default_factory=dict)
    disagreements: list[Disagreement] = field(default_factory=list)
    verification: Optional[dict[str, Any]] = None  # what `onnx-distill verify --json` said
    config: dict[str, Any] = field(default_factory=dict)
    chosen: dict[str, Any] = field(default_factory=dict)  # of config: what is not at its default
    commands: list[str] = field(default_factory=list)
    provenance: dict[str, str] = field(default_factory=dict)  # of the exported file
    versions: dict[str, str] = field(default_factory=dict)

    def name_of(self, number: int) -> str:
        return self.class_names.get(number, str(number))


def to_json(report: Report) -> str:
    """Everything, the pictures among it. Infinite numbers become null, which JSON has no others for."""
    facts = {f.name: _plain(getattr(report, f.name)) for f in dataclasses.fields(report)}
    return json.dumps(facts, indent=1, allow_nan=False)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
