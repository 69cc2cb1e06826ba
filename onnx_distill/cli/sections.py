"""Help with its options under headings: a command of sixty options is read by what one looks for."""

from __future__ import annotations

import functools

import click

from onnx_distill.cli.numbers import joined

FIRST, LAST = "Options", "General"  # of options that no section was given; of those that every command has


class Command(click.Command):
    """Lists each option under its `section`, sections in the order of their first option. Reads several numbers behind an option of numbers."""

    def parse_args(self, ctx, args):
        return super().parse_args(ctx, joined(self, args))

    def format_options(self, ctx, formatter):
        found: dict[str, list] = {FIRST: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and not isinstance(parameter, click.Argument):
                found.setdefault(_section(parameter), []).append(record)
        last = found.pop(LAST, [])
        for name, records in [*found.items(), (LAST, last)]:
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)


command = functools.partial(click.command, cls=Command)


def _section(parameter: click.Parameter) -> str:
    return LAST if "--help" in parameter.opts else getattr(parameter, "section", "") or FIRST
