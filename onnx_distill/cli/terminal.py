"""What reaches the terminal beside results: all of it on stderr, as much as was asked for, without colours.

--quiet leaves warnings and errors, --verbose adds what was read and how long each part took.
"""

from __future__ import annotations

import os
import platform
import sys

import click
import numpy as np
import onnxruntime
from tqdm import tqdm

from onnx_distill import __version__
from onnx_distill.data import Images

QUIET, NORMAL, VERBOSE = 0, 1, 2
KEY = "onnx_distill.level"  # in the command's click context


def _set_level(ctx: click.Context, parameter: click.Parameter, given: bool) -> None:
    if not given:
        return
    if KEY in ctx.meta:
        raise click.UsageError("--quiet and --verbose are both given; wanted one of them.", ctx)
    ctx.meta[KEY] = QUIET if parameter.name == "quiet" else VERBOSE


def verbosity_options(function):
    """Adds --quiet and --verbose to a command; they act here, so it takes no arguments for them."""
    for flags, text in (
        (("-v", "--verbose"), "Also tell what was read, and how long each part took."),
        (("-q", "--quiet"), "Tell nothing but warnings and errors."),
    ):
        add = click.option(*flags, is_flag=True, expose_value=False, callback=_set_level, help=text)
        function = add(function)
    return function


def level() -> int:
    """Of the command that runs."""
    ctx = click.get_current_context(silent=True)
    return NORMAL if ctx is None else ctx.meta.get(KEY, NORMAL)


def tell(text: str, least: int = NORMAL) -> None:
    """A line on stderr, above any progress bar, unless less was asked for."""
    if level() >= least:
        tqdm.write(text, file=sys.stderr)


def warn(text: str) -> None:
    """A line that is told even to those who want quiet."""
    tell(f"warning: {text}", QUIET)


def tell_images(images: Images, what: str) -> None:
    """With --verbose: how many, their size, their labels."""
    if level() < VERBOSE:
        return
    shape = "x".join(map(str, images.read(np.arange(1)).shape[1:]))
    labels = images.labels
    said = "no labels" if labels is None else f"labels {labels.min()} to {labels.max()}, {len(np.unique(labels))} classes"
    tell(f"{what}: {len(images):,} images {shape}, {said}", VERBOSE)


def tell_machine() -> None:
    """With --verbose: versions, and how many processors there are."""
    python, cores = platform.python_version(), os.cpu_count()
    tell(f"onnx-distill {__version__}, onnxruntime {onnxruntime.__version__}, Python {python}, {cores} processors", VERBOSE)
