"""The command line: options in, one library call, results on stdout; progress and log on stderr."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Iterator

import click
import numpy as np
from tqdm import tqdm

from onnx_distill import __version__, pipeline
from onnx_distill import model as models
from onnx_distill.artifacts import class_count
from onnx_distill.config import DistillConfig, QuantizeConfig, TrainConfig
from onnx_distill.cut import cut as cut_model
from onnx_distill.data import Images, Preprocess, open_images
from onnx_distill.errors import InputError
from onnx_distill.inspect import inspect as inspect_model
from onnx_distill.inspect import render
from onnx_distill.normalize.prepare import prepare
from onnx_distill.report import table

DEFAULT = {**asdict(QuantizeConfig()), **asdict(DistillConfig()), **asdict(TrainConfig())}


class _Commands(click.Group):
    """Prints an InputError as one line and exits with code 2, as click does for a wrong option."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except InputError as error:
            problem = str(error)
        except BrokenPipeError:
            raise
        except OSError as error:  # of the temporary folder; what is written elsewhere says so itself
            problem = f"{error.strerror or error}, perhaps in {tempfile.gettempdir()}. Free space, or set TMPDIR to another folder."
        click.echo(f"error: {' '.join(problem.split())}", err=True)
        ctx.exit(2)


def _options(*decorators):
    def apply(function):
        return functools.reduce(lambda f, decorate: decorate(f), reversed(decorators), function)

    return apply


def _choice(flag: str, values: str, text: str):
    name = flag.lstrip("-").replace("-", "_")
    return click.option(flag, type=click.Choice(values.split("|")), default=DEFAULT[name], show_default=True, help=text)


def _number(flag: str, kind: type | click.ParamType, text: str, name: str | None = None):
    name = name or flag.lstrip("-").replace("-", "_")
    return click.option(flag, name, type=kind, default=DEFAULT[name], show_default=True, help=text)


model_argument = functools.partial(click.argument, type=click.Path(dir_okay=False))
output_file = click.option(
    "-o", "--output", required=True, type=click.Path(dir_okay=False), help="File to write; it appears whole or not at all."
)
output_folder = click.option(
    "-o", "--output", required=True, type=click.Path(file_okay=False), help="Folder to write to; made if need be."
)
teacher_option = click.option("--teacher", required=True, type=click.Path(dir_okay=False), help="The original float model.")
logits_option = click.option("--logits", help="Node or value to cut at. Default: what feeds the final Softmax.")


class _Shape(click.ParamType):
    """'3x224x224' or '3,224,224' -> (3, 224, 224)."""

    name = "SIZES"

    def convert(self, value, param, ctx):
        sizes = value if isinstance(value, tuple) else tuple(re.split("[x,]", value))
        if not all(str(size).isdecimal() and int(size) > 0 for size in sizes):
            self.fail(f"{value!r} is no shape; wanted the sizes of one image, such as 3x224x224.", param, ctx)
        return tuple(map(int, sizes))


class _Constant(click.ParamType):
    """'NAME=VALUE' -> (name, array): a number, several with commas between, true or false, or a .npy file."""

    name = "NAME=VALUE"

    def convert(self, value, param, ctx):
        name, _, given = value.rpartition("=") if not isinstance(value, tuple) else (value[0], "", value[1])
        if not name:
            self.fail(f"{value!r} has no name; wanted NAME=VALUE, such as keep_prob=1.", param, ctx)
        try:
            if str(given).endswith(".npy"):
                return name, np.load(given, allow_pickle=False)
            numbers = [json.loads(part.strip().lower()) for part in given.split(",")]
            return name, np.asarray(numbers[0] if len(numbers) == 1 else numbers)
        except (ValueError, OSError) as error:
            self.fail(f"{given!r} cannot be read: {error}; wanted numbers with commas between, or a .npy file.", param, ctx)


