"""Help that is short where options are many, and whole where that is asked for."""

from __future__ import annotations

import re

import click
import pytest
from test_cli import onnx_distill

from onnx_distill.cli import main

LONG = ["run", "train"]


def listed(text: str) -> set[str]:
    """The options that begin a line of a help text."""
    return set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", text, re.MULTILINE))


def flags(name: str) -> set[str]:
    return {max(p.opts, key=len) for p in main.commands[name].params if isinstance(p, click.Option)} | {"--help"}


@pytest.mark.parametrize("name", LONG)
def test_help_all_lists_every_option_and_help_a_third(name):
    few, every = (onnx_distill(f"{name} {flag}") for flag in ("--help", "--help-all"))
    assert few.code == every.code == 0 and few.err == every.err == ""
    assert listed(every.out) == flags(name) | {"--help-all"}
    assert listed(few.out) < listed(every.out) and len(listed(few.out)) <= len(listed(every.out)) / 2
    assert {"--data", "--preset", "--overwrite", "--help-all"} <= listed(few.out)
    left = len(listed(every.out)) - len(listed(few.out))
    assert f"{left} more options: onnx-distill {name} --help-all" in few.out
    assert "more options" not in every.out


@pytest.mark.parametrize("name", sorted({*main.commands} - {*LONG}))
def test_help_of_other_commands_lists_every_option(name):
    assert listed(onnx_distill(f"{name} --help").out) == flags(name)
    assert "No such option" in onnx_distill(f"{name} --help-all").err
