"""The optimisers equal their definitions written as plain loops, and leave alone what they must not touch."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_distill.config import TrainConfig
from onnx_distill.training.optimizer import CHUNK, LARGEST_LOG_CHANGE, SMALL, FlatGroup, Optimizer

SHAPES = {"w1": (4, 1, 3, 3), "w2": (5, 3), "b": (4,), "s": (4,), "t": ()}
WEIGHTS, BIASES, STEPS = ("w1", "w2"), ("b",), ("s", "t")
UPDATES = 200
FLOAT_DRIFT = UPDATES * 2.0**-23  # float32 against float64: up to one unit in the last place an update


def start(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    made = {name: rng.normal(0, 1, shape).astype(np.float32) for name, shape in SHAPES.items()}
    return {**made, **{name: np.asarray(np.abs(made[name]) + np.float32(0.01), np.float32) for name in STEPS}}


def gradients_at(number: int) -> dict[str, np.ndarray]:
    """Of very different sizes from one parameter to the next, as they are."""
    rng = np.random.default_rng([1, number])
    size = {"w1": 1e-3, "w2": 10, "b": 1, "s": 100, "t": 1e-4}
    return {name: np.asarray(rng.normal(0.3, 1, shape) * size[name], np.float32) for name, shape in SHAPES.items()}


def share_at(number: int) -> float:
    return 0.25 + 0.75 * (number % 7) / 7


def trained(config: TrainConfig, updates: int = UPDATES, units=None) -> dict[str, np.ndarray]:
    parameters = start()
    optimizer = Optimizer(parameters, WEIGHTS, BIASES, STEPS, config, units)
    for number in range(updates):
        optimizer.update(gradients_at(number), share_at(number))
    return parameters


class Adam:
    """One parameter's Adam in float64, as in the paper."""

    def __init__(self, beta2=0.999):
        self.m = self.v = self.t = 0
        self.beta2 = beta2

    def __call__(self, g):
        self.t += 1
        self.m = 0.9 * self.m + 0.1 * g
        self.v = self.beta2 * self.v + (1 - self.beta2) * g * g
        return self.m / (1 - 0.9**self.t) / (np.sqrt(self.v / (1 - self.beta2**self.t)) + 1e-8)


def expected(config: TrainConfig, updates: int = UPDATES, units=None) -> dict[str, np.ndarray]:
    """The same by a loop over parameters in float64, each parameter p learned as p / unit."""
    values = {name: v.astype(np.float64) for name, v in start().items()}
    adam, velocity = {name: Adam(0.99 if units else 0.999) for name in values}, dict.fromkeys(values, 0.0)
    u = {name: units[name].astype(np.float64) for name in SHAPES} if units else dict.fromkeys(SHAPES, 1.0)
    for number in range(updates):
        gradients = {name: g.astype(np.float64) for name, g in gradients_at(number).items()}
        norm = np.sqrt(sum(np.square(gradients[name]).sum() for name in WEIGHTS + BIASES))
        clip = min(1, config.clip_norm / norm) if config.clip_norm else 1
        rate = share_at(number) * config.learning_rate
        for name in values:
            decay = config.weight_decay if name in WEIGHTS else 0
            if name in STEPS:
                change = share_at(number) * config.step_rate * u[name] * adam[name](u[name] * gradients[name] * values[name])
                values[name] = values[name] * np.exp(-np.clip(change, -LARGEST_LOG_CHANGE, LARGEST_LOG_CHANGE))
            elif config.optimizer == "adamw":
                values[name] = values[name] * (1 - rate * decay) - rate * u[name] * adam[name](
                    u[name] * clip * gradients[name]
                )
            else:
                velocity[name] = config.momentum * velocity[name] + clip * gradients[name] + decay * values[name]
                values[name] = values[name] - rate * velocity[name]
    return values


CONFIGS = {
    "adamw": dict(learning_rate=1e-2, weight_decay=0.1),
    "adamw, clipped": dict(learning_rate=1e-2, weight_decay=0.1, clip_norm=3),
    "adamw, no decay": dict(learning_rate=1e-2, weight_decay=0, step_rate=1e-2),
    "sgd": dict(optimizer="sgd", learning_rate=1e-3, momentum=0.9, weight_decay=4e-5),
    "sgd, heavy decay": dict(optimizer="sgd", learning_rate=1e-3, momentum=0.5, weight_decay=0.5, clip_norm=1),
    "sgd, no momentum": dict(optimizer="sgd", learning_rate=1e-3, momentum=0, weight_decay=0),
}
UNITS = {  # of channels, of single values, of tensors
    "w1": np.array([0.1, 3, 0.01, 1], np.float32).reshape(4, 1, 1, 1),
    "w2": np.linspace(0.1, 2, 15, dtype=np.float32).reshape(5, 3),
    "b": np.array([1, 2, 3, 4], np.float32),
    "s": np.array(0.5, np.float32),
    "t": np.array(2, np.float32),
}


