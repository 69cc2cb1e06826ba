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
from onnx_distill.run.mlflow_run import MlflowRun
from onnx_distill.run.tensorboard import FOLDER, Board
from onnx_distill.training.state import StateStore
from onnx_distill.training.trained import Checkpoint, Progress

CONFIG, LOG, CHECKPOINTS = "config.yaml", "log.jsonl", "checkpoints"
TRAINED, FACTS = "trained.qdq.onnx", "trained.json"  # the best student, and what says that it is the last word: finished.py


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
        track: Sequence[str] = (),
    ):
        """tensorboard: write event files too. track: names of TRACKERS that are told, too. Raises InputError for a run that was interrupted and is not to be continued: it would be lost."""
        self.path, self.log_every = path, log_every
        self.store = StateStore(path / CHECKPOINTS, on_damaged=warn)
        found = self.store.newest()
        if found is not None and not resume:
            raise InputError(
                f"{path} has a run that was interrupted at step {found.step}; continue it with --resume, or choose another folder."
            )
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

    def begin(self) -> None:
        """The run goes: its configuration is written, once; what a run before it came to no longer counts."""
        if self._config is not None:
            command, options = self._config
            (self.path / FACTS).unlink(missing_ok=True)
            self._keep_log_until(self._resumed)
            write_settings(self.path / CONFIG, options, f"onnx-distill {command} --config {CONFIG}")
            self._config = None
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


def student_file(storage: str) -> str:
    """Name of the exported student in a run folder."""
    return f"student.{storage}.onnx"


@contextlib.contextmanager
def made_folder(path: str | os.PathLike) -> Iterator[Path]:
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
