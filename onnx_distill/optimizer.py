"""Optimisers over flat arrays: AdamW (Loshchilov and Hutter 2019), SGD with momentum, and Adam on the logarithm of the steps.

Quantization steps differ by orders of magnitude and must stay positive, so what is learned is their logarithm: an update
of 0.001 changes a step by 0.1 %, whatever its size. They always use Adam, for their gradients differ as much.
"""

from __future__ import annotations

import numpy as np

from onnx_distill.config import TrainConfig

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # the usual ones
LARGEST_LOG_CHANGE = 0.1  # of a step in one update: 10 %


class FlatGroup:
    """Parameters of one kind as one array `values`; `gather` and `scatter` copy gradients in and values out."""

    def __init__(self, parameters: dict[str, np.ndarray]):
        self.parameters = parameters
        sizes = [array.size for array in parameters.values()]
        ends = np.cumsum([0, *sizes])
        self.slices = {name: slice(a, b) for name, a, b in zip(parameters, ends[:-1], ends[1:])}
        self.values = np.concatenate([array.ravel() for array in parameters.values()] or [np.zeros(0, np.float32)])
        self.gradient = np.zeros_like(self.values)

    def gather(self, gradients: dict[str, np.ndarray], batches: int = 1) -> None:
        for name, part in self.slices.items():
            self.gradient[part] = gradients[name].ravel()
        if batches > 1:
            self.gradient /= batches

    def scatter(self) -> None:
        for name, part in self.slices.items():
            array = self.parameters[name]
            array[...] = self.values[part].reshape(array.shape)


class Adam:
    """Adam's direction m / (sqrt(v) + eps), bias corrected; state is float32 of the group's length."""

    def __init__(self, size: int):
        self.m, self.v, self.count = np.zeros(size, np.float32), np.zeros(size, np.float32), np.zeros((), np.int64)

    def state(self) -> dict[str, np.ndarray]:
        """Live arrays that a checkpoint needs besides the parameters."""
        return {"m": self.m, "v": self.v, "count": self.count}

    def direction(self, gradient: np.ndarray) -> np.ndarray:
        self.count += 1
        self.m += (1 - BETA1) * (gradient - self.m)
        self.v += (1 - BETA2) * (np.square(gradient) - self.v)
        v_hat = self.v / (1 - BETA2**self.count)
        return self.m / ((1 - BETA1**self.count) * (np.sqrt(v_hat) + EPSILON))


class Momentum:
    """SGD's direction: the decaying sum of gradients, as in the seed's demo (velocity = momentum * velocity + gradient)."""

    def __init__(self, size: int, momentum: float):
        self.velocity, self.momentum = np.zeros(size, np.float32), momentum

    def state(self) -> dict[str, np.ndarray]:
        return {"velocity": self.velocity}

    def direction(self, gradient: np.ndarray) -> np.ndarray:
        self.velocity *= self.momentum
        self.velocity += gradient
        return self.velocity


class Optimizer:
    """Updates a step's parameters in place from its gradients.

    weights are decayed (decoupled in adamw, added to the gradient in sgd), biases and steps are not.
    """

    def __init__(self, parameters: dict[str, np.ndarray], weights, biases, steps, config: TrainConfig):
        self.config = config
        self.groups = {
            kind: FlatGroup({name: parameters[name] for name in chosen})
            for kind, chosen in (("weights", weights), ("biases", biases), ("steps", steps))
        }
        self.rules = {kind: self._rule(kind, group.values.size) for kind, group in self.groups.items()}

    def _rule(self, kind: str, size: int):
        return Adam(size) if kind == "steps" or self.config.optimizer == "adamw" else Momentum(size, self.config.momentum)

    def state(self) -> dict[str, np.ndarray]:
        """Live arrays by name, the flat values of the parameters among them; writing into them continues another run."""
        flat = {f"{kind}/values": group.values for kind, group in self.groups.items()}
        return {**flat, **{f"{kind}/{name}": a for kind, rule in self.rules.items() for name, a in rule.state().items()}}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Continue from what state() gave. Raises ValueError where it is of other parameters."""
        for name, live in self.state().items():
            if name not in arrays or arrays[name].shape != live.shape:
                raise ValueError(f"no {name!r} of shape {list(live.shape)}")
            live[...] = arrays[name]
        for group in self.groups.values():
            group.scatter()

    def update(self, gradients: dict[str, np.ndarray], share: float, batches: int = 1) -> float:
        """One update at `share` (0..1) of the peak rates; returns the norm of the gradient before clipping.

        batches: how many batches the gradients are the sum of; their mean is taken.
        """
        for group in self.groups.values():
            group.gather(gradients, batches)
        norm = self._clip()
        for kind, group in self.groups.items():
            getattr(self, f"_update_{'steps' if kind == 'steps' else 'values'}")(kind, group, share)
            group.scatter()
        return norm

    def _clip(self) -> float:
        trained = [self.groups["weights"].gradient, self.groups["biases"].gradient]
        norm = float(np.sqrt(sum(float(np.dot(g, g)) for g in trained)))
        if self.config.clip_norm and norm > self.config.clip_norm:
            for gradient in trained:
                gradient *= self.config.clip_norm / norm
        return norm

    def _update_values(self, kind: str, group: FlatGroup, share: float) -> None:
        rate = share * self.config.learning_rate
        decay = self.config.weight_decay if kind == "weights" else 0.0
        if self.config.optimizer == "sgd":
            group.gradient += decay * group.values
        else:
            group.values *= 1 - rate * decay
        group.values -= rate * self.rules[kind].direction(group.gradient)

    def _update_steps(self, kind: str, group: FlatGroup, share: float) -> None:
        change = share * self.config.step_rate * self.rules[kind].direction(group.gradient * group.values)
        group.values *= np.exp(-np.clip(change, -LARGEST_LOG_CHANGE, LARGEST_LOG_CHANGE))
