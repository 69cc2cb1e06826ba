"""A running mean of the parameters (Polyak and Juditsky 1992), which is often better than the last of them."""

from __future__ import annotations

import numpy as np


class Average:
    """values: the mean of live parameters, each step's share of it decaying by `decay`; the parameters themselves at decay 0."""

    def __init__(self, parameters: dict[str, np.ndarray], decay: float):
        self._parameters, self._decay = parameters, decay
        self._mean = {name: np.array(values) for name, values in parameters.items()} if decay else {}

    @property
    def values(self) -> dict[str, np.ndarray]:
        return self._mean or self._parameters

    def update(self, step: int) -> None:
        """After optimiser step `step` = 1, 2, ...; the first steps count more, so that the start is soon forgotten."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, mean in self._mean.items():
            mean += (1 - decay) * (self._parameters[name] - mean)

    def begin_again(self) -> None:
        """The mean is the parameters as they are now."""
        for name, mean in self._mean.items():
            mean[...] = self._parameters[name]

    def state(self) -> dict[str, np.ndarray]:
        return self._mean

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Continue from what state() gave. Raises ValueError where it is of other parameters."""
        if set(arrays) != set(self._mean):
            raise ValueError("its running mean is of other parameters, or there is none")
        for name, mean in self._mean.items():
            mean[...] = arrays[name]
