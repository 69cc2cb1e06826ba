"""A run's folder: its configuration, log.jsonl and log.csv, checkpoints, and what comes out; made to be continued after any interruption."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, Iterator

from onnx_distill.errors import InputError
from onnx_distill.files.replacing import replacing
from onnx_distill.files.settings import write_settings
from onnx_distill.run.log_table import AFTER, TABLE, add_row, write_table
from onnx_distill.run.mlflow_run import FILE, MlflowRun
from onnx_distill.run.result import RESULT, forget_result
from onnx_distill.run.tensorboard import FOLDER, PATTERN, Board
from onnx_distill.training.record import check_data
from onnx_distill.training.state import State, StateStore
from onnx_distill.training.trained import Checkpoint, Progress

CONFIG, LOG, CHECKPOINTS = "config.yaml", "log.jsonl", "checkpoints"
TRAINED, FACTS = "trained.qdq.onnx", "trained.json"  # the best student, and what says that it is the last word: finished.py
ENDS = (TRAINED, FACTS, RESULT)  # of a run that trained to its end, or was stopped in good order, one of them is there
TRACKERS = {"mlflow": MlflowRun}


class RunFolder:
    """Checkpoints live from the first one to the end of the run; they are what `resume` continues."""

    def __init__(
        self,
        path: Path,
        resume: bool = False,
        log_every: int = 10,
        warn: Callable[[str], None] = lambda text: None,
        tensorboard: bool = False,
        overwrite: bool = False,
        track: Sequence[str] = (),
    ):
        """tensorboard: write event files too. overwrite: an earlier run in the folder goes once this one begins, unless it is continued.
        track: names of TRACKERS that are told, too.

        Raises InputError for a run, interrupted or finished, that is neither to be continued nor to be overwritten: it would be lost.
        """
        self.path, self.log_every = path, log_every
        anew = overwrite and not resume
        self.store = StateStore(path / CHECKPOINTS, on_damaged=warn, anew=anew)
        found = self.store.newest()
        if not anew:
            _refuse_a_loss(path, found, resume)
        self._resume, self._cleared, self._begun = resume, False, False
        self._resumed = found.step if found is not None else -1
        self._scores = len(found.facts.get("scores", ())) if found is not None else 0
        self._step = max(self._resumed, 0)
        self.tensorboard = tensorboard
        self._board = Board(path / FOLDER, self._resumed) if tensorboard else None
        self.track = track
        self._trackers = [TRACKERS[name](path, warn) for name in track]
        self._config: tuple[str, dict[str, Any]] | None = None

    def write_config(self, command: str, options: dict[str, Any]) -> None:
        """The merged options, which `onnx-distill COMMAND --config config.yaml` repeats; written once the run has begun."""
        self._config = command, options

    def check_images(self, data: str) -> None:
        """Raises InputError where what is continued, one of several seeds too, was trained on other images. data: their fingerprint."""
        for place in (self.path, *seed_folders(self.path)) if self._resume else ():
            check_data(StateStore(place / CHECKPOINTS).newest(), data)

    def make_way(self) -> None:
        """What an earlier run left goes, unless this one continues it; once, before the first file of this one."""
        if not self._resume and not self._cleared:
            clear(self.path)
        self._cleared = True

    def begin(self) -> None:
        """The run goes: its configuration is written, once; what a run before it came to no longer counts."""
        if self._begun:
            return
        self._begun = True
        self.make_way()
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / FACTS).unlink(missing_ok=True)
        self._keep_log_until(self._resumed)
        if self._config is not None:
            command, options = self._config
            write_settings(self.path / CONFIG, options, f"onnx-distill {command} --config {CONFIG}")
            for tracker in self._trackers:
                tracker.begin(options, self.log())

    def step(self, progress: Progress) -> None:
        if progress.step <= self._step:  # training went back: what was logged since is no part of it any more
            self._forget_from(progress.step)
            if self._board is not None:
                self._board.forget_from(progress.step)
        self._step = progress.step
        if progress.step % self.log_every == 0 or progress.step in (1, progress.steps):
            self._log(step=progress.step, images=progress.images, loss=progress.loss, learning_rate=progress.learning_rate)
            if self._board is not None:
                self._board.step(progress)

    def evaluation(self, checkpoint: Checkpoint) -> None:
        kl = {"kl": checkpoint.kl} if math.isfinite(checkpoint.kl) else {}
        self._log(epoch=checkpoint.epoch, score=checkpoint.score, **kl, **{AFTER: self._step})
        if self._board is not None:
            self._board.evaluation(checkpoint, self._step)

    def finish(self) -> None:
        """The run is over; what is left to continue is removed."""
        for path in self.store.folder.glob("*") if self.store.folder.is_dir() else ():
            path.unlink()
        with contextlib.suppress(FileNotFoundError):
            self.store.folder.rmdir()
        if self._board is not None:
            self._board.close()
        for tracker in self._trackers:
            tracker.close()

    def log(self) -> list[dict[str, float]]:
        return read_log(self.path)

    def _log(self, **facts: float) -> None:
        self.begin()
        try:
            with (self.path / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(facts) + "\n")
            add_row(self.path, facts)
        except OSError as error:
            raise InputError(
                f"cannot write {self.path / LOG}: {error.strerror or error}. Free space and --resume."
            ) from None
        for tracker in self._trackers:
            tracker.add(facts)

    def _forget_from(self, step: int) -> None:
        """Take the lines from this step on out of the log; evaluations before it stay."""
        kept: list[dict[str, float]] = []
        for line in self.log():
            if line.get("step", 0) >= step:
                break
            kept.append(line)
        self._write_log(kept)
        for tracker in self._trackers:
            tracker.restart(kept)

    def _keep_log_until(self, step: int) -> None:
        """What a run logged after its last checkpoint will be logged again, or, where its time was over, never was part of it."""
        kept: list[dict[str, float]] = []
        for line in self.log() if step >= 0 else []:
            if line.get("step", 0) > step or sum("score" in other for other in [*kept, line]) > self._scores:
                break
            kept.append(line)
        self._write_log(kept)

    def _write_log(self, kept: list[dict[str, float]]) -> None:
        if (self.path / LOG).exists():
            with replacing(self.path / LOG) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
            write_table(self.path, kept)
        else:
            (self.path / TABLE).unlink(missing_ok=True)


def read_log(folder: Path) -> list[dict[str, float]]:
    """The lines of log.jsonl: those with `step` and `loss`, those with `epoch` and `score`; a torn last line is left out."""
    if not (folder / LOG).is_file():
        return []
    found = []
    for line in (folder / LOG).read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def _refuse_a_loss(path: Path, interrupted: State | None, resume: bool) -> None:
    """Raises InputError where a new run would overwrite another one, or where there is none that could be continued."""
    left = [file for place in (path, *seed_folders(path)) for name in ENDS if (file := place / name).is_file()]
    if interrupted is not None and not resume:
        raise InputError(
            f"{path} has a run that was interrupted at step {interrupted.step}; continue it with --resume, replace it with --overwrite, or choose another folder."
        )
    if left and not resume:
        raise InputError(
            f"{path} has an earlier run ({left[0].relative_to(path)}); continue it with --resume, replace it with --overwrite, or choose another folder."
        )
    if left and interrupted is None and not (path / CONFIG).is_file():
        raise InputError(
            f"{path} has a run that is finished ({left[0].relative_to(path)}), and nothing to continue; replace it with --overwrite, or choose another folder."
        )


def seed_folders(path: Path) -> list[Path]:
    """Those of the single seeds of a run of several."""
    return sorted(child for child in path.glob("seed-*") if child.name[len("seed-") :].isdecimal() and child.is_dir())


def clear(path: Path) -> None:
    """Remove what a run writes while it trains and at its end, from its folder and those of its seeds; nothing else there.

    logits.onnx and student.qdq.onnx stay: they may be what is trained."""
    forget_result(path)
    students = [path / student_file(storage) for storage in ("int8", "int4")]
    checkpoints, board = (path / folder for folder in (CHECKPOINTS, FOLDER))
    for file in (
        *(path / name for name in (*ENDS, CONFIG, LOG, TABLE, FILE)),
        *students,
        *(refused_file(student) for student in students),
        *checkpoints.glob("step-*.ckpt"),
        *board.glob(PATTERN),
    ):
        file.unlink(missing_ok=True)
    seeds = seed_folders(path)
    for seed in seeds:
        clear(seed)
    for folder in (checkpoints, board, *seeds):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def student_file(storage: str) -> str:
    """Name of the exported student in a run folder."""
    return f"student.{storage}.onnx"


def refused_file(exported: Path) -> Path:
    """Where a student lies that --max-drop refuses: student.int8.onnx -> student.int8.refused.onnx"""
    return exported.with_suffix(".refused.onnx")


@contextlib.contextmanager
def made_folder(path: str | os.PathLike) -> Iterator[Path]:
    """The folder, made before the work that fills it; it and those above it that were made here are gone again if they stay empty."""
    folder = Path(path)
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror or error}. Choose another place.") from None
    if not os.access(folder, os.W_OK):
        raise InputError(f"cannot write to the folder {folder}. Choose another place.")
    try:
        yield folder
    finally:
        for place in missing:  # the deepest first
            if not any(place.iterdir()):
                place.rmdir()
