"""Options that commands share: names, types, defaults and help; each is defined once."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import asdict

import click
import numpy as np

from onnx_distill.cli.configuration import defaults_from
from onnx_distill.cli.target import target_option
from onnx_distill.cli.terminal import verbosity_options
from onnx_distill.config import DistillConfig, QuantizeConfig, TrainConfig
from onnx_distill.data import PRESETS
from onnx_distill.mixed import SIZES
from onnx_distill.replacing import check_writable

MOST_THREADS = 1024  # more are a slip of the hand, and bring a machine to its knees
DEFAULT = {**asdict(QuantizeConfig()), **asdict(DistillConfig()), **asdict(TrainConfig())}


def options(*decorators, section: str = ""):
    """Several options as one decorator. section: the heading under which `--help` lists them, unless they have one."""

    def apply(function):
        before = len(getattr(function, "__click_params__", ()))
        made = functools.reduce(lambda f, decorate: decorate(f), reversed(decorators), function)
        for parameter in made.__click_params__[before:]:
            parameter.section = getattr(parameter, "section", section)
        return made

    return apply


def choice(flag: str, values: str, text: str):
    name = flag.lstrip("-").replace("-", "_")
    return click.option(flag, type=click.Choice(values.split("|")), default=DEFAULT[name], show_default=True, help=text)


def number(flag: str, kind: type | click.ParamType, text: str, name: str | None = None):
    name = name or flag.lstrip("-").replace("-", "_")
    return click.option(flag, name, type=kind, default=DEFAULT[name], show_default=True, help=text)


model_argument = functools.partial(click.argument, type=click.Path(dir_okay=False))


def _writable(_, __, path: str) -> str:
    if path:
        check_writable(path)
    return path


output_file = click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False),
    callback=_writable,
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


class _Shape(click.ParamType):
    """'3x224x224' or '3,224,224' -> (3, 224, 224)."""

    name = "SIZES"

    def convert(self, value, param, ctx):
        sizes = value if isinstance(value, tuple) else tuple(re.split("[x,]", value))
        if not all(str(size).isdecimal() and int(size) > 0 for size in sizes):
            self.fail(f"{value!r} is no shape; wanted the sizes of one image, such as 3x224x224.", param, ctx)
        return tuple(map(int, sizes))


class _Given(tuple):
    """(name, array), and in `given` the text that said so."""

    given: str


class _Constant(click.ParamType):
    """'NAME=VALUE' -> (name, array): a number, several with commas between, true or false, or a .npy file."""

    name = "NAME=VALUE"

    def convert(self, value, param, ctx):
        if isinstance(value, _Given):
            return value
        name, _, given = value.rpartition("=")
        if not name:
            self.fail(f"{value!r} has no name; wanted NAME=VALUE, such as keep_prob=1.", param, ctx)
        made = _Given((name, self._array(given, param, ctx)))
        made.given = value
        return made

    def _array(self, given: str, param, ctx) -> np.ndarray:
        try:
            if given.endswith(".npy"):
                return np.load(given, allow_pickle=False)
            numbers = [json.loads(part.strip().lower()) for part in given.split(",")]
            return np.asarray(numbers[0] if len(numbers) == 1 else numbers)
        except (ValueError, OSError) as error:
            self.fail(f"{given!r} cannot be read: {error}; wanted numbers with commas between, or a .npy file.", param, ctx)


class _Size(click.ParamType):
    """'0.6', '60%', '200kB', '1.5MB' or bytes -> a number: bytes, or up to 1 a share."""

    name = "SHARE|BYTES"

    def convert(self, value, param, ctx):
        found = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*(%|B|kB|MB)?", str(value).strip())
        if not found:
            self.fail(f"{value!r} is no size; wanted a share such as 0.6 or 60%, or bytes such as 200kB.", param, ctx)
        return float(found[1]) * {None: 1, "%": 0.01, "B": 1, "kB": 1000, "MB": 1_000_000}[found[2]]


model_options = options(
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
    section="Model",
)
json_option = options(click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."), section="General")
threads_option = options(
    number("--threads", click.IntRange(0, MOST_THREADS), "Threads of the runtime; 0: its own choice."), section="General"
)
seed_option = number("--seed", click.IntRange(0), "Seed of everything random.")

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
    calibration_options,
    options(
        click.option(
            "--mixed",
            type=click.Path(dir_okay=False),
            help="Ranking that `sensitivity` wrote; with a budget it gives each of its layers its bits.",
        ),
        click.option(
            "--budget-size",
            type=_Size(),
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
distill_options = options(
    number("--temperature", float, "Softens both distributions."),
    number("--alpha", float, "Weight of the teacher against the labels, 0 to 1; 1 needs no labels."),
    number("--label-smoothing", float, "Share of a label that is spread over all classes."),
    choice("--kl", "forward|reverse", "KL(teacher || student), or KL(student || teacher) as in MNN."),
    click.option(
        "--features",
        multiple=True,
        metavar="NAME",
        help="Inner value to be like the teacher's: its NAME, TEACHER=STUDENT, or auto: the last at each resolution. May be repeated.",
    ),
    number("--feature-weight", float, "Weight of the features' error beside the rest of the loss."),
    click.option(
        "--also-teacher",
        "also_teachers",
        type=click.Path(dir_okay=False),
        multiple=True,
        help="A further teacher of the same images and classes; all are averaged. May be repeated.",
    ),
    section="Distillation",
)
train_options = options(
    number("--epochs", float, "Passes over the images; parts are fine."),
    number("--batch-size", int, "Images a step."),
    number("--lr", float, "Peak learning rate of weights and biases.", "learning_rate"),
    number("--step-rate", float, "Peak learning rate of the quantization steps, relative to their size."),
    choice("--learn-steps", "none|weights|all", "Which quantization steps are learned."),
    choice("--schedule", "constant|linear|cosine", "Learning rate after the warm-up."),
    number("--warmup", float, "Share of the steps over which the rate rises."),
    choice("--optimizer", "adamw|sgd", "For weights and biases; steps always use Adam."),
    number("--momentum", float, "Of sgd."),
    number("--weight-decay", float, "Of the weights; biases and steps are left alone."),
    number("--clip-norm", float, "Largest norm of the gradient; 0: any."),
    number("--accumulate", int, "Batches whose gradients make one update."),
    number("--ema", float, "Decay of a running mean of the parameters, which is then evaluated and kept; 0: none."),
    number("--patience", int, "Evaluations without a better score after which training stops; 0: never."),
    number("--max-minutes", float, "Time after which training stops; 0: no limit."),
    number("--evaluate-every", int, "Steps between evaluations; 0: each epoch."),
    number("--save-every", int, "Steps between checkpoints; 0: at evaluations alone."),
    click.option("--freeze", multiple=True, help="Parameters left as they are: a name or pattern. May be repeated."),
    choice("--on-nonfinite", "stop|rewind", "When the loss is no longer finite; rewind: back, at half the rate."),
    click.option(
        "--validation",
        type=int,
        default=5000,
        show_default=True,
        help="Images held out of --data to choose the best student.",
    ),
    seed_option,
    click.option(
        "--seeds",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Train with so many seeds, from --seed on, each into its folder seed-K; the best on the held-out images is kept.",
    ),
    click.option(
        "--split-seed",
        type=click.IntRange(0),
        help="Seed of which images calibrate and are held out.  [default: that of --seed]",
    ),
    options(
        click.option("--flip", is_flag=True, help="Flip training images at random, left to right."),
        number("--shift", int, "Shift training images at random by up to so many pixels."),
        number("--crop", float, "Train on random parts of at least this share of the area, resized; 0: off."),
        number("--colour", float, "Strength of random brightness, contrast and saturation, 0 to 1."),
        number("--mixup", float, "Largest share of another image mixed into each, 0 to 0.5."),
        section="Augmentation",
    ),
    options(
        click.option(
            "--resume",
            is_flag=True,
            help="Continue the run in the output folder where it was interrupted; one that is finished is left as it is.",
        ),
        click.option(
            "--log-every", type=click.IntRange(1), default=10, show_default=True, help="Steps between lines of log.jsonl."
        ),
        click.option(
            "--tensorboard",
            is_flag=True,
            help="Write event files for TensorBoard too, into the folder tensorboard in the run's.",
        ),
        click.option(
            "--report/--no-report",
            default=True,
            show_default=True,
            help="Write report.html and report.json at the end; `onnx-distill report` makes them later.",
        ),
        click.option(
            "--preflight/--no-preflight",
            default=True,
            show_default=True,
            help="Check the gradient of every parameter on a few images first.",
        ),
        click.option(
            "--profile",
            type=click.Path(dir_okay=False),
            default="",
            callback=_writable,
            help="File for the runtime's profile of the steps; the dearest kinds of node are printed. For short runs.",
        ),
        section="Run",
    ),
    section="Training",
)


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
