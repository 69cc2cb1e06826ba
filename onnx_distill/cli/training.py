"""The commands that train, alone and as part of the whole way: new runs, and those that are continued."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import click

from onnx_distill import model as models
from onnx_distill import pipeline
from onnx_distill.cli.completed import complete_result, found_finished, lacks_report, sources_of
from onnx_distill.cli.configuration import merged
from onnx_distill.cli.general_options import (
    config_option,
    json_option,
    logits_option,
    model_argument,
    model_options,
    output_folder,
    storage_option,
    teacher_option,
    threads_option,
)
from onnx_distill.cli.image_options import class_names_option, data_options
from onnx_distill.cli.inputs import budget_of, chosen, load, open_data
from onnx_distill.cli.judging import judge
from onnx_distill.cli.looking import print_rows
from onnx_distill.cli.progress import Run
from onnx_distill.cli.quantize_options import quantize_options
from onnx_distill.cli.reporting import finish, held_out_part
from onnx_distill.cli.sections import command
from onnx_distill.cli.terminal import QUIET, tell, warn
from onnx_distill.cli.train_options import BOARD, distill_options, train_options
from onnx_distill.config import DistillConfig, QuantizeConfig, TrainConfig
from onnx_distill.cut import cut as cut_model
from onnx_distill.errors import InputError
from onnx_distill.page.run_report import Measured, measured
from onnx_distill.ready import distillation
from onnx_distill.ready.deployable import classes_of, deployable, logits_model
from onnx_distill.run.finished import leave_facts
from onnx_distill.run.folder import TRAINED, RunFolder, made_folder, student_file
from onnx_distill.run.refused import lost_by_rows, lost_by_training
from onnx_distill.run.result import mark_refused
from onnx_distill.run.seeds import told_of_seeds, train_seeds
from onnx_distill.run.watch import Watch
from onnx_distill.training.profile import cost_table, costs
from onnx_distill.training.trained import Trained


@command(short_help="Distill the teacher into a QDQ student.")
@model_argument("student")
@teacher_option
@model_options
@data_options
@distill_options
@train_options
@class_names_option
@storage_option
@threads_option
@output_folder
@json_option
@config_option
@click.pass_context
def train(
    ctx,
    student,
    teacher,
    output,
    validation,
    as_json,
    input_shape,
    constants,
    resume,
    log_every,
    report,
    weight_storage,
    also_teachers,
    **options,
):
    """Distill: the teacher's logits train a QDQ student; the best is exported.

    Where no trained student is better by more than chance, the student that was given is exported, and every output says why.

    Writes trained.qdq.onnx, student.int8.onnx, config.yaml, log.jsonl, log.csv and report.html; with --seeds those of the best,
    and a folder for each seed. Ctrl-C stops and keeps the best so far; a run that was killed goes on with --resume.

    \b
    Example: onnx-distill train student.qdq.onnx --teacher teacher.onnx \\
      --data train.npz --flip -o run
    """
    loss, config = chosen(DistillConfig, options), chosen(TrainConfig, options)
    original, qdq = load(teacher, input_shape, constants), models.load(student)
    also = [load(path, input_shape, constants) for path in also_teachers]
    float_model = logits_model(qdq, original)
    images = open_data(float_model, options, classes=classes_of(float_model), shape_of=qdq)
    sources = sources_of(ctx, data=images)
    with made_folder(output) as path:
        done, exported = found_finished(ctx, path, sources), path / student_file(weight_storage)
        folder, watch = _run_folder(ctx, path, resume, log_every)
        if done is None:
            one = functools.partial(distillation.distill, qdq, original, images, validation, loss)
            trained, seeds = _trained(ctx, one, config, folder, watch, also, sources)
            models.save(trained.best.student, path / TRAINED)
        else:
            trained, seeds = done.trained, done.seeds
        if done is None or not exported.is_file():
            models.save(deployable(trained.best.student, original, weight_storage=weight_storage), exported)
        judged = lambda: (lost_by_training(trained.best.student), f"the {trained.best.images:,} held-out images")  # noqa: E731
        exported, why = judge(ctx, exported, judged)
    _end(folder, trained, sources, seeds, config.profile)
    if report and not trained.interrupted and (done is None or lacks_report(path)):
        watch.stage("report")
        held_out, said = held_out_part(images, validation, config.held_out_seed)
        found = measured(folder.path, original, qdq, held_out, said, weight_storage, config.threads)
        finish(ctx, folder.path, original, found)
    best = trained.best
    result = {
        "student": str(exported),
        "before": trained.scores[0][1],
        "best": best.score,
        "epoch": best.epoch,
        "kl": best.kl,
        "kept": trained.kept,
        **({"seeds": seeds} if seeds else {}),
        **({"refused": why} if why else {}),
    }
    if as_json:
        click.echo(json.dumps({**result, "images_per_second": trained.images_per_second}))
    else:
        click.echo(f"{exported}: {_gain(trained)}")
    if seeds and not as_json:
        click.echo(told_of_seeds(seeds))
    _stop_code(ctx, trained, why, exported)


@command(short_help="The whole way in one command, and a table.")
@model_argument("teacher")
@model_options
@data_options
@click.option(
    "--test-data",
    required=True,
    type=click.Path(),
    help="Images for the final table; nothing is chosen by them.",
)
@click.option("--test-labels", type=click.Path(dir_okay=False), help="Their labels; default as for --labels.")
@logits_option
@quantize_options
@distill_options
@train_options
@class_names_option
@storage_option
@threads_option
@output_folder
@json_option
@config_option
@click.pass_context
def run(
    ctx,
    teacher,
    output,
    test_data,
    test_labels,
    logits,
    samples,
    validation,
    as_json,
    input_shape,
    constants,
    resume,
    log_every,
    report,
    weight_storage,
    also_teachers,
    **options,
):
    """The whole way in one command: cut, quantize, train, export, and a table of what it gained.

    Beside the models the folder gets report.html, report.json, config.yaml, log.jsonl, log.csv and result.json. A run that was
    killed goes on with --resume.

    \b
    Example: onnx-distill run teacher.onnx --data train.npz --test-data test.npz \\
      --weight-bits 4 -o run
    """
    quantization, loss, config = (chosen(kind, options) for kind in (QuantizeConfig, DistillConfig, TrainConfig))
    budget = budget_of(options)
    original = load(teacher, input_shape, constants)
    also = [load(path, input_shape, constants) for path in also_teachers]
    float_model = cut_model(original, logits)
    classes = classes_of(float_model)
    images = open_data(float_model, options, classes=classes)
    test = open_data(float_model, {**options, "data": test_data, "labels": test_labels}, classes=classes)
    said, sources = f"{len(test):,} images of {test_data}", sources_of(ctx, data=images, test_data=test)
    with made_folder(output) as path:
        done, exported = found_finished(ctx, path, sources), path / student_file(weight_storage)
        folder, watch = _run_folder(ctx, path, resume, log_every)
        if done is not None:
            trained, seeds = done.trained, done.seeds
            if not exported.is_file():
                models.save(deployable(trained.best.student, original, None, weight_storage), exported)
            configs = pipeline.choices(quantization, loss, config)
            rows, found = complete_result(path, original, test, said, ctx, configs, trained.kept)
        else:
            several: list[dict] = []

            def distill(student, teacher, images, validation, loss, config, watch, store, also):
                one = functools.partial(distillation.distill, student, teacher, images, validation, loss)
                trained, seeds = _trained(ctx, one, config, folder, watch, also, sources)
                several.extend([seeds] if seeds else [])
                return trained

            outcome = pipeline.run(
                original,
                images,
                test,
                path,
                quantization,
                loss,
                config,
                logits,
                samples,
                validation,
                watch,
                folder.store,
                weight_storage,
                also,
                budget,
                distill,
            )
            trained, seeds, rows = outcome.trained, next(iter(several), None), outcome.rows
            found = Measured(rows, outcome.scores, test, said) if report else None
        exported, why = judge(ctx, exported, lambda: (lost_by_rows(rows), said))
        mark_refused(path, why)
    _end(folder, trained, sources, seeds, config.profile)
    print_rows(rows, as_json, seeds, why)
    if seeds and not as_json:
        click.echo(told_of_seeds(seeds))
    tell(f"{exported}: {_effort(trained)}")
    if found is not None:
        watch.stage("report")
        finish(ctx, folder.path, original, found)
    _stop_code(ctx, trained, why, exported)


def _run_folder(ctx, path: Path, resume: bool, log_every: int) -> tuple[RunFolder, Watch]:
    """The folder with its configuration ready to be written, and what tells the terminal of a run."""
    told = Run()
    ctx.call_on_close(told.end)
    track = ctx.params["track"]
    board = ctx.params["tensorboard"] or BOARD in track
    folder = RunFolder(path, resume, log_every, warn, board, [name for name in track if name != BOARD])
    folder.write_config(ctx.info_name, merged(ctx))
    return folder, told.watch


def _trained(
    ctx, distill, config: TrainConfig, folder: RunFolder, watch, also, sources: dict[str, str]
) -> tuple[Trained, dict | None]:
    """What distill(config, watch, store, also) makes, or with --seeds the best of several and what is known of all."""
    count = ctx.params["seeds"]
    if count == 1:
        return distill(config, watch.also(folder.step, folder.evaluation), folder.store, also), None
    if config.profile:
        raise InputError(f"--profile is for one training, --seeds are {count}; leave one of them out.")
    options = {name: value for name, value in merged(ctx).items() if name != "seeds"}
    one = lambda config, watch, store: distill(config, watch, store, also)  # noqa: E731
    seeds = train_seeds(one, config, count, folder, ctx.info_name, options, watch, ctx.params["resume"], sources)
    return seeds.result, seeds.facts()


def _end(folder: RunFolder, trained: Trained, sources: dict[str, str], seeds: dict | None, profile: str) -> None:
    """A run with nothing left to train says so in its folder, and its checkpoints go; what the steps' time went to is shown."""
    if trained.finished:
        leave_facts(folder.path, trained, sources, seeds)  # of a run that was finished before the same bytes
        folder.finish()
    if trained.kept:
        (warn if trained.images else tell)(trained.kept)  # that PTQ is enough is no reason to worry
    if trained.interrupted:
        warn(f"interrupted; the best so far is kept, and --resume goes on from the last checkpoint in {folder.path}")
    if trained.stopped:
        warn(f"stopped: {trained.stopped}{'; --resume goes on from there' if trained.out_of_time else ''}")
    if profile and Path(profile).is_file():
        click.echo(cost_table(costs(Path(profile))), err=True)


def _gain(trained: Trained) -> str:
    """What the student is worth, and what the model that training began with."""
    if not trained.best.epoch:
        return f"the PTQ model, {trained.best}"
    before, speed = 100 * trained.scores[0][1], trained.images_per_second
    return f"{trained.best} after {trained.best.epoch:g} epochs, {before:.2f} % before; {speed:.0f} images/s"


def _effort(trained: Trained) -> str:
    """What the student took to make."""
    if not trained.best.epoch:
        return "the PTQ model"
    return f"trained on {trained.images:,} images at {trained.images_per_second:.0f} images/s"


def _stop_code(ctx, trained, refused: str, exported: Path) -> None:
    """1 for a student that is refused, and for a training that diverged: there is something to look at."""
    if refused:
        tell(f"{refused}. It is kept as {exported}", QUIET)
    if refused or "finite" in trained.stopped:
        ctx.exit(1)
