"""What the commands that train say at their end, and leave behind."""

from __future__ import annotations

from pathlib import Path

import click

from onnx_distill.cli.terminal import QUIET, tell, warn
from onnx_distill.run.finished import leave_facts
from onnx_distill.run.folder import RunFolder
from onnx_distill.training.profile import cost_table, costs
from onnx_distill.training.trained import Trained


def end_run(folder: RunFolder, trained: Trained, sources: dict[str, str], seeds: dict | None, profile: str) -> None:
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


def gain(trained: Trained) -> str:
    """What the student is worth, and what the model that training began with."""
    if not trained.best.epoch:
        return f"the PTQ model, {trained.best}"
    before, speed = 100 * trained.scores[0][1], trained.images_per_second
    return f"{trained.best} after {trained.best.epoch:g} epochs, {before:.2f} % before; {speed:.0f} images/s"


def effort(trained: Trained) -> str:
    """What the student took to make."""
    if not trained.best.epoch:
        return "the PTQ model"
    return f"trained on {trained.images:,} images at {trained.images_per_second:.0f} images/s"


def stop_code(ctx, trained: Trained, refused: str, exported: Path) -> None:
    """1 for a student that is refused, and for a training that diverged: there is something to look at."""
    if refused:
        tell(f"{refused}. It is kept as {exported}", QUIET)
    if refused or "finite" in trained.stopped:
        ctx.exit(1)
