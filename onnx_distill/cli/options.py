"""How an option is made: from a field of a configuration, with its default, under a heading of the help."""

from __future__ import annotations

import functools
from dataclasses import asdict

import click

from onnx_distill.cli.written import Auto
from onnx_distill.config import DistillConfig, QuantizeConfig, TrainConfig
from onnx_distill.files.replacing import check_writable

DEFAULT = {**asdict(QuantizeConfig()), **asdict(DistillConfig()), **asdict(TrainConfig())}


def options(*decorators, section: str = ""):
    """Several options as one decorator. section: the heading under which `--help` lists them, unless they have one."""

    def apply(function):
        before = len(getattr(function, "__click_params__", ()))
        made = functools.reduce(lambda f, decorate: decorate(f), reversed(decorators), function)
        for parameter in made.__click_params__[before:]:
            parameter.section = getattr(parameter, "section", section)
        return made

    return apply


def choice(flag: str, values: str, text: str):
    name = flag.lstrip("-").replace("-", "_")
    return click.option(flag, type=click.Choice(values.split("|")), default=DEFAULT[name], show_default=True, help=text)


def number(flag: str, kind: type | click.ParamType, text: str, name: str | None = None):
    name = name or flag.lstrip("-").replace("-", "_")
    return click.option(flag, name, type=kind, default=DEFAULT[name], show_default=True, help=text)


def auto(flag: str, kind: type, text: str, name: str | None = None):
    """An option whose default, auto, is None in its configuration."""
    return click.option(flag, name or flag.lstrip("-").replace("-", "_"), type=Auto(kind), help=f"{text}  [default: auto]")


def writable(_, __, path: str) -> str:
    """The path, once it is known that a file can be written there."""
    if path:
        check_writable(path)
    return path
