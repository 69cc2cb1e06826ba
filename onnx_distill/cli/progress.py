"""How a long run shows itself on a terminal: stages, a progress bar, evaluations, warnings; all on stderr."""

from __future__ import annotations

import sys

from tqdm import tqdm

from onnx_distill import pipeline


class Bar:
    """A progress bar on stderr: images, images/s, loss, time left; plain lines for stages and evaluations."""

    def __init__(self):
        self.bar = None
        self.watch = pipeline.Watch(self._stage, self._step, self._evaluation, self._warning)

    def _warning(self, text: str) -> None:
        self._write(f"warning: {text}")

    def _stage(self, text: str) -> None:
        self._write(f"== {text}")

    def _step(self, progress) -> None:
        if self.bar is None:
            batch = progress.images // progress.step
            self.bar = tqdm(
                total=progress.steps * batch, unit="img", file=sys.stderr, dynamic_ncols=True, mininterval=1.0, initial=0
            )
        self.bar.set_postfix_str(f"loss {progress.loss:.4f} lr {progress.learning_rate:.1e}", refresh=False)
        self.bar.update(progress.images - self.bar.n)
        if progress.step == progress.steps:
            self.bar.close()

    def _evaluation(self, checkpoint) -> None:
        self._write(f"epoch {checkpoint.epoch:.2f}: {100 * checkpoint.score:.2f} % on held-out images")

    def _write(self, text: str) -> None:
        tqdm.write(text, file=sys.stderr)
