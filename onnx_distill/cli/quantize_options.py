"""Options of quantization: bits, calibration, mixed precision."""

from __future__ import annotations

import click

from onnx_distill.cli.options import choice, number, options
from onnx_distill.cli.target import target_option
from onnx_distill.cli.written import Size
from onnx_distill.mixed import SIZES

calibration_options = options(
    target_option,
    click.option(
        "--per-channel/--per-tensor",
        default=None,
        help="One weight scale per output channel, or one per tensor.  [default: the target's]",
    ),
    click.option(
        "--symmetric/--asymmetric",
        default=None,
        help="Activations with zero point 0 in int8, or in uint8 with a free one.  [default: the target's]",
    ),
    choice(
        "--calibration-method",
        "auto|minmax|percentile|mse|entropy",
        "How activation ranges are chosen; auto: mse.",
    ),
    click.option(
        "--percentile",
        type=float,
        help="% of the values inside the range, for percentile.  [default: 99.99; 99.7 below 7 bits]",
    ),
    click.option(
        "--samples",
        type=click.IntRange(1),
        default=512,
        show_default=True,
        help="Images to calibrate with, drawn at random.",
    ),
    click.option(
        "--exclude", multiple=True, help="Nodes left in float: a name, or a pattern such as 'block_3/*'. May be repeated."
    ),
    section="Quantization",
)
quantize_options = options(
    number("--weight-bits", int, "Bits of a weight, 2 to 8."),
    number("--activation-bits", int, "Bits of an activation, 2 to 8."),
    number("--edge-bits", int, "Bits in the first and last layer; 0: as the others."),
    click.option(
        "--bits",
        multiple=True,
        metavar="NAME=W4A8",
        help="Bits of one layer's weights (W4), of what it makes (A8), or both: its name, or a pattern such as 'block_3/*=W4'. May "
        "be repeated, the last that matches counts.",
    ),
    choice(
        "--rounding",
        "auto|nearest|compensated",
        "Weights each to its nearest integer, or so that their errors cancel out in what a layer computes on the calibration images; "
        "auto: compensated up to 6 bits, nearest above.",
    ),
    calibration_options,
    options(
        click.option(
            "--mixed",
            type=click.Path(dir_okay=False),
            help="Ranking that `sensitivity` wrote; with a budget it gives each of its layers its bits.",
        ),
        click.option(
            "--budget-size",
            type=Size(),
            help="What the weights may take: a share of those at the ranking's higher width, such as 0.6 or 60%, or bytes, such as 200kB.",
        ),
        click.option(
            "--budget-accuracy",
            type=float,
            help="Points of top-1 (without labels of agreement) that may be lost, measured on the ranking's images, such as 0.5.",
        ),
        click.option(
            "--size-of",
            type=click.Choice(list(SIZES)),
            default="stored",
            show_default=True,
            help="stored: weights as --weight-storage int4 keeps them, half a byte up to 4 bits, else a whole one; packed: bits / 8.",
        ),
        section="Mixed precision",
    ),
    section="Quantization",
)
