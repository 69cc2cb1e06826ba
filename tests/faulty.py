"""What a check of gradients must notice."""

from __future__ import annotations

import numpy as np


class Faulty:
    """A step whose gradient of one parameter is wrong by a factor."""

    def __init__(self, step, name: str, factor: float):
        self.step, self.parameters, self.name, self.factor = step, step.parameters, name, factor

    def run(self, *given):
        return self.step.run(*given)

    @property
    def gradients(self):
        return {**self.step.gradients, self.name: self.step.gradients[self.name] * np.float32(self.factor)}