model_options = _options(
    click.option(
        "--input-shape",
        type=_Shape(),
        help="Size of one image, such as 3x224x224, for a model that leaves it free.  [default: that of the images]",
    ),
    click.option(
        "--constant",
        "constants",
        type=_Constant(),
        multiple=True,
        help="Value of an input that is not the images: numbers, or a .npy file. May be repeated.",
    ),
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
threads_option = _number("--threads", click.IntRange(0), "Threads of the runtime; 0: its own choice.")
seed_option = _number("--seed", click.IntRange(0), "Seed of everything random.")

data_options = _options(
    click.option(
        "--data",
        required=True,
        type=click.Path(dir_okay=False),
        help="Images: .npy, .npz (images, labels) or IDX, gzipped or not.",
    ),
    click.option(
        "--labels",
        type=click.Path(dir_okay=False),
        help="Labels: .npy, .npz, IDX or one number a line. Default: beside an IDX file, in an .npz.",
    ),
    click.option(
        "--mean",
        type=float,
        multiple=True,
        help="Subtracted from each pixel; once, or once a channel. Default: from the model's metadata, else 0.",
    ),
    click.option(
        "--scale",
        type=float,
        multiple=True,
        help="Then multiplied with; once, or once a channel. Default: from the model's metadata, else 1.",
    ),
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
)
quantize_options = _options(
    _number("--weight-bits", int, "Bits of a weight, 2 to 8."),
    _number("--activation-bits", int, "Bits of an activation, 2 to 8."),
    _number("--edge-bits", int, "Bits in the first and last layer; 0: as the others."),
    click.option(
        "--per-channel/--per-tensor",
        default=True,
        show_default=True,
        help="One weight scale per output channel, or one per tensor.",
    ),
    click.option(
        "--symmetric/--asymmetric",
        default=False,
        show_default=True,
        help="Activations with zero point 0 in int8, or in uint8 with a free one.",
    ),
    _choice(
        "--calibration-method",
        "auto|minmax|percentile|mse|entropy",
        "How activation ranges are chosen; auto: minmax from 7 bits on, mse below.",
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
)
distill_options = _options(
    _number("--temperature", float, "Softens both distributions."),
    _number("--alpha", float, "Weight of the teacher against the labels, 0 to 1; 1 needs no labels."),
    _choice("--kl", "forward|reverse", "KL(teacher || student), or KL(student || teacher) as in MNN."),
)
train_options = _options(
    _number("--epochs", float, "Passes over the images; parts are fine."),
    _number("--batch-size", int, "Images a step."),
    _number("--lr", float, "Peak learning rate of weights and biases.", "learning_rate"),
    _number("--step-rate", float, "Peak learning rate of the quantization steps, relative to their size."),
    _choice("--learn-steps", "none|weights|all", "Which quantization steps are learned."),
    _choice("--schedule", "constant|linear|cosine", "Learning rate after the warm-up."),
    _number("--warmup", float, "Share of the steps over which the rate rises."),
    _choice("--optimizer", "adamw|sgd", "For weights and biases; steps always use Adam."),
    _number("--momentum", float, "Of sgd."),
    _number("--weight-decay", float, "Of the weights; biases and steps are left alone."),
    _number("--clip-norm", float, "Largest norm of the gradient; 0: any."),
    click.option("--flip", is_flag=True, help="Flip training images at random, left to right."),
    _number("--shift", int, "Shift training images at random by up to so many pixels."),
    click.option(
        "--validation",
        type=int,
        default=5000,
        show_default=True,
        help="Images held out of --data to choose the best student.",
    ),
    click.option(
        "--preflight/--no-preflight",
        default=True,
        show_default=True,
        help="Check the gradient of every parameter on a few images first.",
    ),
    seed_option,
)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="onnx-distill")
def main():
    """An ONNX classifier teaches its own quantized copy. No PyTorch, no training code of yours.

    \b
    The way of a model, each step from the files of the one before:
      cut       teacher.onnx      -> logits.onnx        truncated at the logits
      quantize  logits.onnx       -> student.qdq.onnx   QDQ, calibrated
      train     student.qdq.onnx  -> run/               distilled, and exported
      export    trained.qdq.onnx  -> student.int8.onnx  integers, the teacher's tail put back
    or all of it: onnx-distill run teacher.onnx --data train.npz --test-data test.npz -o run
    """


@main.command()
@model_argument("model")
@logits_option
@model_options
@json_option
def inspect(model, logits, as_json, input_shape, constants):
    """Show what is in a model, where it would be cut, and what could not be trained.

    Example: onnx-distill inspect models/mobilenetv2-fashion.onnx
    """
    loaded = _load(model, input_shape, constants) if input_shape or constants else models.load(model)
    found = inspect_model(loaded, logits)
    click.echo(json.dumps(asdict(found), indent=1) if as_json else render(found))


@main.command()
@model_argument("teacher")
@logits_option
@model_options
@output_file
def cut(teacher, logits, output, input_shape, constants):
    """Truncate a classifier at its logits.

    Example: onnx-distill cut teacher.onnx -o logits.onnx --logits MobilenetV2/Predictions/Reshape
    """
    made = cut_model(_load(teacher, input_shape, constants), logits)
    models.save(made, output)
    click.echo(f"{output}: cut at {made.graph.output[0].name}")


@main.command()
@model_argument("model")
@logits_option
@model_options
@data_options
@quantize_options
@seed_option
@threads_option
@output_file
def quantize(model, output, logits, samples, seed, threads, input_shape, constants, **options):
    """Calibrate on images and insert Q/DQ: the PTQ baseline, and what train trains.

    MODEL is a float model; it is cut at its logits if `cut` has not done so.

    Example: onnx-distill quantize logits.onnx --data train.npz --weight-bits 4 -o student.qdq.onnx
    """
    config = _config(QuantizeConfig, options)
    loaded = cut_model(_load(model, input_shape, constants), logits)
    images = _open(loaded, options, labelled=False)
    made = pipeline.quantize_with_images(loaded, images, config, samples, seed, threads)
    models.save(made, output)
    click.echo(f"{output}: W{config.weight_bits}A{config.activation_bits}, calibrated on {min(samples, len(images))} images")


@main.command()
@model_argument("student")
@teacher_option
@model_options
@data_options
@distill_options
@train_options
@threads_option
@output_folder
@json_option
def train(student, teacher, output, validation, as_json, input_shape, constants, **options):
    """Distill: the teacher's logits train a QDQ student; the best is exported.

    Writes trained.qdq.onnx and student.int8.onnx. Ctrl-C stops and keeps the best so far.

    Example: onnx-distill train student.qdq.onnx --teacher teacher.onnx --data train.npz --flip -o run
    """
    loss, config = _config(DistillConfig, options), _config(TrainConfig, options)
    original, qdq = _load(teacher, input_shape, constants), models.load(student)
    float_model = pipeline.logits_model(qdq, original)
    images = _open(float_model, options, classes=class_count(float_model.graph.output[0]))
    with _folder(output) as folder:
        trained = pipeline.distill(qdq, original, images, validation, loss, config, _Bar().watch)
        models.save(trained.best.student, folder / "trained.qdq.onnx")
        models.save(pipeline.deployable(trained.best.student, original), folder / "student.int8.onnx")
    before, best, speed = trained.scores[0][1], trained.best, trained.images_per_second
    result = {"student": str(folder / "student.int8.onnx"), "before": before, "best": best.score, "epoch": best.epoch}
    text = f"{result['student']}: {100 * best.score:.2f} % on held-out images after {best.epoch:g} epochs, {100 * before:.2f} % before"
    click.echo(json.dumps({**result, "images_per_second": speed}) if as_json else f"{text}; {speed:.0f} images/s")


@main.command()
@model_argument("student")
@teacher_option
@output_file
def export(student, teacher, output):
    """Turn a QDQ student into integers and put the teacher's tail back.

    Example: onnx-distill export run/trained.qdq.onnx --teacher teacher.onnx -o student.int8.onnx
    """
    made = pipeline.deployable(models.load(student), models.load(teacher))
    models.save(made, output)
    click.echo(f"{output}: {made.ByteSize():,} bytes")


@main.command("eval")
@model_argument("model")
@model_options
@data_options
@click.option("--teacher", type=click.Path(dir_okay=False), help="A model to agree with.")
@click.option("--logits", help="Node or value of the logits, in both. Default: what feeds the final Softmax.")
@click.option("--batch-sizes", default="1,64", show_default=True, help="For latency; empty: none.")
@threads_option
@json_option
def evaluate(model, teacher, logits, batch_sizes, threads, as_json, input_shape, constants, **options):
    """Measure a classifier: top-1, top-5, agreement with a teacher, KL, size, latency.

    Example: onnx-distill eval student.int8.onnx --teacher teacher.onnx --data test.npz
    """
    loaded = {"teacher": _load(teacher, input_shape, constants)} if teacher else {}
    loaded["model"] = (
        pipeline.like(loaded["teacher"], models.load(model)) if teacher else _load(model, input_shape, constants)
    )
    images = _open(next(iter(loaded.values())), options)
    _print_rows(pipeline.measure(loaded, images, threads, _sizes(batch_sizes), logits), as_json)


@main.command()
@model_argument("teacher")
@model_options
@data_options
@click.option(
    "--test-data",
    required=True,
    type=click.Path(dir_okay=False),
    help="Images for the final table; nothing is chosen by them.",
)
@click.option("--test-labels", type=click.Path(dir_okay=False), help="Their labels; default as for --labels.")
@logits_option
@quantize_options
@distill_options
@train_options
@threads_option
@output_folder
@json_option
def run(teacher, output, test_data, test_labels, logits, samples, validation, as_json, input_shape, constants, **options):
    """The whole way in one command: cut, quantize, train, export, and a table of what it gained.

    Example: onnx-distill run teacher.onnx --data train.npz --test-data test.npz --weight-bits 4 -o run
    """
    quantization, loss, config = (_config(kind, options) for kind in (QuantizeConfig, DistillConfig, TrainConfig))
    original = _load(teacher, input_shape, constants)
    float_model = cut_model(original, logits)
    classes = class_count(float_model.graph.output[0])
    images = _open(float_model, options, classes=classes)
    test = _open(float_model, {**options, "data": test_data, "labels": test_labels}, classes=classes)
    with _folder(output) as folder:
        outcome = pipeline.run(
            original, images, test, folder, quantization, loss, config, logits, samples, validation, _Bar().watch
        )
    _print_rows(outcome.rows, as_json)
    trained = outcome.trained
    click.echo(
        f"{outcome.student}: trained on {trained.images:,} images at {trained.images_per_second:.0f} images/s", err=True
    )


def _config(kind, options: dict):
    return kind(**{name: options[name] for name in kind.__dataclass_fields__ if name in options})


def _load(path: str, input_shape: tuple[int, ...] | None, constants: tuple[tuple[str, np.ndarray], ...]):
    return prepare(models.load(path), input_shape, dict(constants))


def _open(model, options: dict, labelled: bool = True, classes: int | None = None) -> Images:
    given = {name: options[name] or None for name in ("mean", "scale")}
    preprocess = Preprocess.of(model).replace(layout=options["layout"], label_offset=options["label_offset"], **given)
    return open_images(options["data"], options["labels"] if labelled else None, preprocess, classes)


@contextlib.contextmanager
def _folder(path: str) -> Iterator[Path]:
    """The folder, made before the work that fills it; one that was made here is gone again if it stays empty."""
    folder, found = Path(path), Path(path).is_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror or error}. Choose another place.") from None
    if not os.access(folder, os.W_OK):
        raise InputError(f"cannot write to the folder {folder}. Choose another place.")
    try:
        yield folder
    finally:
        if not found and not any(folder.iterdir()):
            folder.rmdir()


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        sizes = (0,)
    if any(size < 1 for size in sizes):
        raise InputError(f"--batch-sizes is {text!r}; wanted whole numbers above 0 with commas between, such as 1,64.")
    return sizes


