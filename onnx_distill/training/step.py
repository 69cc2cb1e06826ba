"""One training step behind a small interface: run a batch forward and backward, read and write parameters and gradients.

The loop knows only this; what runs it (an inference session of the training model here) can be replaced by writing this file again.
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

    parameters, gradients: name -> live writable float32 array; gradients hold those of the last `run`. The session reads the
    ones and writes the others where they lie.
    profile: a folder to which the runtime writes what each node took, until `close`.
    """

    def __init__(self, artifacts: Artifacts, threads: int = 0, profile: Path | None = None):
        self._session, first, outputs = _ort.open_training(artifacts.folder, threads, profile)
        self._config = artifacts.config
        self.parameters = {name: first[name] for name in artifacts.parameters.all}
        self.gradients = {name: np.zeros_like(values) for name, values in self.parameters.items()}
        self._batch_inputs = [value.name for value in self._session.get_inputs() if value.name not in first]
        self._binding = self._session.io_binding()
        self._results = [value.name for value in self._session.get_outputs() if value.name not in outputs.values()]
        self._bind_results()  # loss and logits before the gradients
        for name, values in self.parameters.items():
            self._binding.bind_input(name, *_place(values))
            self._binding.bind_output(outputs[name], *_place(self.gradients[name]))
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
        wanted = [(images, True), (teacher_logits, self._config.teacher_share > 0), (labels, self._config.teacher_share < 1)]
        given = [array for array, is_input in wanted if is_input] + [values.reshape(len(values), -1) for values in features]
        held = [np.ascontiguousarray(array) for array in given]  # the session looks at them, and does not copy
        before = {name: gradient.copy() for name, gradient in self.gradients.items()} if add else {}
        for name, array in zip(self._batch_inputs, held):
            self._binding.bind_cpu_input(name, array)
        self._bind_results()
        with _ort.errors_of("run a step"):
            self._session.run_with_iobinding(self._binding)
        for name, gradient in before.items():
            self.gradients[name] += gradient
        loss, logits = (value.numpy() for value in self._binding.get_outputs()[:2])
        return float(loss), logits

    def _bind_results(self) -> None:
        """Loss and logits to memory of the runtime: anew for each run, for a batch may have another size."""
        for name in self._results:
            self._binding.bind_output(name, "cpu")

    def close(self) -> None:
        """Let go of the runtime, which only then ends its profile; parameters and gradients are gone, copy them before."""
        self.parameters, self.gradients = {}, {}
        del self._binding, self._session
        gc.collect()


def _place(array: np.ndarray) -> tuple:
    """What binds an input or output to the memory of an array, on the CPU."""
    return "cpu", 0, array.dtype.type, array.shape, array.ctypes.data
