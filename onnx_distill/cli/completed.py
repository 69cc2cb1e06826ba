"""`--resume` of a run that is finished: nothing is trained, only what is missing from its folder is made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import onnx

from onnx_distill import model as models
from onnx_distill.cli.configuration import merged
from onnx_distill.cli.parts import batch_sizes_of
from onnx_distill.cli.terminal import tell
from onnx_distill.data import Images
from onnx_distill.facts.provenance import contents_sha256, file_sha256
from onnx_distill.page.run_report import PAGE, Measured, measured
from onnx_distill.run.finished import Finished, finished
from onnx_distill.run.folder import RunFolder
from onnx_distill.run.refused import is_refused
from onnx_distill.run.result import Row, read_rows, write_result


def sources_of(ctx: click.Context, **images: Images) -> dict[str, str]:
    """Fingerprints of what the running command trains: of the models that it names, and of images, by the option that names them."""
    named = {"student": ctx.params.get("student"), "teacher": ctx.params["teacher"]}
    named.update({f"also-teacher {path}": path for path in ctx.params["also_teachers"]})
    return {
        **{name: file_sha256(path) for name, path in named.items() if path},
        **{name.replace("_", "-"): contents_sha256(found) for name, found in images.items()},
    }


def found_finished(ctx: click.Context, folder: RunFolder, sources: dict[str, str]) -> Finished | None:
    """What the run in the folder came to, where the running command is to continue one that is finished; it is told.

    Raises InputError where it is a run with other options or of other images, finished or not."""
    path = folder.path
    done = finished(path, merged(ctx), sources) if ctx.params["resume"] else None
    if done is None:
        folder.check_images(sources["data"])
        return None
    if ctx.params["max_drop"] is not None or is_refused(path, ctx.params["weight_storage"]):
        (path / PAGE).unlink(missing_ok=True)  # the student is judged again: a page may say otherwise
    tell(f"{path} is finished: nothing is left to train. For another training choose another folder.")
    return done


def lacks_report(folder: Path) -> bool:
    return not (folder / PAGE).is_file()


def complete_result(
    folder: Path, teacher: onnx.ModelProto, images: Images, said: str, ctx: click.Context, configs: dict[str, Any], kept: str
) -> tuple[list[Row], Measured | None]:
    """The rows of result.json, made where they are missing, and what a report wants, where that is missing and wanted.

    configs, kept: what write_result wants.
    """
    rows, wanted = read_rows(folder), ctx.params["report"] and lacks_report(folder)
    if rows is not None and not wanted:
        return rows, None
    qdq = folder / "student.qdq.onnx"
    student = models.load(qdq) if qdq.is_file() else None
    params = ctx.params
    sizes = batch_sizes_of(params)
    found = measured(folder, teacher, student, images, said, params["weight_storage"], params["threads"], sizes)
    if rows is None:
        write_result(folder, found.rows, configs, kept)
    return rows or found.rows, replace(found, rows=rows or found.rows) if wanted else None
