"""Rules of bits: what is read, what is refused, which of several counts."""

from __future__ import annotations

import pytest

from onnx_distill.bits import ACTIVATION, WEIGHT, Rule, chosen_bits, exact_rule, parse_rule
from onnx_distill.config import QuantizeConfig
from onnx_distill.errors import InputError


@pytest.mark.parametrize(
    "text, rule",
    [
        ("conv1=W4A8", Rule("conv1", 4, 8)),
        ("block_3/*=W3", Rule("block_3/*", 3, None)),
        ("a=b=A6", Rule("a=b", None, 6)),
        ("*=W8A2", Rule("*", 8, 2)),
    ],
)
def test_a_rule_is_read(text, rule):
    assert parse_rule(text) == rule


@pytest.mark.parametrize(
    "text", ["conv1", "=W4", "conv1=", "conv1=W9", "conv1=W1", "conv1=A16", "conv1=4", "conv1=A4W4", "conv1=w4"]
)
def test_another_text_is_refused_when_the_configuration_is_made(text):
    with pytest.raises(InputError, match="cannot be read; wanted NAME=W4A8"):
        QuantizeConfig(bits=(text,))


def test_the_last_rule_that_matches_and_says_something_counts():
    rules = [parse_rule(text) for text in ("*=W4A4", "conv*=W6", "conv1=A3")]
    bits = [chosen_bits([name], kind, rules, 8) for name in ("conv1", "conv2", "fc") for kind in (WEIGHT, ACTIVATION)]
    assert bits == [6, 3, 6, 4, 4, 4]


def test_a_layer_that_no_rule_matches_keeps_its_bits():
    assert chosen_bits(["fc"], WEIGHT, [parse_rule("conv*=W4")], 7) == 7


def test_a_layer_is_known_by_each_of_its_names():
    assert chosen_bits(["relu1", "conv1"], ACTIVATION, [parse_rule("conv1=A5")], 8) == 5


@pytest.mark.parametrize("name", ["conv1", "block[0]/conv", "what*is?this", "a=b", "[", "]"])
def test_an_exact_rule_matches_its_own_name_alone(name):
    rule = parse_rule(exact_rule(name, WEIGHT, 4))
    assert rule.matches(name) and rule.weight == 4 and rule.activation is None
    assert not any(rule.matches(other) for other in (f"{name}x", "block0/conv", "whatXisYthis", ""))


def test_activations_that_the_target_cannot_run_are_refused():
    assert QuantizeConfig(target="tensorrt", bits=("conv1=W4A8",)).bits == ("conv1=W4A8",)
    with pytest.raises(InputError, match="wanted 8 for tensorrt"):
        QuantizeConfig(target="tensorrt", bits=("conv1=A4",))
