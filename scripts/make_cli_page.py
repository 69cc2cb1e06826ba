"""docs/cli.md from the help of the commands: python scripts/make_cli_page.py > docs/cli.md"""

from __future__ import annotations

import click

from onnx_distill.cli import main

WIDTH = 110


def page() -> str:
    parts = [
        "# Commands",
        "",
        "Made from the help texts by scripts/make_cli_page.py; `onnx-distill COMMAND --help` says the same.",
        "",
    ]
    parts += _section("onnx-distill", main, None)
    for name in main.list_commands(click.Context(main)):
        parts += _section(f"onnx-distill {name}", main.commands[name], click.Context(main, info_name="onnx-distill"))
    return "\n".join(parts)


def _section(title: str, command: click.Command, parent: click.Context | None) -> list[str]:
    name = title.rpartition(" ")[2]
    settings = {"terminal_width": WIDTH, "max_content_width": WIDTH, "help_option_names": ["-h", "--help"]}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    lines = [line.rstrip() for line in command.get_help(context).splitlines()]
    return [f"## {title}", "", "```", *lines, "```", ""]


if __name__ == "__main__":
    print(page(), end="")