def _print_rows(rows: list[pipeline.Row], as_json: bool) -> None:
    as_data = [{"name": row.name, **asdict(row.measured)} for row in rows]
    click.echo(json.dumps(as_data, indent=1) if as_json else table(rows))


class _Bar:
    """A progress bar on stderr: images, images/s, loss, time left; plain lines for stages and evaluations."""

    def __init__(self):
        self.bar = None
        self.watch = pipeline.Watch(self._stage, self._step, self._evaluation, self._warning)

    def _warning(self, text: str) -> None:
        self._write(f"warning: {text}")

    def _stage(self, text: str) -> None:
        self._write(f"== {text}")

    def _step(self, progress) -> None:
        if self.bar is None:
            batch = progress.images // progress.step
            self.bar = tqdm(
                total=progress.steps * batch, unit="img", file=sys.stderr, dynamic_ncols=True, mininterval=1.0, initial=0
            )
        self.bar.set_postfix_str(f"loss {progress.loss:.4f} lr {progress.learning_rate:.1e}", refresh=False)
        self.bar.update(progress.images - self.bar.n)
        if progress.step == progress.steps:
            self.bar.close()

    def _evaluation(self, checkpoint) -> None:
        self._write(f"epoch {checkpoint.epoch:.2f}: {100 * checkpoint.score:.2f} % on held-out images")

    def _write(self, text: str) -> None:
        tqdm.write(text, file=sys.stderr)
