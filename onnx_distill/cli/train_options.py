"""Options of distillation and training."""

from __future__ import annotations

import click

from onnx_distill.cli.general_options import latency_option, seed_option
from onnx_distill.cli.options import auto, choice, number, options, writable
from onnx_distill.run.folder import TRACKERS

BOARD = "tensorboard"
distill_options = options(
    number("--temperature", float, "Softens both distributions."),
    auto("--alpha", float, "Weight of the teacher against the labels, 0 to 1. auto: 0.9, and 1 for images without labels."),
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
    choice("--train", "auto|always", "auto: a PTQ student whose answers are its teacher's already is not trained."),
    auto(
        "--epochs",
        float,
        "Passes over the images; parts are fine. auto: so many updates as the bits want, in five minutes at most.",
    ),
    auto("--batch-size", int, "Images a step. auto: 64, of images from 128x128 on 32."),
    auto(
        "--lr",
        float,
        "Peak learning rate, in the units of --units. auto: 0.01 in natural ones, 0.02 below 4 bits; in plain ones 0.01 for sgd, 0.001 for adamw.",
        "learning_rate",
    ),
    click.option(
        "--units",
        type=click.Choice(["natural", "plain"]),
        help="natural: a rate of 0.01 moves a weight by 0.01 of its quantization step in an update, in every layer and network "
        "(docs/how-it-works.md); plain: values as they stand.  [default: natural; plain for sgd]",
    ),
    auto(
        "--step-rate",
        float,
        "Peak learning rate of the quantization steps, relative to their size. auto: as --units has it.",
    ),
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
    number("--max-minutes", float, "Time after which training stops (--resume goes on); 0: no limit."),
    number("--evaluate-every", int, "Steps between evaluations; 0: each epoch."),
    number("--save-every", int, "Steps between checkpoints; 0: at evaluations alone."),
    click.option("--freeze", multiple=True, help="Parameters left as they are: a name or pattern. May be repeated."),
    choice("--on-nonfinite", "stop|rewind", "When the loss is no longer finite; rewind: back, at half the rate."),
    auto(
        "--validation",
        int,
        "Images held out of --data, by whose KL to the teacher the best student is chosen. auto: a tenth, at least 128 or a "
        "quarter, at most 5,000.",
    ),
    seed_option,
    click.option(
        "--seeds",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Train with so many seeds, from --seed on, each into its folder seed-K; the one of least KL on the held-out images is kept.",
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
        auto(
            "--mixup",
            float,
            "Largest share of another image mixed into each, 0 to 0.5. auto: 0.4 for few images, seen often; else 0.",
        ),
        section="Augmentation",
    ),
    options(
        click.option(
            "--resume",
            is_flag=True,
            help="Continue the run in the output folder where it was interrupted; one that is finished is left as it is.",
        ),
        click.option(
            "--overwrite",
            is_flag=True,
            help="Replace an earlier run in the output folder; without it and --resume, a folder that has one is refused.",
        ),
        click.option(
            "--max-drop",
            type=click.FloatRange(0),
            help="Percentage points that the student may lose against the float model: in top-1, without labels in equal answers; on the "
            "images of the table, after `train` on those held out. One that loses more is refused, with exit code 1.",
        ),
        click.option(
            "--log-every",
            type=click.IntRange(1),
            default=10,
            show_default=True,
            help="Steps between lines of log.jsonl and log.csv.",
        ),
        click.option(
            "--tensorboard",
            is_flag=True,
            help="Write event files for TensorBoard too, into the folder tensorboard in the run's.",
        ),
        click.option(
            "--track",
            type=click.Choice([BOARD, *TRACKERS]),
            multiple=True,
            help="Log to mlflow too, where MLFLOW_TRACKING_URI says; tensorboard: as --tensorboard. May be repeated.",
        ),
        click.option(
            "--report/--no-report",
            default=True,
            show_default=True,
            help="Write report.html and report.json at the end; `onnx-distill report` makes them later.",
        ),
        latency_option,
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
            callback=writable,
            help="File for the runtime's profile of the steps; the dearest kinds of node are printed. For short runs.",
        ),
        section="Run",
    ),
    section="Training",
)
