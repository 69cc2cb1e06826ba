"""One training step behind a small interface: run a batch forward and backward, read and write parameters and gradients.

The loop knows only this; what runs it (onnxruntime.training's Module here) can be replaced by writing this file again.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnx_distill import _ort, runtime
from onnx_distill.artifacts import Artifacts


class Step:
    """The student, ready to be trained.

    parameters, gradients: name -> live writable float32 array; gradients hold those of the last `run`.
    profile: a folder to which the runtime writes what each node took, until `close`.
    """

    def __init__(self, artifacts: Artifacts, threads: int = 0, profile: Path | None = None):
        self._module, self._state = _ort.open_module(artifacts.folder, threads, profile)
        self._config = artifacts.config
        self.parameters = {name: self._state.parameters[name].data for name in artifacts.parameters.all}
        self.gradients: dict[str, np.ndarray] = {}
        runtime.give_back_memory()

    def run(
        self,
        images: np.ndarray,
        teacher_logits: np.ndarray | None,
        labels: np.ndarray | None,
        add: bool = False,
        features: Sequence[np.ndarray] = (),
    ) -> tuple[float, np.ndarray]:
        """(loss, student logits [n, classes]) for float32 images [n, c, h, w], float32 [n, classes] and int64 labels [n].

        add: the gradients are added to those of the run before, instead of taking their place.
        features: of the teacher, float32 [n, ...] each, where the loss has a part for them.
        """
        wanted = [(images, True), (teacher_logits, self._config.alpha > 0), (labels, self._config.alpha < 1)]
        given = [array for array, is_input in wanted if is_input] + [values.reshape(len(values), -1) for values in features]
        if not add:
            self._module.lazy_reset_grad()
        with _ort.errors_of("run a step"):
            loss, logits = self._module(*given)
        if not self.gradients:
            self.gradients = {name: self._state.parameters[name].grad for name in self.parameters}
        return float(loss), logits

    def close(self) -> None:
        """Let go of the runtime, which only then ends its profile; parameters and gradients are gone, copy them before."""
        self.parameters, self.gradients = {}, {}
        del self._module, self._state
        gc.collect()
