"""A student that loses more against its float teacher than --max-drop allows: its file has another name and says why.

So nobody takes it for the result: `student.int8.refused.onnx` is in the folder, and no `student.int8.onnx`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Tuple

import onnx

from onnx_distill.errors import InputError
from onnx_distill.facts.provenance import provenance, stamp
from onnx_distill.model import load, save
from onnx_distill.run.folder import refused_file, student_file
from onnx_distill.run.result import Row

DIGITS = 3  # of a point: more are noise of floats, and of the six digits that a file keeps of a score
Lost = Tuple[float, str]  # percentage points, and in words of what


def lost_by_rows(rows: Sequence[Row]) -> Lost:
    """What the last row loses against the first: top-1, or without labels answers that are the first's."""
    teacher, student = rows[0].measured, rows[-1].measured
    if teacher.top1 is None or student.top1 is None:
        return _lost(1.0, student.agreement or 0.0, labelled=False)
    return _lost(teacher.top1, student.top1, labelled=True)


def lost_by_training(student: onnx.ModelProto) -> Lost:
    """The same of the images that chose the student, as its metadata has it. Raises InputError where an older version made it."""
    facts = provenance(student)
    if "score_teacher" not in facts:
        raise InputError("the student in the folder does not say what its teacher is worth; train it again for --max-drop.")
    return _lost(float(facts["score_teacher"]), float(facts["score_after"]), facts["score_of"].startswith("top-1"))


def _lost(teacher: float, student: float, labelled: bool) -> Lost:
    share = f"{100 * student:.2f} %"
    said = f"top-1 {share} after float's {100 * teacher:.2f} %" if labelled else f"{share} of the answers are float's"
    return round(100 * (teacher - student), DIGITS), said


def refusal(lost: Lost, max_drop: float | None, images: str) -> str:
    """Why a student is refused, or ''. max_drop: points that it may lose, None: any. images: on which it is judged, in words."""
    points, said = lost
    if max_drop is None or points <= max_drop:
        return ""
    return f"refused: loses {points:.2f} points, more than --max-drop {max_drop:g} ({said}), on {images}"


def settle(exported: Path, why: str) -> Path:
    """Where the exported student lies from now on: where it is, or, refused for a reason, in a file that says so; the other is gone."""
    refused = refused_file(exported)
    if not why:
        refused.unlink(missing_ok=True)
        return exported
    save(stamp(load(exported), refused=why), refused)
    exported.unlink()
    return refused


def exported_in(folder: Path, storage: str) -> Path:
    """The exported student of a run's folder, or the refused one where that is all there is."""
    exported = folder / student_file(storage)
    return refused_file(exported) if is_refused(folder, storage) else exported


def is_refused(folder: Path, storage: str) -> bool:
    exported = folder / student_file(storage)
    return refused_file(exported).is_file() and not exported.is_file()
