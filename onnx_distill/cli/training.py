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
from onnx_distill.cli.inputs import budget_of, chosen, load
from onnx_distill.cli.judging import judge
from onnx_distill.cli.looking import print_rows
from onnx_distill.cli.options import options as listed
from onnx_distill.cli.outcome import effort, end_run, gain, stop_code
from onnx_distill.cli.parts import batch_sizes_of, images_of_run, images_to_train
from onnx_distill.cli.progress import Run
from onnx_distill.cli.quantize_options import quantize_options
from onnx_distill.cli.reporting import check_report, finish, held_out_part
from onnx_distill.cli.sections import command
from onnx_distill.cli.terminal import tell, warn
from onnx_distill.cli.train_options import BOARD, distill_options, train_options
from onnx_distill.config import DistillConfig, QuantizeConfig, TrainConfig
from onnx_distill.cut import cut as cut_model
from onnx_distill.errors import InputError
from onnx_distill.page.run_report import Measured, measured
from onnx_distill.ready import distillation
from onnx_distill.ready.deployable import classes_of, deployable, logits_model
from onnx_distill.run.folder import TRAINED, RunFolder, made_folder, student_file
from onnx_distill.run.refused import lost_by_rows, lost_by_training
from onnx_distill.run.result import forget_result, mark_refused
from onnx_distill.run.seeds import told_of_seeds, train_seeds
from onnx_distill.run.watch import Watch
from onnx_distill.training.trained import Trained

# What `--help` lists of the sixty options of both commands; --help-all lists all.
FEW = frozenset(
    "data labels test_data preset mean scale label_offset class_names weight_bits activation_bits target teacher epochs batch_size flip "
    "resume overwrite latency threads output config".split()
)


@command(short_help="Distill the teacher into a QDQ student.", few=FEW)
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
    with made_folder(output) as path:
        folder, watch = _run_folder(ctx, path, resume, log_every)
        original, qdq = load(teacher, input_shape, constants), models.load(student)
        also = [load(path, input_shape, constants) for path in also_teachers]
        float_model = logits_model(qdq, original)
        images = images_to_train(float_model, ctx.params, classes_of(float_model), qdq)
        sources = sources_of(ctx, data=images)
        done, exported = found_finished(ctx, folder, sources), path / student_file(weight_storage)
        if done is None:
            one = functools.partial(distillation.distill, qdq, original, images, validation, loss)
            trained, seeds = _trained(ctx, one, config, folder, watch, also, sources)
            forget_result(path)
            models.save(trained.best.student, path / TRAINED)
        else:
            trained, seeds = done.trained, done.seeds
        if done is None or not exported.is_file():
            models.save(deployable(trained.best.student, original, weight_storage=weight_storage), exported)
        judged = lambda: (lost_by_training(trained.best.student), f"the {trained.best.images:,} held-out images")  # noqa: E731
        exported, why = judge(ctx, exported, judged)
    end_run(folder, trained, sources, seeds, config.profile)
    if report and not trained.interrupted and (done is None or lacks_report(path)):
        watch.stage("report")
        held_out, said = held_out_part(images, validation, config.held_out_seed)
        sizes = batch_sizes_of(ctx.params)
        found = measured(folder.path, original, qdq, held_out, said, weight_storage, config.threads, sizes)
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
        click.echo(f"{exported}: {gain(trained)}")
    if seeds and not as_json:
        click.echo(told_of_seeds(seeds))
    stop_code(ctx, trained, why, exported)


@command(short_help="The whole way in one command, and a table.", few=FEW)
@model_argument("teacher")
@model_options
@data_options
@listed(
    click.option(
        "--test-data",
        type=click.Path(),
        help="Images for the final table; nothing is chosen by them.  [default: a part of --data, which is then used for nothing else]",
    ),
    click.option("--test-labels", type=click.Path(dir_okay=False), help="Their labels; default as for --labels."),
    section="Images",
)
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
    Example: onnx-distill run model.onnx --data photos --preset imagenet -o run

    \b
    With test images of their own, and weights of 4 bits:
      onnx-distill run teacher.onnx --data train.npz --test-data test.npz \\
      --weight-bits 4 -o run
    """
    quantization, loss, config = (chosen(kind, options) for kind in (QuantizeConfig, DistillConfig, TrainConfig))
    budget = budget_of(options)
    with made_folder(output) as path:
        folder, watch = _run_folder(ctx, path, resume, log_every)
        original = load(teacher, input_shape, constants)
        also = [load(path, input_shape, constants) for path in also_teachers]
        float_model = cut_model(original, logits)
        classes = classes_of(float_model)
        images, test, said = images_of_run(float_model, ctx.params, classes)
        sources = sources_of(ctx, data=images, test_data=test)
        done, exported = found_finished(ctx, folder, sources), path / student_file(weight_storage)
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
                batch_sizes_of(ctx.params),
                folder.make_way,
            )
            trained, seeds, rows = outcome.trained, next(iter(several), None), outcome.rows
            found = Measured(rows, outcome.scores, test, said) if report else None
        exported, why = judge(ctx, exported, lambda: (lost_by_rows(rows), said))
        mark_refused(path, why)
    end_run(folder, trained, sources, seeds, config.profile)
    print_rows(rows, as_json, seeds, why)
    if seeds and not as_json:
        click.echo(told_of_seeds(seeds))
    tell(f"{exported}: {effort(trained)}")
    if found is not None:
        watch.stage("report")
        finish(ctx, folder.path, original, found)
    stop_code(ctx, trained, why, exported)


def _run_folder(ctx, path: Path, resume: bool, log_every: int) -> tuple[RunFolder, Watch]:
    """The folder with its configuration ready to be written, and what tells the terminal of a run."""
    check_report(ctx)
    told = Run()
    ctx.call_on_close(told.end)
    track = ctx.params["track"]
    board, trackers = ctx.params["tensorboard"] or BOARD in track, [name for name in track if name != BOARD]
    folder = RunFolder(path, resume, log_every, warn, board, ctx.params["overwrite"], trackers)
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
    seeds = train_seeds(
        one, config, count, folder, ctx.info_name, options, watch, ctx.params["resume"], ctx.params["overwrite"], sources
    )
    return seeds.result, seeds.facts()
