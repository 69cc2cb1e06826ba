"""The report of a run: written at its end, and made again from its folder."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from onnx_distill import model as models
from onnx_distill.cli.configuration import changed, command_line, merged
from onnx_distill.cli.general_options import config_option, latency_option, model_options, threads_option
from onnx_distill.cli.image_options import class_names_option, data_options
from onnx_distill.cli.inputs import load, open_data
from onnx_distill.cli.options import options
from onnx_distill.cli.parts import batch_sizes_of, part_for_the_table
from onnx_distill.cli.sections import command
from onnx_distill.cli.terminal import tell, warn
from onnx_distill.data import Images, split
from onnx_distill.errors import InputError
from onnx_distill.page.run_report import Measured, measured, report_of, write_report
from onnx_distill.ready.deployable import classes_of, deployable, logits_model
from onnx_distill.report import table
from onnx_distill.run.folder import CONFIG, TRAINED, student_file
from onnx_distill.run.refused import exported_in
from onnx_distill.run.seeds import best_so_far

RUN = "onnx_distill.run"  # in the context of `report`: that of the command that made the run
COMMENT = re.compile(r"# onnx-distill (\w+) --config")  # the first line of a run's config.yaml


def check_report(ctx: click.Context) -> None:
    """Warns of a report that cannot be drawn at the end. Raises InputError where it was asked for on the command line."""
    if not ctx.params["report"] or importlib.util.find_spec("matplotlib") is not None:
        return
    missing = "matplotlib is missing; pip install 'onnx-distill[report]', or --no-report"
    if ctx.get_parameter_source("report") == ParameterSource.COMMANDLINE:
        raise InputError(f"a report cannot be made: {missing}.")
    warn(f"there will be no report.html: {missing}")


def finish(ctx: click.Context, folder: Path, teacher, found: Measured) -> None:
    """The report of the run that the running command has just made."""
    params = ctx.params
    commands = _commands(ctx, folder)
    try:
        report = report_of(
            folder, teacher, found, merged(ctx), commands, params["weight_storage"], params["threads"], changed(ctx)
        )
        tell(str(write_report(report, folder)))
    except InputError as error:
        warn(f"no report.html: {error}")


def held_out_part(images: Images, validation: int | None, seed: int) -> tuple[Images, str]:
    """The images that chose the best student, and what to call them."""
    part = split(images, validation, seed)[1]
    return part, f"{len(part):,} images held out of the training images, which also chose the best student"


def _commands(ctx: click.Context, folder: Path) -> list[str]:
    again = shlex.join(["onnx-distill", str(ctx.info_name), "--config", str(folder / CONFIG), "-o", f"{folder}-again"])
    return [command_line(ctx), f"{again}    # repeats the run", shlex.join(["onnx-distill", "report", str(folder)])]


def _with_student(folder: Path) -> Path:
    """The folder, or where it has no student that of the best of its seeds."""
    if (folder / TRAINED).is_file():
        return folder
    best = best_so_far(folder)
    if best is None:
        raise InputError(
            f"no {TRAINED} in {folder}: the run has not come to its end; go on with the command that began it, and --resume."
        )
    tell(f"no {TRAINED} in {folder}: the report is of its best seed so far, {best}")
    return best


def _read_run(ctx: click.Context, _, path: str) -> str:
    """What the run was made with becomes the defaults of its report; the context of its own command is kept."""
    if ctx.resilient_parsing:
        return path
    file = Path(path) / CONFIG
    if not file.is_file():
        raise InputError(
            f"no {CONFIG} in {path}; wanted the folder of a run, such as `onnx-distill run ... -o {path}` makes."
        )
    name = COMMENT.match(file.read_text(encoding="utf-8-sig", errors="replace"))  # what else is wrong with it is found below
    root = ctx.find_root().command
    made_by = root.get_command(ctx, name[1]) if name and isinstance(root, click.Group) else None
    if made_by is None:
        raise InputError(
            f"{file} does not say which command made it; wanted `# onnx-distill run --config` in its first line."
        )
    path = str(_with_student(Path(path)))
    made = made_by.make_context(made_by.name, ["--config", str(Path(path) / CONFIG), "-o", path], parent=ctx.parent)
    ctx.meta[RUN] = made
    ours = {parameter.name for parameter in ctx.command.params}
    found = {name: value for name, value in (made.default_map or {}).items() if name in ours}
    ctx.default_map = {**found, **(ctx.default_map or {})}
    return path


@command(short_help="The report of a run again, from its folder.")
@click.argument("run", type=click.Path(file_okay=False), is_eager=True, callback=_read_run)
@options(
    click.option("--teacher", type=click.Path(dir_okay=False), help="The original float model.  [default: the run's]"),
)
@model_options
@data_options
@class_names_option
@latency_option
@threads_option
@config_option
@click.pass_context
def report(ctx, run, teacher, latency, threads, input_shape, constants, **options):
    """Make the report of a run again, from its folder: report.html and report.json, and the table.

    Measures on the run's test images, or on those that `train` held out, unless --data names others. What
    `onnx-distill verify ... --json > RUN/verify.json` found is shown too.

    \b
    Example: onnx-distill report run
    """
    made, folder = ctx.meta[RUN], Path(run)
    params, storage = made.params, made.params["weight_storage"]
    original, trained = load(teacher, input_shape, constants), models.load(folder / TRAINED)
    images, said = _images(ctx, made, original, trained, options)
    if not exported_in(folder, storage).is_file():  # one seed of several has none of its own
        exported = deployable(trained, original, weight_storage=storage)
        models.save(exported, folder / student_file(storage))
    found = measured(folder, original, _student(params, folder), images, said, storage, threads, batch_sizes_of(ctx.params))
    click.echo(table(found.rows))
    commands = _commands(made, folder)
    page = report_of(folder, original, found, merged(made), commands, storage, threads, changed(made))
    tell(str(write_report(page, folder)))


def _images(ctx: click.Context, made: click.Context, teacher, student, options: dict[str, Any]) -> tuple[Images, str]:
    """Those named here; else the run's test images; else what it held out."""
    typed = lambda name: ctx.get_parameter_source(name) in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)  # noqa: E731
    if typed("data"):
        options = {**options, "labels": options["labels"] if typed("labels") else None}
    params, of_run = made.params, made.info_name == "run" and not typed("data")
    if of_run and params["test_data"] is not None:
        options = {**options, "data": params["test_data"], "labels": params["test_labels"]}
    float_model = logits_model(student, teacher)
    images = open_data(float_model, options, classes=classes_of(float_model), student=student)
    if of_run and params["test_data"] is None:
        return part_for_the_table(images, options["data"])[1:]
    if typed("data") or of_run:
        return images, f"{len(images):,} images of {options['data']}"
    seed = params["split_seed"] if params["split_seed"] is not None else params["seed"]
    return held_out_part(images, params["validation"], seed)


def _student(params: dict[str, Any], folder: Path):
    """The QDQ model that training began with, where it is still there."""
    places = (folder / "student.qdq.onnx", folder.parent / "student.qdq.onnx")  # the latter: of one seed of several
    found = [Path(params["student"])] if "student" in params else places
    return next((models.load(path) for path in found if path.is_file()), None)
