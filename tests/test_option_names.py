"""Configurations made from a program by the names of the command line, and shown by what was chosen."""

from __future__ import annotations

import dataclasses

import pytest

from onnx_distill.cli import main
from onnx_distill.config import DistillConfig, QuantizeConfig, TrainConfig
from onnx_distill.errors import InputError
from onnx_distill.option_names import ALIASES, spelled_out

CONFIGS = (QuantizeConfig, DistillConfig, TrainConfig)
OPTIONS = [
    (kind, field.name, flag)
    for kind in CONFIGS
    for field in dataclasses.fields(kind)
    for parameter in main.commands["run"].params
    if parameter.name == field.name
    for flag in [*parameter.opts, *parameter.secondary_opts]
    if flag.startswith("--")
]


@pytest.mark.parametrize("kind, field, flag", OPTIONS, ids=[flag for _, _, flag in OPTIONS])
def test_every_option_of_the_command_line_sets_its_field(kind, field, flag):
    usual = getattr(kind(), field)
    turned = ALIASES.get(flag.lstrip("-").replace("-", "_"), ("", lambda value: value))[1]
    for name in (flag, flag.lstrip("-"), flag.lstrip("-").replace("-", "_")):
        assert getattr(kind(**{name: turned(usual)}), field) == usual


def test_options_are_taken_by_the_names_of_the_command_line():
    assert TrainConfig(lr=0.5) == TrainConfig(learning_rate=0.5)
    assert QuantizeConfig(**{"weight-bits": 4, "--per-tensor": True}) == QuantizeConfig(weight_bits=4, per_channel=False)
    assert QuantizeConfig(asymmetric=True).symmetric is False


@pytest.mark.parametrize(
    "kind, name, said",
    [
        (TrainConfig, "epoch", "^TrainConfig has no 'epoch'; closest: 'epochs'.*; wanted one of train, epochs, "),
        (TrainConfig, "weight-bits", "^TrainConfig has no 'weight-bits'.*; wanted one of"),
        (TrainConfig, "per_tensor", "^TrainConfig has no 'per_tensor'"),
        (QuantizeConfig, "weight_bit", "closest: 'weight_bits'"),
        (DistillConfig, "temprature", "closest: 'temperature'"),
    ],
)
def test_a_name_that_there_is_not_is_answered_with_what_may_be_meant(kind, name, said):
    with pytest.raises(InputError, match=said):
        kind(**{name: 1})


def test_a_field_that_is_given_twice_is_refused():
    with pytest.raises(InputError, match="'learning_rate' and 'learning_rate' are both given|'lr' and 'learning_rate'"):
        TrainConfig(learning_rate=0.1, lr=0.2)


@pytest.mark.parametrize(
    "config", [TrainConfig(epochs=8, freeze=("a*",)), QuantizeConfig(weight_bits=4), DistillConfig()], ids=repr
)
def test_a_configuration_shows_what_was_chosen_and_can_be_made_again_from_it(config):
    assert eval(repr(config)) == config and len(repr(config)) < 60


def test_a_configuration_without_choices_is_shown_without_any():
    assert repr(TrainConfig()) == "TrainConfig()"


@pytest.mark.parametrize("kind", CONFIGS)
def test_spelled_out_is_what_a_dataclass_shows(kind):
    """Checkpoints of runs are known again by it."""
    values = {field.name: getattr(kind(), field.name) for field in dataclasses.fields(kind)}
    plain = dataclasses.make_dataclass(kind.__name__, list(values))(**values)
    assert spelled_out(kind()) == repr(plain)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_copy_with_a_field_replaced_is_made_as_of_any_dataclass(kind):
    assert dataclasses.replace(kind()) == kind()
