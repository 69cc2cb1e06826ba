"""Optimisers over flat arrays: AdamW (Loshchilov and Hutter 2019), SGD with momentum, and Adam on the logarithm of the steps.

Quantization steps differ by orders of magnitude and must stay positive, so what is learned is their logarithm: an update
of 0.001 changes a step by 0.1 %, whatever its size. They always use Adam, for their gradients differ as much.

With units (trainable/units.py) every parameter p is learned as p / unit: its gradient is unit * g, its change unit * direction.
"""

from __future__ import annotations

import functools
import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Iterator, Mapping, Optional, Tuple

import numpy as np

from onnx_distill.config import TrainConfig

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # the usual ones
SHORT_BETA2 = 0.99  # with units: trainings of hundreds of updates, whose gradients shrink on the way (docs/experiments.md)
LARGEST_LOG_CHANGE = 0.1  # of a step in one update: 10 %
CHUNK = (
    131072  # values updated at a time: they stay in a cache, and threads seldom meet at Python's lock (docs/experiments.md)
)
MOST_THREADS = 4  # memory and Python's lock, not cores, are the limit; each has a megabyte to scribble on. Two were measured
SMALL = 4096  # values; arrays below go together, for a call of numpy costs as much as a thousand of its additions

Unit = Optional[np.ndarray]  # None: 1
Chunk = Tuple[slice, np.ndarray, np.ndarray, Unit]  # part of its group, values, gradient, and what broadcasts against them


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

    def __init__(self, parameters: dict[str, np.ndarray], units: Optional[Mapping[str, np.ndarray]] = None):
        self.parameters = parameters
        self.large = {name: array.reshape(-1) for name, array in parameters.items() if array.size >= SMALL}
        self.small = FlatGroup({name: array for name, array in parameters.items() if name not in self.large})
        self.size = sum(array.size for array in parameters.values())
        self._units = self._flat_units(units) if units is not None else [None for _ in range(1 + len(self.large))]

    def _flat_units(self, units: Mapping[str, np.ndarray]) -> list[Unit]:
        """One for the small parameters together, then one for each large one, in their order."""
        small = [np.broadcast_to(units[name], array.shape).ravel() for name, array in self.small.parameters.items()]
        large = [_unit_of(units[name], self.parameters[name].shape) for name in self.large]
        return [np.concatenate([*small, np.zeros(0)]).astype(np.float32), *large]

    def parts(self, gradients: dict[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray, Unit]]:
        """(values, gradient, unit) as flat arrays, the same parts in the same order at every call; `small.scatter` ends an update."""
        self.small.gather(gradients)
        pairs = [
            (self.small.values, self.small.gradient),
            *((values, gradients[name].reshape(-1)) for name, values in self.large.items()),
        ]
        return [(values, gradient, unit) for (values, gradient), unit in zip(pairs, self._units)]


