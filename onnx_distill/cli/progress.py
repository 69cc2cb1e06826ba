"""How a long run shows itself on stderr: stages, evaluations, warnings, and a bar, or now and then a line where no terminal is."""

from __future__ import annotations

import sys
import time
from datetime import timedelta

from tqdm import tqdm

from onnx_distill.cli.terminal import QUIET, VERBOSE, level, tell, tell_machine, warn
from onnx_distill.run.watch import Watch
from onnx_distill.training.trained import Checkpoint, Progress

FIRST, LONGEST = 10.0, 300.0  # seconds until the first line and, each twice the one before, at most between two


class Bar:
    """Something of `total` parts: a bar on a terminal, else lines that get rarer, so that a log of hours stays short."""

    def __init__(self, what: str, total: int, unit: str):
        self.what, self.total, self.unit = what, total, unit
        self.began = self.told = time.monotonic()
        self.pause, self.done = FIRST, 0
        self.first: int | None = None
        self._bar: tqdm | None = None
        if level() > QUIET and sys.stderr.isatty():
            self._bar = tqdm(total=total, desc=what, unit=f" {unit}", file=sys.stderr, dynamic_ncols=True, mininterval=0.5)

    def update(self, done: int, text: str = "") -> None:
        """`done` of the parts are there; at the last one the bar ends."""
        if self.first is None and self._bar is not None:
            self._bar.initial = self._bar.n = done
        if self.first is None or done < self.done:  # a run that is continued had parts done before; one may go back
            self.first, self.began = done, time.monotonic()
        self.done = done
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(done - self._bar.n)
            if done >= self.total:
                self._bar.close()
        elif time.monotonic() - self.told >= self.pause:
            self._line(done, text)

    def _line(self, done: int, text: str) -> None:
        self.told, self.pause = time.monotonic(), min(2 * self.pause, LONGEST)
        rate = (done - (self.first or 0)) / max(self.told - self.began, 1e-9)
        left = f", {timedelta(seconds=round((self.total - done) / rate))} left" if rate else ""
        more = f", {text}" if text else ""
        tell(
            f"{self.what}: {done:,} of {self.total:,} {self.unit} ({100 * done / self.total:.0f} %), {rate:.3g}/s{left}{more}"
        )


class Run:
    """What tells of a run: its watch says each stage, each evaluation, each warning, and how far training is."""

    def __init__(self):
        self.bar: Bar | None = None
        self.stage, self.began = "", time.monotonic()
        self.watch = Watch(self._stage, self._step, self._evaluation, warn, tell)
        tell_machine()

    def end(self) -> None:
        """With --verbose: how long the last stage took."""
        if self.stage:
            tell(f"   {self.stage} took {time.monotonic() - self.began:.1f} s", VERBOSE)

    def _stage(self, text: str) -> None:
        self.end()
        self.stage, self.began, self.bar = text, time.monotonic(), None
        tell(f"== {text}")

    def _step(self, progress: Progress) -> None:
        batch = progress.images // progress.step
        if self.bar is None:
            self.bar = Bar("train", progress.steps * batch, "images")
        self.bar.update(progress.images, f"loss {progress.loss:.4f}, lr {progress.learning_rate:.1e}")

    def _evaluation(self, checkpoint: Checkpoint) -> None:
        tell(f"epoch {checkpoint.epoch:.2f}: {checkpoint}")