CASES = [(name, units) for name in CONFIGS for units in (None, UNITS) if units is None or "sgd" not in name]


@pytest.mark.parametrize("name, units", CASES, ids=[f"{name}{', units' if units else ''}" for name, units in CASES])
def test_many_updates_equal_a_plain_loop(name, units):
    config = TrainConfig(units="plain", **{"step_rate": 1e-3, **CONFIGS[name]})
    found, wanted = trained(config, units=units), expected(config, units=units)
    for name in SHAPES:
        np.testing.assert_allclose(found[name], wanted[name], rtol=FLOAT_DRIFT, atol=FLOAT_DRIFT * 0.1, err_msg=name)
        assert not np.allclose(found[name], start()[name], rtol=1e-4)


@pytest.mark.parametrize(
    "shape, unit", [((64, 1, 3, 3, 9), (64, 1, 1, 1, 1)), ((70, 80), (1, 80)), ((70, 80), ()), ((3, CHUNK + 7), (3, 1))]
)
def test_units_of_large_parameters_are_those_of_each_value(shape, unit):
    """Large parameters are updated in place and in chunks, as rows where a unit belongs to a row: the same as one by one."""
    rng = np.random.default_rng(3)
    w, g, u = (rng.uniform(0.5, 2, size).astype(np.float32) for size in (shape, shape, unit))
    config, found = TrainConfig(learning_rate=0.1, weight_decay=0), {"w": w.copy()}
    Optimizer(found, ("w",), (), (), config, {"w": u}).update({"w": g}, 1.0)
    np.testing.assert_allclose(found["w"], w - 0.1 * u * np.sign(g), rtol=1e-5)  # Adam's first direction is the sign


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_decay_touches_weights_alone(optimizer):
    plain, decayed = (trained(TrainConfig(optimizer=optimizer, learning_rate=1e-3, weight_decay=d), 20) for d in (0, 10))
    assert {name for name in SHAPES if not np.array_equal(plain[name], decayed[name])} == set(WEIGHTS)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_decay_without_gradient_shrinks_weights_towards_zero(optimizer):
    parameters, zero = start(), {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    before = {name: v.copy() for name, v in parameters.items()}
    config = TrainConfig(optimizer=optimizer, learning_rate=0.1, weight_decay=0.5, momentum=0)
    Optimizer(parameters, WEIGHTS, BIASES, STEPS, config).update(zero, 1.0)
    for name in SHAPES:
        np.testing.assert_allclose(parameters[name], before[name] * (0.95 if name in WEIGHTS else 1), rtol=1e-6)


def test_update_returns_the_norm_before_clipping():
    optimizer = Optimizer(start(), WEIGHTS, BIASES, STEPS, TrainConfig(clip_norm=1e-3))
    gradients = gradients_at(0)
    wanted = np.sqrt(sum(np.square(gradients[name], dtype=np.float64).sum() for name in WEIGHTS + BIASES))
    assert optimizer.update(gradients, 1.0) == pytest.approx(wanted, rel=1e-6)


def test_clip_norm_bounds_the_step_of_sgd():
    parameters = start()
    before = np.concatenate([parameters[name].ravel() for name in WEIGHTS + BIASES])
    config = TrainConfig(optimizer="sgd", learning_rate=1, momentum=0, weight_decay=0, clip_norm=0.5)
    Optimizer(parameters, WEIGHTS, BIASES, STEPS, config).update(gradients_at(0), 1.0)
    after = np.concatenate([parameters[name].ravel() for name in WEIGHTS + BIASES])
    assert np.linalg.norm(after - before) == pytest.approx(0.5, rel=1e-5)


def test_gradients_are_not_changed():
    gradients, kept = gradients_at(0), gradients_at(0)
    Optimizer(start(), WEIGHTS, BIASES, STEPS, TrainConfig(clip_norm=1e-3, optimizer="sgd", weight_decay=1)).update(
        gradients, 1.0
    )
    assert all(np.array_equal(gradients[name], kept[name]) for name in SHAPES)


# ---- steps


@pytest.mark.parametrize("size", [1e-20, 1e-4, 1, 1e6, 1e15])
def test_steps_stay_positive_whatever_the_gradient(size):
    parameters = start()
    optimizer = Optimizer(parameters, WEIGHTS, BIASES, STEPS, TrainConfig(step_rate=1e3))
    for number in range(100):
        gradients = gradients_at(number)
        gradients.update({name: gradients[name] * np.float32(size) for name in STEPS})
        optimizer.update(gradients, 1.0)
        assert all((parameters[name] > 0).all() and np.isfinite(parameters[name]).all() for name in STEPS)


def test_steps_move_by_the_same_share_whatever_their_size():
    """The law of learning a logarithm: a step 1000 times as large, its gradient 1000 times smaller, moves in proportion."""
    small, large = ({**start(), "s": np.float32([1, 2, 3, 4]) * np.float32(f)} for f in (1e-3, 1))
    for parameters, factor in ((small, 1e3), (large, 1)):
        optimizer = Optimizer(parameters, WEIGHTS, BIASES, STEPS, TrainConfig(step_rate=1e-2))
        for number in range(50):
            gradients = gradients_at(number)
            optimizer.update({**gradients, "s": gradients["s"] * np.float32(factor)}, 1.0)
    np.testing.assert_allclose(small["s"] * 1000, large["s"], rtol=50 * 2.0**-22)


def test_a_steps_first_update_changes_it_by_the_step_rate():
    parameters = start()
    before, gradients = {name: parameters[name].copy() for name in STEPS}, gradients_at(0)
    Optimizer(parameters, WEIGHTS, BIASES, STEPS, TrainConfig(step_rate=1e-3)).update(gradients, 1.0)
    for name in STEPS:
        np.testing.assert_allclose(
            parameters[name], before[name] * np.exp(-1e-3 * np.sign(gradients[name])), rtol=1e-4
        )  # Adam's epsilon


def test_one_update_changes_a_step_by_a_tenth_at_most():
    parameters = start()
    before = {name: parameters[name].copy() for name in STEPS}
    Optimizer(parameters, WEIGHTS, BIASES, STEPS, TrainConfig(step_rate=5)).update(gradients_at(0), 1.0)
    for name in STEPS:
        assert (np.abs(np.log(parameters[name] / before[name])) <= LARGEST_LOG_CHANGE * (1 + 1e-5)).all()


# ---- flat groups


def test_a_group_copies_gradients_in_and_values_out_in_place():
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float32([7]), "c": np.zeros((), np.float32)}
    views = dict(arrays)
    group = FlatGroup(arrays)
    assert np.array_equal(group.values, [0, 1, 2, 3, 4, 5, 7, 0])
    group.gather({name: array + 1 for name, array in arrays.items()})
    assert np.array_equal(group.gradient, [1, 2, 3, 4, 5, 6, 8, 1])
    group.values *= 2
    group.scatter()
    assert np.array_equal(views["a"], [[0, 2, 4], [6, 8, 10]]) and np.array_equal(views["b"], [14])


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_large_parameter_moves_as_its_pieces_would(optimizer):
    """Bit for bit, whether it is updated in place chunk by chunk or gathered with others."""
    rng, size = np.random.default_rng(0), 2 * CHUNK + 17
    values, gradients = rng.normal(0, 1, (2, 3, size)).astype(np.float32)
    whole = {"w": values[0].copy().reshape(1, -1)}
    pieces = {str(at): values[0, at : at + SMALL - 1].copy() for at in range(0, size, SMALL - 1)}
    config = TrainConfig(optimizer=optimizer, weight_decay=0.1)
    one, many = Optimizer(whole, ("w",), (), (), config), Optimizer(pieces, tuple(pieces), (), (), config)
    for gradient in gradients:
        one.update({"w": gradient.reshape(1, -1)}, 0.5, batches=2)
        many.update({name: gradient[int(name) : int(name) + SMALL - 1] for name in pieces}, 0.5, batches=2)
    assert np.array_equal(whole["w"].ravel(), np.concatenate(list(pieces.values())))
    assert not np.array_equal(whole["w"].ravel(), values[0])


def test_empty_groups_are_fine():
    parameters = {"w": np.ones((2, 2), np.float32)}
    Optimizer(parameters, ("w",), (), (), TrainConfig()).update({"w": np.ones((2, 2), np.float32)}, 1.0)
    assert (parameters["w"] < 1).all()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_threads_change_no_bit(optimizer):
    rng, size = np.random.default_rng(0), 3 * CHUNK + 17
    values, first, second = rng.normal(0, 1, (3, size)).astype(np.float32)
    ends = []
    for threads in (1, 2, 3):
        parameters = {"w": values.copy(), "b": values[:5].copy(), "s": np.abs(values[:3])}
        one = Optimizer(
            parameters, ("w",), ("b",), ("s",), TrainConfig(optimizer=optimizer, learning_rate=1e-2, threads=threads)
        )
        for gradient in (first, second):
            one.update({"w": gradient, "b": gradient[:5], "s": gradient[:3]}, 0.5)
        ends.append(parameters)
    assert all(np.array_equal(end[name], ends[0][name]) for end in ends[1:] for name in end)
