"""Options that most commands have: models, files to write, threads, the configuration file."""

from __future__ import annotations

import functools

import click

from onnx_distill.cli.configuration import defaults_from
from onnx_distill.cli.options import number, options, writable
from onnx_distill.cli.terminal import verbosity_options
from onnx_distill.cli.written import Constant, Shape

MOST_THREADS = 1024  # more are a slip of the hand, and bring a machine to its knees
model_argument = functools.partial(click.argument, type=click.Path(dir_okay=False))
output_file = click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False),
    callback=writable,
    help="File to write; it appears whole or not at all.",
)
output_folder = click.option(
    "-o", "--output", required=True, type=click.Path(file_okay=False), help="Folder to write to; made if need be."
)
teacher_option = click.option("--teacher", required=True, type=click.Path(dir_okay=False), help="The original float model.")
storage_option = click.option(
    "--weight-storage",
    type=click.Choice(["int8", "int4"]),
    default="int8",
    show_default=True,
    help="How the exported file keeps weights of 4 bits and fewer; int4: two a byte, onnxruntime 1.20 or newer.",
)
logits_option = click.option("--logits", help="Node or value to cut at. Default: what feeds the final Softmax.")


model_options = options(
    click.option(
        "--input-shape",
        type=Shape(),
        help="Size of one image, such as 3x224x224, for a model that leaves it free.  [default: that of the images]",
    ),
    click.option(
        "--constant",
        "constants",
        type=Constant(),
        multiple=True,
        help="Value of an input that is not the images: numbers, or a .npy file. May be repeated.",
    ),
    section="Model",
)
json_option = options(click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."), section="General")
threads_option = options(
    number("--threads", click.IntRange(0, MOST_THREADS), "Threads of the runtime; 0: its own choice."), section="General"
)
latency_option = click.option(
    "--latency/--no-latency",
    default=True,
    show_default=True,
    help="Time the models beside each other; a few seconds for each.",
)
seed_option = number("--seed", click.IntRange(0), "Seed of everything random.")


def _read_config(ctx: click.Context, _, path: str | None) -> None:
    """Values from a file become the command's defaults, so that the command line wins."""
    if path:
        ctx.default_map = {**(ctx.default_map or {}), **defaults_from(path, ctx)}


config_option = options(
    click.option(
        "--config",
        type=click.Path(dir_okay=False),
        is_eager=True,
        expose_value=False,
        callback=_read_config,
        help="YAML, TOML or JSON with any of these options; the command line wins.",
    ),
    verbosity_options,
    section="General",
)
