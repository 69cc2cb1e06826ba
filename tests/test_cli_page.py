"""docs/cli.md is what the help says; every command has an example in it."""

from __future__ import annotations

import re
from pathlib import Path

import click
import make_cli_page
import pytest

from onnx_distill.cli import main

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"


def words(text: str) -> str:
    """Without what versions of click set differently: line breaks, indents and the word for a range or a type."""
    return re.sub(r"\s+", " ", re.sub(r"\b(FILE|PATH|DIRECTORY|TEXT|INTEGER|FLOAT)\b( RANGE)?", "", text))


def test_page_is_what_the_help_says():
    assert words(PAGE.read_text()) == words(make_cli_page.page()), "run: make docs"


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_has_an_example(name):
    assert f"Example: onnx-distill {name} " in (main.commands[name].help or "")


@pytest.mark.parametrize("name", sorted(main.commands))
def test_examples_can_be_copied_from_a_narrow_terminal(name):
    """No line of one is broken anew where it is wider than the terminal: that would be another command."""
    command = main.commands[name]
    text = command.help or ""
    example = text[text.index("Example: ") :].partition("\n\n")[0]
    shown = command.get_help(click.Context(command, info_name=name, terminal_width=60)).splitlines()
    assert {line.strip() for line in example.splitlines()} <= {line.strip() for line in shown}
