"""docs/cli.md from the help of the commands: python scripts/make_cli_page.py > docs/cli.md"""

from __future__ import annotations

import click

from onnx_distill.cli import main
from onnx_distill.cli.sections import ALL

WIDTH = 110
HEAD = """# Commands

Made from the help texts by scripts/make_cli_page.py; `onnx-distill COMMAND --help` says the same.

- **Output.** Results go to stdout, as text or with `--json`; all else goes to stderr: stages, a bar on a terminal, or where there is none
  a line now and then (after 10 seconds, later every 5 minutes). `--quiet` leaves warnings and errors, `--verbose` adds what was read and
  how long each part took. There are no colours. A mistake is one line that says what was found, what was wanted and what to do, and exit
  code 2; exit code 1 is a result that was asked for and is not good (`verify`, a training that diverged).
- **Configuration.** Every option and argument of a command may stand in a file, `--config FILE`, under its name on the command line:
  YAML, TOML or JSON, `batch-size: 32` or `batch_size: 32`, `flip: true`, `exclude: [stem, block_3/*]`. The command line wins. `train` and `run`
  write all of theirs to config.yaml in the run folder, and `onnx-distill train --config run/config.yaml -o again` repeats the run, to the same bytes.
- **Completion.** `onnx-distill completion bash >> ~/.bashrc` (or `zsh >> ~/.zshrc`, or `fish > ~/.config/fish/completions/onnx-distill.fish`)
  completes commands, options, their values and file names in every new shell.
"""


def page() -> str:
    parts = [HEAD]
    parts += _section("onnx-distill", main, None)
    for name in main.list_commands(click.Context(main)):
        parts += _section(f"onnx-distill {name}", main.commands[name], click.Context(main, info_name="onnx-distill"))
    return "\n".join(parts)


def _section(title: str, command: click.Command, parent: click.Context | None) -> list[str]:
    name = title.rpartition(" ")[2]
    settings = {"terminal_width": WIDTH, "max_content_width": WIDTH, "help_option_names": ["-h", "--help"]}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    context.meta[ALL] = True
    lines = [line.rstrip() for line in command.get_help(context).splitlines()]
    return [f"## {title}", "", "```", *lines, "```", ""]


if __name__ == "__main__":
    print(page(), end="")
