"""Optimisers over flat arrays: AdamW (Loshchilov and Hutter 2019), SGD with momentum, and Adam on the logarithm of the steps.

Quantization steps differ by orders of magnitude and must stay positive, so what is learned is their logarithm: an update
of 0.001 changes a step by 0.1 %, whatever its size. They always use Adam, for their gradients differ as much.
"""

from __future__ import annotations

import functools
import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Iterator, Tuple

import numpy as np

from onnx_distill.config import TrainConfig

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # the usual ones
LARGEST_LOG_CHANGE = 0.1  # of a step in one update: 10 %
CHUNK = (
    131072  # values updated at a time: they stay in a cache, and threads seldom meet at Python's lock (docs/experiments.md)
)
MOST_THREADS = 4  # memory and Python's lock, not cores, are the limit; each has a megabyte to scribble on. Two were measured
SMALL = 4096  # values; arrays below go together, for a call of numpy costs as much as a thousand of its additions

Chunk = Tuple[slice, np.ndarray, np.ndarray]  # part of its group, values, gradient


class FlatGroup:
    """Parameters as one array `values`; `gather` and `scatter` copy gradients in and values out."""

    def __init__(self, parameters: dict[str, np.ndarray]):
        self.parameters = parameters
        sizes = [array.size for array in parameters.values()]
        ends = np.cumsum([0, *sizes])
        self.slices = {name: slice(a, b) for name, a, b in zip(parameters, ends[:-1], ends[1:])}
        self.values = np.zeros(ends[-1], np.float32)
        self.gradient = np.zeros_like(self.values)
        self.read()

    def read(self) -> None:
        for name, part in self.slices.items():
            self.values[part] = self.parameters[name].ravel()

    def gather(self, gradients: dict[str, np.ndarray]) -> None:
        for name, part in self.slices.items():
            self.gradient[part] = gradients[name].ravel()

    def scatter(self) -> None:
        for name, part in self.slices.items():
            array = self.parameters[name]
            array[...] = self.values[part].reshape(array.shape)


