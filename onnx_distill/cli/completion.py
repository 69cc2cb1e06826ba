"""Shell completion: the script that makes a shell complete commands, options and file names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from onnx_distill.cli.sections import command

PROGRAM = "onnx-distill"
SHELLS = ("bash", "zsh", "fish")


@command(short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx, shell):
    """Print the script that completes commands, options and file names in a shell.

    \b
    Example: onnx-distill completion bash >> ~/.bashrc
      zsh:   onnx-distill completion zsh >> ~/.zshrc
      fish:  onnx-distill completion fish > ~/.config/fish/completions/onnx-distill.fish
    """
    variable = f"_{PROGRAM.replace('-', '_').upper()}_COMPLETE"
    made = get_completion_class(shell)
    assert made is not None  # click has all of SHELLS
    click.echo(made(ctx.find_root().command, {}, PROGRAM, variable).source())
