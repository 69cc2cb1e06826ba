"""In which order images are trained on, and what chance each batch gets: functions of seed and position, with no state.

A run that is continued at any batch therefore goes on exactly as it would have.
"""

from __future__ import annotations

import numpy as np

ORDER, AUGMENTATION = 0, 1  # what a stream of random numbers is for


class Order:
    """Batches of indices: every epoch a new permutation, the rest that fills no batch left out."""

    def __init__(self, count: int, batch_size: int, seed: int):
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.batches_per_epoch = count // batch_size
        self._epoch, self._permutation = -1, np.zeros(0, np.int64)

    def batch(self, position: int) -> np.ndarray:
        """The indices of the batch at `position`, counted from 0 over all epochs."""
        epoch, place = divmod(position, self.batches_per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng([self.seed, ORDER, epoch])
            self._epoch, self._permutation = epoch, rng.permutation(self.count)
        return self._permutation[place * self.batch_size : (place + 1) * self.batch_size]

    def rng(self, position: int) -> np.random.Generator:
        """Random numbers for the batch at `position`."""
        return np.random.default_rng([self.seed, AUGMENTATION, position])
