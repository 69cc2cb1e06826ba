"""How long a training is where nobody says: a budget of updates by the bits, of passes by the images, of minutes by the machine."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from onnx_distill import qdq
from onnx_distill.config import TrainConfig

UPDATES = (
    (7, 200, 200),
    (4, 1000, 2000),
    (2, 2000, 2000),
)  # from so many bits on: at least, and where images are many; docs/experiments.md
GAINING, MOST_PASSES = (
    30,
    100,
)  # over the images: up to which more updates gained, and beyond which what is learned is these images
MINUTES = 5.0  # what people wait for; --epochs takes what it takes
FEWEST = 50  # updates, however slow
BATCH, LARGE = 64, 128 * 128  # images; pixels of one
MIXUP, FEW_IMAGES, OFTEN = 0.4, 5000, 5  # share; images, and passes over them, from which on a student learns them by heart


@dataclass(frozen=True)
class Duration:
    """updates of the parameters, each by `batch` images, and the seconds that they will take (0: not known)."""

    updates: int
    batch: int
    images: int
    seconds: float = 0.0

    @property
    def passes(self) -> float:
        """How often each image is seen."""
        return self.updates * self.batch / self.images

    def __str__(self) -> str:
        time = f", about {_time(self.seconds)}" if self.seconds else ""
        return f"{self.updates:,} update{'s' if self.updates > 1 else ''} of {self.batch} images ({self.passes:.3g} passes over {self.images:,}){time}"


def batch_of(config: TrainConfig, images: int, pixels: int) -> int:
    """Images a step: as chosen, else BATCH, of large images (pixels: of one channel) half, for more updates in the same time."""
    usual = BATCH if pixels < LARGE else BATCH // 2
    return min(config.batch_size or usual, images)


def duration_of(
    config: TrainConfig, student: onnx.ModelProto, images: int, batch: int, per_epoch: int, seconds: float = 0.0
) -> Duration:
    """batch: images a step. per_epoch: updates that one pass takes. seconds: that one update takes; 0: not known, and no limit of minutes."""
    batch = batch * config.accumulate
    if config.epochs is not None:
        updates = max(1, round(config.epochs * per_epoch))
        return Duration(updates, batch, images, seconds * updates)
    least, most = next((least, most) for bits, least, most in UPDATES if lowest_bits(student) >= bits)
    updates = min(max(least, min(most, GAINING * per_epoch)), MOST_PASSES * per_epoch)
    if seconds:
        updates = min(updates, max(FEWEST, int(60 * MINUTES / seconds)))
    return Duration(updates, batch, images, seconds * updates)


def mixup_of(config: TrainConfig, duration: Duration) -> float:
    """Largest share of another image: as chosen, else MIXUP where few images are seen often; the teacher answers for mixtures, too."""
    if config.mixup is not None:
        return config.mixup
    return MIXUP if duration.images < FEW_IMAGES and duration.passes > OFTEN else 0.0


def lowest_bits(student: onnx.ModelProto) -> int:
    """The fewest bits of any weight or activation of a QDQ model."""
    return min((q.integers.bits for q in qdq.find(student)), default=8)


def _time(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{max(seconds, 1):.0f} s"
