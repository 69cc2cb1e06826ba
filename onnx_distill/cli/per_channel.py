"""Options that take a number, or one for each channel: `--mean 104,117,123`, `--mean 104 117 123` and `--mean 104 --mean 117 --mean 123`."""

from __future__ import annotations

import click

OTHER_WAYS = "one, or one a channel: 104,117,123"


class Numbers(click.ParamType):
    """'104,117,123' -> (104.0, 117.0, 123.0)."""

    name = "NUMBERS"

    def convert(self, value, param, ctx):
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no number; wanted {OTHER_WAYS}.", param, ctx)


def numbers(flag: str, text: str):
    """An option whose value is every number given, in order: () where there is none."""
    flat = lambda _, __, parts: tuple(number for part in parts for number in part)  # noqa: E731
    return click.option(flag, type=Numbers(), multiple=True, callback=flat, help=text)


def joined(command: click.Command, words: list[str]) -> list[str]:
    """The words of a command line, those numbers in one word that stand one after the other behind an option of numbers: click gives
    an option so many words as it is declared with."""
    flags = {flag for parameter in command.params if isinstance(parameter.type, Numbers) for flag in parameter.opts}
    made: list[str] = []
    for word in words:
        behind = len(made) > 1 and made[-2] in flags and _is_numbers(made[-1])
        if behind and _is_numbers(word):
            made[-1] += f",{word}"
        else:
            made.append(word)
    return made


def _is_numbers(word: str) -> bool:
    try:
        return bool([float(part) for part in word.split(",")])
    except ValueError:
        return False
