"""What a training reports while it goes, and its result."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx

from onnx_distill.training.score import Score, share_error


@dataclass(frozen=True)
class Progress:
    """Where training stands: after `step` of `steps`, with a running mean of the loss and the learning rate of this step."""

    step: int
    steps: int
    images: int
    loss: float
    learning_rate: float


@dataclass(frozen=True, repr=False)
class Checkpoint:
    """An evaluated student: a plain QDQ model, and how far training was.

    score: share of the held-out images that it answers right (without labels: as the teacher does), 0..1. kl: mean KL to the
    teacher on them in nats, which chooses the best. images: how many they are.
    """

    student: onnx.ModelProto
    score: float
    epoch: float
    kl: float = math.nan
    images: int = 0

    def __repr__(self) -> str:
        return f"Checkpoint(epoch {self.epoch:g}: {self})"

    def __str__(self) -> str:
        spread = f" ± {100 * share_error(self.score, self.images):.2f}" if self.images else ""
        of = f" of {self.images:,} held-out images, KL {self.kl:.3g}" if self.images else " on held-out images"
        return f"{100 * self.score:.2f}{spread} %{of}"


def checkpoint_of(student: onnx.ModelProto, score: Score, epoch: float) -> Checkpoint:
    return Checkpoint(student, score.share, epoch, score.mean_kl, len(score.kl))


@dataclass(frozen=True, repr=False)
class Trained:
    """The best student and how it came about; step_seconds excludes evaluation. stopped: why it ended early, or ''.

    interrupted (by Ctrl-C) and out_of_time (config.max_minutes): there is something left to train, which its checkpoints continue.
    kept: why `best` is the student as it came, the PTQ model, and no trained one; '' where it is a trained one.
    """

    best: Checkpoint
    scores: tuple[tuple[float, float], ...]  # (epoch, score)
    images: int
    step_seconds: float
    interrupted: bool
    stopped: str = ""
    out_of_time: bool = False
    kept: str = ""

    def __repr__(self) -> str:
        best = f"the student of epoch {self.best.epoch:g}" if self.best.epoch else "the student as it was given"
        end = ", interrupted" if self.interrupted else f", stopped: {self.stopped}" if self.stopped else ""
        return f"Trained({best}: {self.best}, after {self.images:,} images{end})"

    def records(self) -> list[dict[str, float]]:
        """The evaluations, for a table: pandas.DataFrame(trained.records())."""
        return [{"epoch": epoch, "score": score} for epoch, score in self.scores]

    @property
    def finished(self) -> bool:
        return not self.interrupted and not self.out_of_time

    @property
    def images_per_second(self) -> float:
        return self.images / max(self.step_seconds, 1e-9)
