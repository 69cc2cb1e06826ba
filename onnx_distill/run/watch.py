"""What a long run tells while it goes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Callable

from onnx_distill.training.trained import Checkpoint, Progress


@dataclass(frozen=True)
class Watch:
    """Where a long run tells how it stands; each is called with what its name says."""

    stage: Callable[[str], None] = lambda text: None
    step: Callable[[Progress], None] = lambda progress: None
    evaluation: Callable[[Checkpoint], None] = lambda checkpoint: None
    warning: Callable[[str], None] = lambda text: None
    note: Callable[[str], None] = lambda text: None

    def also(self, step: Callable[[Progress], None], evaluation: Callable[[Checkpoint], None]) -> Watch:
        """One that tells others too."""

        def both_step(progress: Progress) -> None:
            self.step(progress)
            step(progress)

        def both_evaluation(checkpoint: Checkpoint) -> None:
            self.evaluation(checkpoint)
            evaluation(checkpoint)

        return replace(self, step=both_step, evaluation=both_evaluation)