class Group:
    """Parameters of one kind: large ones are updated where they are, small ones as one flat array."""

    def __init__(self, parameters: dict[str, np.ndarray]):
        self.parameters = parameters
        self.large = {name: array.reshape(-1) for name, array in parameters.items() if array.size >= SMALL}
        self.small = FlatGroup({name: array for name, array in parameters.items() if name not in self.large})
        self.size = sum(array.size for array in parameters.values())

    def pairs(self, gradients: dict[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """(values, gradient) as flat arrays, the same parts in the same order at every call; `small.scatter` ends an update."""
        self.small.gather(gradients)
        return [
            (self.small.values, self.small.gradient),
            *((values, gradients[name].reshape(-1)) for name, values in self.large.items()),
        ]


class Adam:
    """Adam's direction m / (sqrt(v) + eps), bias corrected; state is float32 of the group's length.

    What is kept are the sums M = b1 M + g and V = b2 V + g^2, so that m = (1 - b1) M and v = (1 - b2) V: their factors meet in
    one number, and an update takes two thirds of the passes over memory.
    """

    def __init__(self, size: int):
        self.sum, self.squares, self.count = np.zeros(size, np.float32), np.zeros(size, np.float32), np.zeros((), np.int64)

    def state(self) -> dict[str, np.ndarray]:
        """Live arrays that a checkpoint needs besides the parameters."""
        return {"sum": self.sum, "squares": self.squares, "count": self.count}

    def begin(self) -> None:
        """Before the directions of one update are asked for, part by part."""
        self.count += 1
        root = math.sqrt((1 - BETA2) / (1 - BETA2 ** int(self.count)))  # sqrt(v / its share) = root * sqrt(V)
        self._epsilon = EPSILON / root
        self._scale = (1 - BETA1) / (1 - BETA1 ** int(self.count)) / root

    def direction(self, part: slice, gradient: np.ndarray, scratch: np.ndarray, rate: float) -> np.ndarray:
        """rate times the direction of the parameters at `part` of the group, in scratch, which is not where the gradient is."""
        sums, squares = self.sum[part], self.squares[part]
        sums *= BETA1
        sums += gradient
        squares *= BETA2
        squares += np.square(gradient, out=scratch)
        np.sqrt(squares, out=scratch)
        scratch += self._epsilon
        np.divide(sums, scratch, out=scratch)
        scratch *= rate * self._scale
        return scratch


class Momentum:
    """SGD's direction: the decaying sum of gradients, as in the seed's demo (velocity = momentum * velocity + gradient)."""

    def __init__(self, size: int, momentum: float):
        self.velocity, self.momentum = np.zeros(size, np.float32), momentum

    def state(self) -> dict[str, np.ndarray]:
        return {"velocity": self.velocity}

    def begin(self) -> None:
        pass

    def direction(self, part: slice, gradient: np.ndarray, scratch: np.ndarray, rate: float) -> np.ndarray:
        velocity = self.velocity[part]
        velocity *= self.momentum
        velocity += gradient
        return np.multiply(velocity, rate, out=scratch)


class Optimizer:
    """Updates a step's parameters in place from its gradients.

    weights are decayed (decoupled in adamw, added to the gradient in sgd), biases and steps are not.
    """

    def __init__(self, parameters: dict[str, np.ndarray], weights, biases, steps, config: TrainConfig):
        """config.threads of them share the work, but at most MOST_THREADS; 0: one a core."""
        self.config = config
        self.groups = {
            kind: Group({name: parameters[name] for name in chosen})
            for kind, chosen in (("weights", weights), ("biases", biases), ("steps", steps))
        }
        self.rules = {kind: self._rule(kind, group.size) for kind, group in self.groups.items()}
        threads = min(config.threads or os.cpu_count() or 1, MOST_THREADS)
        self._scratch = [np.empty((2, CHUNK), np.float32) for _ in range(threads)]
        self._pool = ThreadPoolExecutor(max(1, threads - 1))  # starts a thread when there is work for it

    def _rule(self, kind: str, size: int):
        return Adam(size) if kind == "steps" or self.config.optimizer == "adamw" else Momentum(size, self.config.momentum)

    def state(self) -> dict[str, np.ndarray]:
        """Live arrays by name, the parameters among them; writing into them and `restore` continue another run."""
        live = {f"parameters/{name}": array for group in self.groups.values() for name, array in group.parameters.items()}
        return {**live, **{f"{kind}/{name}": a for kind, rule in self.rules.items() for name, a in rule.state().items()}}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Continue from what state() gave. Raises ValueError where it is of other parameters."""
        for name, live in self.state().items():
            if name not in arrays or arrays[name].shape != live.shape:
                raise ValueError(f"no {name!r} of shape {list(live.shape)}")
            live[...] = arrays[name]
        for group in self.groups.values():
            group.small.read()

    def update(self, gradients: dict[str, np.ndarray], share: float, batches: int = 1) -> float | None:
        """One update at `share` (0..1) of the peak rates; returns the norm of the gradient before clipping, None without clipping.

        batches: how many batches the gradients are the sum of; their mean is taken.
        """
        pairs = {kind: group.pairs(gradients) for kind, group in self.groups.items()}
        norm = None  # a tenth of an update, so only where it is asked for
        if self.config.clip_norm:
            norm = _norm([gradient for kind in ("weights", "biases") for _, gradient in pairs[kind]]) / batches
        clip = self.config.clip_norm / norm if norm and norm > self.config.clip_norm else 1.0
        for kind, group in self.groups.items():
            self.rules[kind].begin()
            change = self._changed_step if kind == "steps" else self._changed_value
            scale = (1.0 if kind == "steps" else clip) / batches
            self._each(list(_chunks(pairs[kind])), functools.partial(change, kind, share, scale))
            group.small.scatter()
        return norm

    def _each(self, chunks: list[Chunk], change: Callable[..., None]) -> None:
        """change(part, values, gradient, two scratch arrays) for every chunk. Each is its own, so threads change no result."""
        count = min(len(self._scratch), len(chunks))

        def work(worker: int) -> None:
            for part, values, gradient in chunks[worker::count]:
                change(part, values, gradient, *self._scratch[worker][:, : len(values)])

        if count < 2:
            return work(0) if count else None
        others = [self._pool.submit(work, worker) for worker in range(1, count)]
        work(0)
        for other in others:
            other.result()

    def _changed_value(self, kind, share, scale, part, values, gradient, own, scratch) -> None:
        rate = share * self.config.learning_rate
        decay = self.config.weight_decay if kind == "weights" else 0.0
        if scale != 1:
            gradient = np.multiply(gradient, scale, out=own)
        if decay and self.config.optimizer == "sgd":
            gradient = np.add(gradient, np.multiply(values, decay, out=scratch), out=own)
        elif decay:
            values *= 1 - rate * decay
        values -= self.rules[kind].direction(part, gradient, scratch, rate)

    def _changed_step(self, kind, share, scale, part, values, gradient, own, scratch) -> None:
        np.multiply(gradient, scale, out=own)
        own *= values
        change = self.rules[kind].direction(part, own, scratch, share * self.config.step_rate)
        values *= np.exp(-np.clip(change, -LARGEST_LOG_CHANGE, LARGEST_LOG_CHANGE))


def _norm(gradients: list[np.ndarray]) -> float:
    return float(np.sqrt(sum(float(np.dot(g, g)) for g in gradients)))


def _chunks(pairs: list[tuple[np.ndarray, np.ndarray]]) -> Iterator[Chunk]:
    """(part of the group, values, gradient), at most CHUNK long."""
    begin = 0
    for values, gradient in pairs:
        for at in range(0, len(values), CHUNK):
            end = min(at + CHUNK, len(values))
            yield slice(begin + at, begin + end), values[at:end], gradient[at:end]
        begin += len(values)
