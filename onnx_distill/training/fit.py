"""Whether student, teachers, images and choices fit together, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from onnx_distill import artifacts
from onnx_distill.config import DistillConfig, TrainConfig
from onnx_distill.data import Images
from onnx_distill.errors import InputError


def check_fit(student: onnx.ModelProto, teachers: Sequence[onnx.ModelProto], images: Images, distill: DistillConfig) -> None:
    """Raises InputError where the teachers' classes are not the student's, or the labels are not theirs, or are missing."""
    classes = artifacts.class_count(student.graph.output[0])
    for number, teacher in enumerate(teachers, start=1):
        found = artifacts.class_count(teacher.graph.output[0])
        if found != classes:
            which = "the teacher" if number == 1 else f"teacher {number}"
            hint = "Is it a student of this teacher?" if number == 1 else "Give teachers of the same classes."
            raise InputError(f"{which} has {found} classes, the student {classes}; wanted the same. {hint}")
    if distill.alpha is not None and distill.alpha < 1 and images.labels is None:
        raise InputError(
            f"alpha is {distill.alpha} but the images have no labels; give --labels, or --alpha 1 to learn from the teacher alone."
        )
    if images.labels is not None and len(images) and not 0 <= images.labels.min() <= images.labels.max() < classes:
        raise InputError(
            f"labels run from {images.labels.min()} to {images.labels.max()}; wanted 0..{classes - 1}. Is --label-offset right?"
        )


def check_sizes(images: Images, batches: int, config: TrainConfig) -> None:
    """batches: of an epoch. Raises InputError where the choices ask for more batches or pixels than there are."""
    if config.accumulate > batches:
        raise InputError(
            f"accumulate is {config.accumulate}, but an epoch has {batches} batches; wanted no more. Lower --accumulate or --batch-size."
        )
    size = images.read(np.arange(1)).shape[2:]
    if config.shift >= min(size):
        raise InputError(f"shift is {config.shift}, but the images are {'x'.join(map(str, size))}; wanted less than that.")
