"""Help with its options under headings: a command of sixty options is read by what one looks for."""

from __future__ import annotations

import functools
from collections.abc import Collection

import click

from onnx_distill.cli.per_channel import joined

ALL = "onnx_distill.help_all"  # in the context of a command whose help is to list every option
FIRST, LAST = "Options", "General"  # of options that no section was given; of those that every command has


class Command(click.Command):
    """Lists each option under its `section`, sections in the order of their first option. Reads several numbers behind an option of numbers.

    few: names of the options that --help lists, where --help-all lists the rest; () for all.
    """

    def __init__(self, *args, few: Collection[str] = (), **kwargs):
        super().__init__(*args, **kwargs)
        self.few = few

    def get_params(self, ctx):
        params = super().get_params(ctx)
        return [*params, _help_all()] if self.few else params

    def parse_args(self, ctx, args):
        return super().parse_args(ctx, joined(self, args))

    def format_options(self, ctx, formatter):
        found: dict[str, list] = {FIRST: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and not isinstance(parameter, click.Argument) and self._is_shown(parameter, ctx):
                found.setdefault(_section(parameter), []).append(record)
        last = found.pop(LAST, [])
        for name, records in [*found.items(), (LAST, last)]:
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)
        if self.few and ALL not in ctx.meta:
            left = sum(
                not self._is_shown(parameter, ctx) for parameter in self.params if isinstance(parameter, click.Option)
            )
            formatter.write(f"\n{left} more options: {ctx.command_path} --help-all\n")

    def _is_shown(self, parameter: click.Parameter, ctx: click.Context) -> bool:
        return (
            not self.few
            or ALL in ctx.meta
            or parameter.name in self.few
            or bool({"--help", "--help-all"} & {*parameter.opts})
        )


command = functools.partial(click.command, cls=Command)


def _help_all() -> click.Option:
    def show(ctx: click.Context, _, given: bool) -> None:
        if given and not ctx.resilient_parsing:
            ctx.meta[ALL] = True
            click.echo(ctx.get_help(), color=ctx.color)
            ctx.exit()

    text = "Show this message with every option and exit."
    return click.Option(["--help-all"], is_flag=True, is_eager=True, expose_value=False, callback=show, help=text)


def _section(parameter: click.Parameter) -> str:
    return LAST if {"--help", "--help-all"} & {*parameter.opts} else getattr(parameter, "section", "") or FIRST
