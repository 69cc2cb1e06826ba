"""Is the gradient right? The runtime's gradient of a float network beside differences of its outputs, parameter by parameter.

    loss = mean(R * output)             R random, standard normal, fixed
    slope(d) = (loss(w + e d) - loss(w - e d)) / 2e  =  gradient . d            but for kinks of size e, and float32's noise / e

A fixed random sum, not the distillation loss: that one is 0, and so is its gradient, where student and teacher are one network,
and no sum of logits sees what a Softmax hides. R tells apart all outputs, and the sum is taken in float64.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_distill import _ort, runtime
from onnx_distill.gradients import differentiable
from onnx_distill.lookup import array, image_input, initializers

PROJECTION = "onnx_distill/projection"
STEPS = (
    1e-4,
    1e-3,
    1e-5,
    1e-2,
)  # of a parameter's size: kinks want small ones, float32 large ones; 1e-4 suits most networks
ROUNDS = 4  # directions; along one alone a right gradient may move the loss by less than the kinks do
RIGHT = (
    0.1  # relative difference over all directions, at the best of STEPS: 0.001 to 0.03 is seen where the gradient is right
)
JITTER = (
    1e-2  # of a parameter's size, before all else: at weights of 0, and biases that equal a Relu's bound, slopes have kinks
)
GROUP = 8  # parameters moved together, each by as much as moves the loss by the same share, so that a wrong one shows
GROUP_RIGHT = 0.1  # of one parameter's share; a group that is farther off is looked at one by one, right or not
SECONDS = 8.0  # of a spot check; the models/ teacher takes two
SEEN = 20  # times the noise: the loss has moved


class GradientCheck:
    """A float model and one batch: `gradients` (name -> array) as the training runtime computes them, and slopes without it.

    Raises what the runtime raises where it cannot build the gradient; `trainability.refuse` comes first.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        parameters: Sequence[str],
        images: np.ndarray,
        threads: int = 0,
        seed: int = 0,
        jitter: float = JITTER,
    ):
        self.images, self._random = images, np.random.default_rng(seed)
        constants = initializers(model)
        self.values = {name: array(constants[name]) for name in parameters}
        self.values = _moved(self.values, self._directions(parameters), jitter)
        model = _with_values(model, self.values)
        self._input = image_input(model).name
        self._session = runtime.open_session(_with_inputs(model, parameters), threads or None)
        runtime.check_batch(self._session, images)
        self.output = self._outputs({})
        self._projection = self._new_projection()
        self.gradients, self.trained_output = _gradients(model, parameters, images, self._projection, threads)
        self._noise = self._measure_noise()

    def _outputs(self, moved: dict[str, np.ndarray]) -> np.ndarray:
        return runtime.compute(self._session, {self._input: self.images, **self.values, **moved})[0]

    def _new_projection(self) -> np.ndarray:
        """Alike for all images, so that their slopes add up while the kinks they meet do not; a third is each image's own."""
        shared, own = (self._random.standard_normal(shape) for shape in (self.output.shape[1:], self.output.shape))
        return (shared + own / 3).astype(np.float32)

    def loss(self, moved: dict[str, np.ndarray]) -> float:
        """With the parameters in `moved` in place of their own values."""
        return float((self._projection * self._outputs(moved).astype(np.float64)).mean())

    def _measure_noise(self) -> float:
        """What float32 makes of no change at all: the loss after changes of 1e-7."""
        losses = [self.loss(_moved(self.values, self._directions(self.values), 1e-7 * k)) for k in range(4)]
        return float(np.ptp(losses)) + 1e-30

    def _directions(self, names) -> dict[str, np.ndarray]:
        """Random, each of its parameter's own size."""
        return {
            n: (_size(self.values[n]) * self._random.standard_normal(self.values[n].shape)).astype(np.float32) for n in names
        }

    def _along(self, directions: dict[str, np.ndarray]) -> dict[str, float]:
        """gradient . direction, parameter by parameter."""
        return {name: float((self.gradients[name].astype(np.float64) * d).sum()) for name, d in directions.items()}

    def _slope(self, directions: dict[str, np.ndarray], step: float) -> float:
        ends = [self.loss(_moved(self.values, directions, sign * step)) for sign in (1, -1)]
        return (ends[0] - ends[1]) / (2 * step)

    def is_finite(self, name: str) -> bool:
        return bool(np.isfinite(self.gradients[name]).all())

    def broken(self) -> list[str]:
        """Parameters whose gradient is not finite."""
        return [name for name in self.gradients if not self.is_finite(name)]

    def zero(self) -> list[str]:
        """Parameters whose gradient is 0 everywhere."""
        return [name for name, gradient in self.gradients.items() if not gradient.any()]

    def wrong(self) -> list[str]:
        """Parameters whose gradient is not the slope of the loss, those with a gradient of 0 but a slope included.

        A large network is looked at for SECONDS, in random order: what was not reached counts as right.
        """
        zero, broken = self.zero(), self.broken()
        groups = self._groups([name for name in self.values if name not in zero and name not in broken])
        end = time.monotonic() + SECONDS
        suspects = [name for group in groups if time.monotonic() < end and not self._group_is_right(group) for name in group]
        order = [suspects[i] for i in self._random.permutation(len(suspects))]
        return [name for name in [*zero, *order] if time.monotonic() < end and not self.is_right(name)]

    def _groups(self, names: list[str]) -> list[list[str]]:
        """Of parameters that move the loss by alike."""
        moves = {name: abs(move) for name, move in self._along(self._directions(names)).items()}
        order = sorted(names, key=moves.__getitem__)
        return [order[i : i + GROUP] for i in range(0, len(order), GROUP)]

    def _group_is_right(self, names: list[str]) -> bool:
        directions = [self._even(names) for _ in range(ROUNDS)]
        moves = np.array([list(self._along(direction).values()) for direction in directions])
        off = [self._slope(direction, STEPS[0]) - sum(move) for direction, move in zip(directions, moves)]
        return bool(np.linalg.norm(off) <= GROUP_RIGHT * np.linalg.norm(np.abs(moves).max(axis=1)))

    def _even(self, names: list[str]) -> dict[str, np.ndarray]:
        """Directions cut down so that each parameter moves the loss by what the least of them does."""
        directions = self._directions(names)
        moves = {name: abs(move) for name, move in self._along(directions).items()}
        return {name: d * np.float32(min(moves.values()) / max(moves[name], 1e-30)) for name, d in directions.items()}

    def error(self, name: str, enough: float = 0.0) -> float:
        """Relative difference of slopes and gradient along random directions, at the best of STEPS, or at the first that is
        at most `enough`.

        0 where neither rises above the noise; infinite where the gradient is not finite.
        """
        directions = [self._directions([name]) for _ in range(ROUNDS)]
        moves = np.array([self._along(direction)[name] for direction in directions])
        if not np.isfinite(moves).all():
            return float("inf")
        errors = []
        for step in STEPS:
            slopes = np.array([self._slope(direction, step) for direction in directions])
            largest = max(np.linalg.norm(slopes), np.linalg.norm(moves))
            if largest > SEEN * self._noise / step:
                errors.append(float(np.linalg.norm(slopes - moves) / largest))
                if errors[-1] <= enough:
                    break
        return min(errors, default=0.0)

    def is_right(self, name: str) -> bool:
        return self.error(name, RIGHT) <= RIGHT


