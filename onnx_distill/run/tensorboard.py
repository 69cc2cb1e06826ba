"""A run as TensorBoard shows it: loss, learning rate and held-out score by step, in event files that any viewer of them reads.

Written by tensorboardX, an extra: the format is protobuf in checksummed records, and 90 kB of pure Python has it already.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from onnx_distill.errors import InputError
from onnx_distill.training.trained import Checkpoint, Progress

FOLDER, PATTERN = "tensorboard", "events.out.tfevents.*"
LOSS, RATE, SCORE = "train/loss", "train/learning_rate", "held_out/score"


class Board:
    """Event files in `folder`; what an earlier run left there goes, unless that run is continued."""

    def __init__(self, folder: Path, resumed: int = -1):
        """resumed: the step that the run is continued from; -1: from none. Raises InputError without tensorboardX."""
        try:
            import tensorboardX  # noqa: F401
        except ImportError:
            raise InputError("--tensorboard needs tensorboardX; run: pip install 'onnx-distill[tensorboard]'") from None
        self._folder, self._resumed = folder, resumed
        self._writer: Any = None

    def step(self, progress: Progress) -> None:
        self._write(progress.step, {LOSS: progress.loss, RATE: progress.learning_rate})

    def evaluation(self, checkpoint: Checkpoint, step: int) -> None:
        """step: after which it was."""
        self._write(step, {SCORE: checkpoint.score})

    def forget_from(self, step: int) -> None:
        """The run goes back: what was written of this step and of later ones is shown no more."""
        self.close()
        self._writer, self._resumed = None, step - 1

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _write(self, step: int, values: dict[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        try:
            if self._writer is None:
                self._writer = self._begun()
            for name, value in values.items():
                self._writer.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
            self._writer.flush()
        except OSError as error:
            raise InputError(
                f"cannot write to {self._folder}: {error.strerror or error}. Free space and --resume."
            ) from None

    def _begun(self):
        """A writer of a new file; not a SummaryWriter, whose thread may still hold values when a checkpoint of their step is kept."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._folder.mkdir(parents=True, exist_ok=True)
        files = list(self._folder.glob(PATTERN))
        if self._resumed < 0:
            for path in files:
                path.unlink()
            return EventsWriter(str(self._folder / "events"))
        # files of one second have one name without the suffix; they are read in its order
        writer = EventsWriter(str(self._folder / "events"), f".{len(files)}")
        writer.write_event(Event(step=self._resumed + 1, session_log=SessionLog(status=SessionLog.START)))
        return writer
