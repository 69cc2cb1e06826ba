"""Every choice outside its range is an InputError that says what was found and what was wanted."""

from __future__ import annotations

import dataclasses
import math

import pytest

from onnx_distill.config import DistillConfig, QuantizeConfig, TrainConfig
from onnx_distill.errors import InputError

NAN, INF = math.nan, math.inf
WRONG = [
    *[
        (QuantizeConfig, name, value, f"^{name} is {value}; wanted 2 to 8")
        for name in ("weight_bits", "activation_bits")
        for value in (1, 9, 0, -4)
    ],
    *[(QuantizeConfig, "edge_bits", value, f"^edge_bits is {value}; wanted 2 to 8, or 0 for none") for value in (1, 9, -1)],
    (
        QuantizeConfig,
        "calibration_method",
        "max",
        "^calibration_method is 'max'; wanted auto | minmax | percentile | mse | entropy",
    ),
    *[
        (QuantizeConfig, "percentile", value, f"^percentile is {value}; wanted above 50 and at most 100")
        for value in (50, 100.1, NAN)
    ],
    *[(DistillConfig, "temperature", value, f"^temperature is {value}; wanted above 0") for value in (0, -1, NAN, INF)],
    *[(DistillConfig, "alpha", value, f"^alpha is {value}; wanted 0 to 1") for value in (1.5, -0.1, NAN)],
    (DistillConfig, "kl", "backward", r"^kl is 'backward'; wanted forward \| reverse"),
    *[(TrainConfig, "epochs", value, f"^epochs is {value}; wanted above 0") for value in (0, -1, NAN, INF)],
    *[(TrainConfig, "batch_size", value, f"^batch_size is {value}; wanted 1 or more") for value in (0, -64)],
    *[(TrainConfig, "learning_rate", value, f"^lr is {value}; wanted above 0") for value in (0, -1e-3, NAN, INF)],
    *[(TrainConfig, "step_rate", value, f"^step_rate is {value}; wanted 0 or more") for value in (-1, NAN, INF)],
    (TrainConfig, "schedule", "step", r"^schedule is 'step'; wanted constant \| linear \| cosine"),
    *[(TrainConfig, "warmup", value, f"^warmup is {value}; wanted at least 0 and below 1") for value in (-0.1, 1, NAN)],
    (TrainConfig, "optimizer", "adam", r"^optimizer is 'adam'; wanted adamw \| sgd"),
    *[(TrainConfig, "momentum", value, f"^momentum is {value}; wanted at least 0 and below 1") for value in (-0.1, 1, NAN)],
    *[(TrainConfig, "weight_decay", value, f"^weight_decay is {value}; wanted 0 or more") for value in (-1, NAN, INF)],
    *[(TrainConfig, "clip_norm", value, f"^clip_norm is {value}; wanted 0 or more") for value in (-1, NAN)],
    (TrainConfig, "learn_steps", "activations", r"^learn_steps is 'activations'; wanted none \| weights \| all"),
    (TrainConfig, "shift", -1, "^shift is -1; wanted 0 or more"),
    (TrainConfig, "seed", -1, "^seed is -1; wanted 0 or more"),
    (TrainConfig, "threads", -1, "^threads is -1; wanted 0 or more"),
]


@pytest.mark.parametrize("kind, name, value, message", WRONG, ids=[f"{name}={value}" for _, name, value, _ in WRONG])
def test_a_value_outside_its_range_is_an_input_error(kind, name, value, message):
    with pytest.raises(InputError, match=message):
        kind(**{name: value})


ENDS = [
    *[(QuantizeConfig, name, value) for name in ("weight_bits", "activation_bits", "edge_bits") for value in (2, 8)],
    (QuantizeConfig, "edge_bits", 0),
    (QuantizeConfig, "percentile", 100),
    *[(DistillConfig, "alpha", value) for value in (0, 1)],
    (DistillConfig, "temperature", 0.01),
    (TrainConfig, "batch_size", 1),
    (TrainConfig, "epochs", 0.01),
    (TrainConfig, "step_rate", 0),
    *[(TrainConfig, "warmup", value) for value in (0, 0.99)],
    *[(TrainConfig, name, 0) for name in ("momentum", "weight_decay", "clip_norm", "shift", "seed", "threads")],
]


@pytest.mark.parametrize("kind, name, value", ENDS, ids=[f"{name}={value}" for _, name, value in ENDS])
def test_the_ends_of_the_ranges_are_accepted(kind, name, value):
    assert getattr(kind(**{name: value}), name) == value


def test_the_defaults_of_the_loss_are_those_of_the_paper():
    assert DistillConfig().of_images(labelled=True) == DistillConfig(temperature=20.0, alpha=0.9, kl="forward")


def test_without_labels_the_teacher_alone_is_learned_from_unless_alpha_is_chosen():
    assert DistillConfig().of_images(labelled=False).alpha == 1
    assert DistillConfig(alpha=0.5).of_images(labelled=False).alpha == 0.5


@pytest.mark.parametrize("kind", [QuantizeConfig, DistillConfig, TrainConfig])
def test_choices_are_frozen(kind):
    name = dataclasses.fields(kind)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError, match=f"cannot assign to field '{name}'"):
        setattr(kind(), name, 1)


@pytest.mark.parametrize(
    "config, bits, rate",
    [
        (TrainConfig(), 8, 0.01),
        (TrainConfig(), 4, 0.01),
        (TrainConfig(), 3, 0.02),
        (TrainConfig(learning_rate=0.5), 2, 0.5),
        (TrainConfig(units="plain"), 2, 1e-3),
        (TrainConfig(optimizer="sgd"), 2, 1e-2),
    ],
)
def test_the_usual_rate_is_that_of_the_units_and_in_natural_ones_of_the_bits(config, bits, rate):
    assert config.for_student(bits, kl=0.5, images=50_000).peak_rate == rate


@pytest.mark.parametrize(
    "kl, rate", [(0.05, 0.01), (0.02, 0.004), (0.0123, 0.0025), (0.001, 0.001), (0, 0.001), (math.nan, 0.01)]
)
def test_a_student_that_begins_close_to_its_teacher_is_trained_gently(kl, rate):
    assert TrainConfig().for_student(4, kl, 50_000).peak_rate == rate
    for chosen in (TrainConfig(learning_rate=0.5), TrainConfig(units="plain"), TrainConfig(optimizer="sgd")):
        assert chosen.for_student(4, kl, 64).peak_rate == chosen.peak_rate


@pytest.mark.parametrize("images, rate", [(60_000, 0.01), (10_000, 0.01), (2_500, 0.005), (625, 0.0025), (64, 0.001)])
def test_a_quarter_of_the_images_is_learned_from_at_half_the_rate(images, rate):
    assert TrainConfig().for_student(4, 0.05, images).peak_rate == rate


def test_steps_share_the_rate_of_values_in_natural_units_unless_theirs_is_chosen():
    assert TrainConfig(learning_rate=0.5).peak_step_rate == 0.5 and TrainConfig(step_rate=0.1).peak_step_rate == 0.1
    assert TrainConfig(units="plain", learning_rate=0.5).peak_step_rate == 1e-3


def test_natural_units_want_adamw():
    with pytest.raises(InputError, match="^the optimizer is sgd and units are natural; wanted adamw"):
        TrainConfig(optimizer="sgd", units="natural")
