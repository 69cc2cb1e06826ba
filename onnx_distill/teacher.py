"""The frozen teacher while a student learns from it: its logits of each image are computed once where images repeat exactly."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx

from onnx_distill import runtime

LARGEST_IN_MEMORY = (
    256 * 2**20
)  # bytes of remembered logits; above, they lie in a file (1.3 M images of 1,000 classes: 5 GB)


class Teacher:
    """Logits of batches; with `remember`, those of image i are kept after the first time, in memory or, when large, on disk."""

    def __init__(self, model: onnx.ModelProto, threads: int, classes: int, remember: int = 0):
        """remember: how many images there are, if each is the same in every epoch; 0 where augmentation changes them."""
        self._session = runtime.open_session(model, threads or None, spinning=False)
        self._known = np.zeros(remember, bool)
        self._logits = _array((remember, classes))

    def check(self, images: np.ndarray) -> None:
        """Raises InputError for images that the teacher cannot take."""
        runtime.check_batch(self._session, images)

    def logits(self, images: np.ndarray, index: np.ndarray) -> np.ndarray:
        """float32 [n, classes] for images [n, c, h, w], which are those at `index` of the set."""
        if not len(self._known):
            return runtime.run(self._session, images)[0]
        if not self._known[index].all():
            self._logits[index], self._known[index] = runtime.run(self._session, images)[0], True
        return np.array(self._logits[index])


def _array(shape: tuple[int, int]) -> np.ndarray:
    if 4 * shape[0] * shape[1] <= LARGEST_IN_MEMORY:
        return np.empty(shape, np.float32)
    with tempfile.NamedTemporaryFile(prefix="onnx-distill-logits-", dir=Path(tempfile.gettempdir())) as file:
        return np.memmap(file, np.float32, "w+", shape=shape)  # the mapping outlives the file's name
