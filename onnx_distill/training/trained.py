"""What a training tells while it goes, and what it comes to."""

from __future__ import annotations

from dataclasses import dataclass

import onnx


@dataclass(frozen=True)
class Progress:
    """Where training stands: after `step` of `steps`, with the mean loss of late and the learning rate of this step."""

    step: int
    steps: int
    images: int
    loss: float
    learning_rate: float


@dataclass(frozen=True)
class Checkpoint:
    """An evaluated student: a plain QDQ model, the score that chose it, and how far training was."""

    student: onnx.ModelProto
    score: float
    epoch: float


@dataclass(frozen=True)
class Trained:
    """The best student and how it came about; step_seconds excludes evaluation. stopped: why it ended early, or ''.

    interrupted (by Ctrl-C) and out_of_time (config.max_minutes): there is something left to train, which its checkpoints continue.
    """

    best: Checkpoint
    scores: tuple[tuple[float, float], ...]  # (epoch, score)
    images: int
    step_seconds: float
    interrupted: bool
    stopped: str = ""
    out_of_time: bool = False

    @property
    def finished(self) -> bool:
        return not self.interrupted and not self.out_of_time

    @property
    def images_per_second(self) -> float:
        return self.images / max(self.step_seconds, 1e-9)
