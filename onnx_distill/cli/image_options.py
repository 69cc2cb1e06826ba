"""Options of the images: where they are, how they are prepared, what their classes are called."""

from __future__ import annotations

import click

from onnx_distill.cli.options import options
from onnx_distill.cli.per_channel import numbers
from onnx_distill.data import PRESETS

reading_options = options(
    click.option(
        "--preset",
        type=click.Choice(sorted(PRESETS)),
        help="imagenet: as torchvision; mobilenet: (x - 127.5) / 127.5, as TF-slim; raw: as stored. Other options win.",
    ),
    click.option("--preprocess", type=click.Path(dir_okay=False), help="YAML or JSON with mean, scale, order and the like."),
    click.option("--order", type=click.Choice(["RGB", "BGR"]), help="Of the channels that the model wants.  [default: RGB]"),
    click.option("--crop-fraction", type=float, help="Of image files: central share of each side.  [default: 1.0]"),
    click.option(
        "--fit", type=click.Choice(["crop", "stretch"]), help="Of image files: keep the aspect, or all.  [default: crop]"
    ),
    click.option(
        "--workers", type=click.IntRange(0), default=None, help="Processes that decode image files.  [default: one a core]"
    ),
    click.option("--cache", type=click.Path(file_okay=False), help="Folder that keeps decoded images for the next run."),
    click.option(
        "--max-broken", type=float, default=0.01, show_default=True, help="Share of image files that may be unreadable."
    ),
    numbers(
        "--mean",
        "Subtracted from each pixel; one, or one a channel: 104,117,123. Default: from the model's metadata, else 0.",
    ),
    numbers("--scale", "Then multiplied with; one, or one a channel. Default: from the model's metadata, else 1."),
    click.option(
        "--layout",
        type=click.Choice(["auto", "NHW", "NHWC", "NCHW"]),
        default=None,
        help="How the stored arrays are laid out.  [default: auto]",
    ),
    click.option(
        "--label-offset",
        type=int,
        default=None,
        help="Added to every label: 1 for a background class at 0. Default: from the metadata, else 0.",
    ),
    section="Images",
)
data_options = options(
    click.option(
        "--data",
        required=True,
        type=click.Path(),
        help="Images: a folder per class, one flat folder, a tar, tars ('train-{000..003}.tar', or a folder of them), .npy, .npz "
        "(images, labels) or IDX, gzipped or not.",
    ),
    click.option(
        "--labels",
        type=click.Path(dir_okay=False),
        help="Labels: .npy, .npz, IDX or one number a line; for a folder, lines of `name label`. Default: folder names, "
        "beside an IDX file, in an .npz or tar.",
    ),
    reading_options,
    section="Images",
)
class_names_option = options(
    click.option(
        "--class-names",
        type=click.Path(dir_okay=False),
        help="Text with a class's name a line, for the report.  [default: folder names]",
    ),
    section="Images",
)
