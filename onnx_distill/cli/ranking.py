"""The command that ranks layers by what fewer bits in each alone cost."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from onnx_distill.bits import parse_widths
from onnx_distill.cli.general_options import (
    config_option,
    json_option,
    logits_option,
    model_argument,
    model_options,
    output_file,
    seed_option,
    threads_option,
)
from onnx_distill.cli.image_options import data_options
from onnx_distill.cli.inputs import chosen, load, open_data
from onnx_distill.cli.progress import Bar
from onnx_distill.cli.quantize_options import calibration_options
from onnx_distill.cli.sections import command
from onnx_distill.config import QuantizeConfig
from onnx_distill.cut import cut as cut_model
from onnx_distill.errors import InputError
from onnx_distill.mixed.ranking import render_sensitivity, save_sensitivity
from onnx_distill.mixed.sensitivity import drawn_apart
from onnx_distill.mixed.sensitivity import sensitivity as analyse
from onnx_distill.ready.calibrated import calibrated
from onnx_distill.ready.deployable import classes_of

WIDTH = click.IntRange(2, 8)


@command(short_help="Rank layers by what fewer bits cost.")
@model_argument("model")
@logits_option
@model_options
@data_options
@click.option(
    "--weight-bits", type=WIDTH, multiple=True, help="Fewer bits to try in the weights. May be repeated.  [default: 4]"
)
@click.option(
    "--activation-bits",
    type=WIDTH,
    multiple=True,
    help="Fewer bits to try in the activations. May be repeated.  [default: none]",
)
@click.option("--rest", default="W8A8", show_default=True, help="Bits of everything else.")
@click.option(
    "--images",
    "count",
    type=click.IntRange(1),
    default=1024,
    show_default=True,
    help="Images to measure on, drawn at random, others than those to calibrate with.",
)
@calibration_options
@click.option("--top", type=click.IntRange(0), default=0, show_default=True, help="Lines of the table; 0: all.")
@seed_option
@threads_option
@json_option
@output_file
@config_option
def sensitivity(
    model,
    output,
    logits,
    weight_bits,
    activation_bits,
    rest,
    count,
    samples,
    top,
    seed,
    threads,
    as_json,
    input_shape,
    constants,
    **options,
):
    """Rank the layers: what fewer bits in each alone cost, everything else at the higher width.

    The cost is the KL divergence from MODEL's own answers that the layer adds. MODEL is a float model, the teacher or what `cut` made of it. The file is for quantize --mixed.

    \b
    Example: onnx-distill sensitivity teacher.onnx --data train.npz -o sensitivity.json
    """
    if not weight_bits and not activation_bits:
        weight_bits = (4,)
    config = chosen(QuantizeConfig, {**options, **_rest(rest), "edge_bits": 0})
    loaded = cut_model(load(model, input_shape, constants), logits)
    images = open_data(loaded, options, classes=classes_of(loaded))
    to_calibrate, to_measure = drawn_apart(images, samples, count, seed)
    source = calibrated(loaded, to_calibrate, config, threads)
    bar: list[Bar] = []

    def progress(done: int, total: int) -> None:
        bar[:] = bar or [Bar("rank", total, "layers")]
        bar[0].update(done)

    found = analyse(source, to_measure, config, weight_bits, activation_bits, seed, threads, progress)
    save_sensitivity(found, output)
    click.echo(json.dumps(asdict(found), indent=1) if as_json else render_sensitivity(found, top))


def _rest(text: str) -> dict[str, int]:
    weight, activation = parse_widths(text)
    if weight is None or activation is None:
        raise InputError(f"--rest is {text!r}; wanted bits of weights and activations, 2 to 8, such as W8A8.")
    return {"weight_bits": weight, "activation_bits": activation}
