"""A long run as a bar, for programs: in a notebook a widget, in a terminal a line."""

from __future__ import annotations

import sys
from typing import Any

from onnx_distill.run.watch import Watch
from onnx_distill.training.trained import Checkpoint, Progress


class _Bar:
    """Begins with the first step; tqdm.auto, which knows whether a notebook shows it, is imported when something is shown."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.best = ""

    def say(self, text: str) -> None:
        from tqdm.auto import tqdm

        tqdm.write(text, file=sys.stderr)

    def step(self, progress: Progress) -> None:
        if self.bar is None:
            from tqdm.auto import tqdm

            self.bar = tqdm(total=progress.steps, initial=progress.step - 1, desc="train", unit="step", mininterval=0.5)
        self.bar.set_postfix_str(f"loss {progress.loss:.4f}{self.best}", refresh=False)
        self.bar.update(progress.step - self.bar.n)  # backwards, where a training begins again
        if progress.step == progress.steps:
            self.bar.close()

    def evaluation(self, checkpoint: Checkpoint) -> None:
        self.best = f", held out {100 * checkpoint.score:.2f} %, KL {checkpoint.kl:.3g}"


def shown(progress: bool) -> Watch:
    """A watch that says stages and warnings and shows the steps as a bar; without progress one that says nothing."""
    if not progress:
        return Watch()
    bar = _Bar()
    return Watch(
        lambda text: bar.say(f"== {text}"), bar.step, bar.evaluation, lambda text: bar.say(f"warning: {text}"), bar.say
    )
