"""The command that answers: for each image the likeliest classes, with their names and probabilities."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import click

from onnx_distill.cli.general_options import (
    config_option,
    json_option,
    logits_option,
    model_argument,
    model_options,
    threads_option,
)
from onnx_distill.cli.image_options import class_names_option, reading_options
from onnx_distill.cli.inputs import load, open_unlabelled, preprocess_of
from onnx_distill.cli.options import writable
from onnx_distill.cli.sections import command
from onnx_distill.data import Images
from onnx_distill.data.labels import read_class_names
from onnx_distill.errors import InputError
from onnx_distill.evaluate import check_no_nan
from onnx_distill.facts.reading import class_names_in
from onnx_distill.files.replacing import replacing
from onnx_distill.predict import answers, as_csv, as_data, as_text
from onnx_distill.ready.measure import logits_of

STDOUT = "-"


def _csv_place(ctx, parameter, path: str | None) -> str | None:
    return path if path in (None, STDOUT) else writable(ctx, parameter, path)


@command(short_help="What a classifier answers for images.")
@model_argument("model")
@click.argument("images", nargs=-1, required=True, type=click.Path())
@logits_option
@model_options
@click.option(
    "--top-k", type=click.IntRange(1), default=3, show_default=True, help="Answers for each image, the likeliest first."
)
@click.option(
    "--csv",
    "csv_path",
    type=click.Path(dir_okay=False, allow_dash=True),
    callback=_csv_place,
    help="File for a table with a row for each image; -: print it.",
)
@reading_options
@class_names_option
@threads_option
@json_option
@config_option
def predict(model, images, logits, top_k, csv_path, class_names, threads, as_json, input_shape, constants, **options):
    """Answer for each image: the likeliest classes, with their names where they are known, and their probabilities.

    MODEL is any classifier, float or quantized. IMAGES are image files, or one of what --data of the other commands takes: a
    folder, a tar, an .npy, .npz or IDX file. Names are those of --class-names, of a folder for each class, or in the model.

    \b
    Example: onnx-distill predict run/student.int8.onnx photos/ \\
      --class-names classes.txt --csv answers.csv
    """
    if csv_path == STDOUT and as_json:
        raise InputError("--csv and --json are both given for what is printed; wanted one of them, or --csv FILE.")
    loaded = load(model, input_shape, constants)
    listed = Path(class_names) if class_names else None
    if listed:
        read_class_names(listed)  # now, not after the images
    opened = open_unlabelled(loaded, images, options)
    scores = logits_of(loaded, opened, threads, logits)
    check_no_nan(scores)
    names = _names(opened, listed, preprocess_of(loaded, options).label_offset, scores.shape[1]) or class_names_in(loaded)
    made = [opened.name(position) for position in range(len(opened))], answers(scores, top_k), names
    if csv_path and csv_path != STDOUT:
        with replacing(csv_path) as temporary:
            temporary.write_text(as_csv(*made), encoding="utf-8", errors="backslashreplace")
    if as_json:
        click.echo(json.dumps(as_data(*made), indent=1))
    elif csv_path == STDOUT:
        click.echo(as_csv(*made), nl=False)
    else:
        click.echo(f"{csv_path}: {len(opened):,} images" if csv_path else as_text(*made))


def _names(images: Images, listed: Path | None, label_offset: int, classes: int) -> Mapping[int, str]:
    """Class -> name: those listed, or those of the images where they are of every class."""
    if listed is not None:
        return read_class_names(listed, label_offset, classes)
    return images.class_names if max(images.class_names, default=-1) == classes - 1 else {}
