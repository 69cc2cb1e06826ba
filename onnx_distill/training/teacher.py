"""The frozen teacher while a student learns from it: its logits of each image are computed once where images repeat exactly.

Inner values (features) are computed anew in every epoch: remembered, those of one image would take more than the image.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from onnx_distill import runtime
from onnx_distill.training.ensemble import agreed_logits

LARGEST_IN_MEMORY = (
    256 * 2**20
)  # bytes of remembered logits; above, they lie in a file (1.3 M images of 1,000 classes: 5 GB)


class Teacher:
    """Logits of batches; with `remember`, those of image i are kept after the first time, in memory or, when large, on disk."""

    def __init__(
        self,
        model: onnx.ModelProto,
        threads: int,
        classes: int,
        remember: int = 0,
        features: Sequence[str] = (),
        also: Sequence[onnx.ModelProto] = (),
        temperature: float = 1.0,
    ):
        """remember: how many images there are, if each is the same in every epoch; 0 where augmentation changes them.

        features: inner values of the model that `answer` gives too; nothing is remembered then.
        also: further teachers; what is answered is what all agree on at this temperature, see ensemble.py.
        """
        self._outputs = [model.graph.output[0].name, *features]
        models = [_with_outputs(model, self._outputs), *also]
        self._sessions = [runtime.open_session(each, threads or None, spinning=False) for each in models]
        runtime.give_back_memory()
        self._temperature = temperature
        self._known = np.zeros(0 if features else remember, bool)
        self._logits = _array((len(self._known), classes))

    def check(self, images: np.ndarray) -> None:
        """Raises InputError for images that a teacher cannot take."""
        for session in self._sessions:
            runtime.check_batch(session, images)

    def logits(self, images: np.ndarray, index: np.ndarray) -> np.ndarray:
        """float32 [n, classes] for images [n, c, h, w], which are those at `index` of the set."""
        return self.answer(images, index)[0]

    def answer(self, images: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """(logits as above, the features in the order of their names: float32 [n, ...])."""
        if not len(self._known):
            return self._computed(images)
        if not self._known[index].all():
            self._logits[index], self._known[index] = self._computed(images)[0], True
        return np.array(self._logits[index]), []

    def _computed(self, images: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        first, *features = runtime.run(self._sessions[0], images, self._outputs)
        others = [runtime.run(session, images)[0] for session in self._sessions[1:]]
        return agreed_logits([first, *others], self._temperature), features


def _with_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    have = {value.name for value in model.graph.output}
    if have.issuperset(names):
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in have)
    return made


def _array(shape: tuple[int, int]) -> np.ndarray:
    if 4 * shape[0] * shape[1] <= LARGEST_IN_MEMORY:
        return np.empty(shape, np.float32)
    with tempfile.NamedTemporaryFile(prefix="onnx-distill-logits-", dir=Path(tempfile.gettempdir())) as file:
        return np.memmap(file, np.float32, "w+", shape=shape)  # the mapping outlives the file's name