def _size(values: np.ndarray) -> float:
    """Root mean square; 0.1 for zeros, as biases start."""
    return float(np.sqrt(np.square(values, dtype=np.float64).mean())) if values.any() else 0.1


def _moved(values: dict[str, np.ndarray], directions: dict[str, np.ndarray], step: float) -> dict[str, np.ndarray]:
    return {name: values[name] + np.float32(step) * direction for name, direction in directions.items()}


def _with_values(model: onnx.ModelProto, values: dict[str, np.ndarray]) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    constants = initializers(made)
    for name, content in values.items():
        constants[name].CopyFrom(numpy_helper.from_array(content, name))
    return made


def _with_inputs(model: onnx.ModelProto, parameters: Sequence[str]) -> onnx.ModelProto:
    """The model with its parameters as inputs."""
    made, wanted = onnx.ModelProto(), set(parameters)
    made.CopyFrom(model)
    del made.graph.initializer[:], made.graph.input[:]
    made.graph.input.extend(value for value in model.graph.input if value.name not in wanted)
    for tensor in model.graph.initializer:
        if tensor.name in wanted:
            made.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        else:
            made.graph.initializer.append(tensor)
    return made


def _gradients(model, parameters, images, projection: np.ndarray, threads: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """By the training runtime; and the model's output as it computes it."""
    output = model.graph.output[0].name
    with tempfile.TemporaryDirectory(prefix="onnx-distill-") as folder:
        add = lambda graph, name: _add_loss(graph, name, projection.ndim)  # noqa: E731
        _ort.generate_artifacts(differentiable(model, parameters), parameters, add, Path(folder), [output])
        module, state = _ort.open_module(Path(folder), threads)
        module.lazy_reset_grad()
        with _ort.errors_of("run a step"):
            _, computed = module(images, projection)
        return {name: np.array(state.parameters[name].grad) for name in parameters}, computed


def _add_loss(graph: onnx.GraphProto, output: str, rank: int) -> str:
    sizes = [f"{PROJECTION}/{axis}" for axis in range(rank)]
    graph.input.append(helper.make_tensor_value_info(PROJECTION, TensorProto.FLOAT, sizes))
    product, loss = f"{PROJECTION}/product", f"{PROJECTION}/loss"
    graph.node.append(helper.make_node("Mul", [output, PROJECTION], [product], product))
    graph.node.append(helper.make_node("ReduceMean", [product], [loss], loss, keepdims=0))
    return loss