def _unit_of(unit: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[1] for one number; a column [rows, 1] where it differs along the first axis alone, which costs no pass over memory; or one a value."""
    if unit.size == 1:
        return unit.reshape(1)
    if unit.ndim == len(shape) and unit.shape[0] == unit.size and math.prod(shape[1:]) <= CHUNK:
        return unit.reshape(-1, 1)
    return np.broadcast_to(unit, shape).reshape(-1)


class Adam:
    """Adam's direction m / (sqrt(v) + eps), bias corrected; state is float32 of the group's length.

    What is kept are the sums M = b1 M + g and V = b2 V + g^2, so that m = (1 - b1) M and v = (1 - b2) V: their factors meet in
    one number, and an update takes two thirds of the passes over memory.
    """

    def __init__(self, size: int, beta2: float = BETA2):
        self.beta2 = beta2
        self.sum, self.squares, self.count = np.zeros(size, np.float32), np.zeros(size, np.float32), np.zeros((), np.int64)

    def state(self) -> dict[str, np.ndarray]:
        """Live arrays that a checkpoint needs besides the parameters."""
        return {"sum": self.sum, "squares": self.squares, "count": self.count}

    def begin(self) -> None:
        """Before the directions of one update are asked for, part by part."""
        self.count += 1
        root = math.sqrt((1 - self.beta2) / (1 - self.beta2 ** int(self.count)))  # sqrt(v / its share) = root * sqrt(V)
        self._epsilon = EPSILON / root
        self._scale = (1 - BETA1) / (1 - BETA1 ** int(self.count)) / root

    def direction(self, part: slice, gradient: np.ndarray, scratch: np.ndarray, rate: float) -> np.ndarray:
        """rate times the direction of the parameters at `part` of the group, in scratch, which is not where the gradient is."""
        sums, squares = (array[part].reshape(gradient.shape) for array in (self.sum, self.squares))
        sums *= BETA1
        sums += gradient
        squares *= self.beta2
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
        velocity = self.velocity[part].reshape(gradient.shape)
        velocity *= self.momentum
        velocity += gradient
        return np.multiply(velocity, rate, out=scratch)


class Optimizer:
    """Updates a step's parameters in place from its gradients.

    weights are decayed (decoupled in adamw, added to the gradient in sgd), biases and steps are not.
    """

    def __init__(
        self,
        parameters: dict[str, np.ndarray],
        weights,
        biases,
        steps,
        config: TrainConfig,
        units: Optional[Mapping[str, np.ndarray]] = None,
    ):
        """units: of each parameter, float32 that broadcasts against it, those of steps relative to the step; None: 1 throughout.

        config.threads share the work, but at most MOST_THREADS; 0: one a core.
        """
        self.config, self.plain = config, units is None
        self.groups = {
            kind: Group({name: parameters[name] for name in chosen}, units)
            for kind, chosen in (("weights", weights), ("biases", biases), ("steps", steps))
        }
        self.rules = {kind: self._rule(kind, group.size) for kind, group in self.groups.items()}
        threads = min(config.threads or os.cpu_count() or 1, MOST_THREADS)
        self._scratch = [np.empty((2, CHUNK), np.float32) for _ in range(threads)]
        self._pool = ThreadPoolExecutor(max(1, threads - 1))  # starts a thread when there is work for it

    def _rule(self, kind: str, size: int):
        if kind == "steps" or self.config.optimizer == "adamw":
            return Adam(size, BETA2 if self.plain else SHORT_BETA2)
        return Momentum(size, self.config.momentum)

    def state(self) -> dict[str, np.ndarray]:
        """Live arrays by name, the parameters among them; writing into them and `restore` continue another run."""
        live = {f"parameters/{name}": array for group in self.groups.values() for name, array in group.parameters.items()}
        return {**live, **{f"{kind}/{name}": a for kind, rule in self.rules.items() for name, a in rule.state().items()}}

    def begin_again(self, values: Mapping[str, np.ndarray]) -> None:
        """As before the first update, with these values of the parameters."""
        for name, live in self.state().items():
            group, _, member = name.partition("/")
            live[...] = values[member] if group == "parameters" else 0
        for each in self.groups.values():
            each.small.read()

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
        parts = {kind: group.parts(gradients) for kind, group in self.groups.items()}
        norm = None  # a tenth of an update, so only where it is asked for
        if self.config.clip_norm:
            norm = _norm([gradient for kind in ("weights", "biases") for _, gradient, _ in parts[kind]]) / batches
        clip = self.config.clip_norm / norm if norm and norm > self.config.clip_norm else 1.0
        for kind, group in self.groups.items():
            self.rules[kind].begin()
            change = self._changed_step if kind == "steps" else self._changed_value
            scale = (1.0 if kind == "steps" else clip) / batches
            self._each(list(_chunks(parts[kind])), functools.partial(change, kind, share, scale))
            group.small.scatter()
        return norm

    def _each(self, chunks: list[Chunk], change: Callable[..., None]) -> None:
        """change(part, values, gradient, unit, two scratch arrays) for every chunk. Each is its own, so threads change no result."""
        count = min(len(self._scratch), len(chunks))

        def work(worker: int) -> None:
            for part, values, gradient, unit in chunks[worker::count]:
                own, scratch = (array[: values.size].reshape(values.shape) for array in self._scratch[worker])
                change(part, values, gradient, unit, own, scratch)

        if count < 2:
            return work(0) if count else None
        others = [self._pool.submit(work, worker) for worker in range(1, count)]
        work(0)
        for other in others:
            other.result()

    def _changed_value(self, kind, share, scale, part, values, gradient, unit, own, scratch) -> None:
        rate = share * self.config.peak_rate
        decay = self.config.weight_decay if kind == "weights" else 0.0
        if scale != 1:
            gradient = np.multiply(gradient, scale, out=own)
        if decay and self.config.optimizer == "sgd":
            gradient = np.add(gradient, np.multiply(values, decay, out=scratch), out=own)
        elif decay:
            values *= 1 - rate * decay
        if unit is not None:
            gradient = np.multiply(gradient, unit, out=own)
        change = self.rules[kind].direction(part, gradient, scratch, rate)
        if unit is not None:
            change *= unit
        values -= change

    def _changed_step(self, kind, share, scale, part, values, gradient, unit, own, scratch) -> None:
        np.multiply(gradient, scale, out=own)
        own *= values
        if unit is not None:
            own *= unit
        change = self.rules[kind].direction(part, own, scratch, share * self.config.peak_step_rate)
        if unit is not None:
            change *= unit
        values *= np.exp(-np.clip(change, -LARGEST_LOG_CHANGE, LARGEST_LOG_CHANGE))


def _norm(gradients: list[np.ndarray]) -> float:
    return float(np.sqrt(sum(float(np.dot(g, g)) for g in gradients)))


def _chunks(parts: list[tuple[np.ndarray, np.ndarray, Unit]]) -> Iterator[Chunk]:
    """(part of the group, values, gradient, unit), at most CHUNK values; as rows where each row has a unit of its own."""
    begin = 0
    for values, gradient, unit in parts:
        columns = values.size // len(unit) if unit is not None and unit.ndim == 2 else 1
        whole = CHUNK // columns * columns
        for at in range(0, len(values), whole):
            end = min(at + whole, len(values))
            here, there, own = values[at:end], gradient[at:end], unit
            if own is not None and own.size > 1:
                own = own[at // columns : end // columns]
                here, there = (array.reshape(-1, *own.shape[1:] and (columns,)) for array in (here, there))
            yield slice(begin + at, begin + end), here, there, own
        begin += len(values)
