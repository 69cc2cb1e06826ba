"""Event files, read back by TensorBoard's own loader: the same numbers as in the log, once, also after an interruption."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_cli import onnx_distill
from test_cli_runs import train

from onnx_distill.run.folder import RunFolder
from onnx_distill.run.tensorboard import FOLDER, LOSS, RATE, SCORE, Board
from onnx_distill.training.trained import Checkpoint, Progress


def shown(folder: Path) -> dict[str, dict[int, float]]:
    """Tag -> step -> value, as TensorBoard would draw it."""
    board = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})  # 0: all of them
    board.Reload()
    return {tag: {event.step: event.value for event in board.Scalars(tag)} for tag in board.Tags()["scalars"]}


def logged(folder: Path) -> dict[str, dict[int, float]]:
    """The same from log.jsonl, whose epochs have 12 steps."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {
        LOSS: {line["step"]: np.float32(line["loss"]) for line in lines if "step" in line},
        RATE: {line["step"]: np.float32(line["learning_rate"]) for line in lines if "step" in line},
        SCORE: {round(12 * line["epoch"]): np.float32(line["score"]) for line in lines if "epoch" in line},
    }


def test_event_files_hold_what_the_log_holds(files, tmp_path):
    run = tmp_path / "run"
    assert onnx_distill(train(files, run, "--tensorboard --log-every 5")).code == 0
    assert shown(run) == logged(run) and list(shown(run)[LOSS]) == [1, 5, 10, 15, 20, 24]


def test_a_run_that_begins_anew_leaves_no_old_events(files, tmp_path):
    run = tmp_path / "run"
    for seed in (1, 2):
        assert onnx_distill(train(files, run, f"--tensorboard --overwrite --seed {seed}")).code == 0
    assert len(list((run / "tensorboard").iterdir())) == 1 and shown(run) == logged(run)


def test_a_run_that_was_killed_and_continued_is_drawn_once(files, tmp_path):
    run, more = tmp_path / "run", "--tensorboard --epochs 60 --log-every 1 --save-every 7 --lr 0.02 --step-rate 0.02"
    process = subprocess.Popen(
        [sys.executable, "-m", "onnx_distill", *train(files, run, more).split()], stderr=subprocess.DEVNULL
    )
    while (
        process.poll() is None and not (run / "log.jsonl").exists() or len((run / "log.jsonl").read_text().splitlines()) < 60
    ):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL  # it had not come to its end
    assert onnx_distill(train(files, run, more + " --resume")).code == 0
    assert len(list((run / "tensorboard").iterdir())) == 2 and shown(run) == logged(run)


def test_a_value_is_in_the_file_when_its_step_is_over(tmp_path):
    """So that a checkpoint, which follows, never is ahead of the event files."""
    board = Board(tmp_path / FOLDER)
    for number in range(1, 51):
        board.step(Progress(number, steps=50, images=number, loss=1.0, learning_rate=0.5))
        assert list(shown(tmp_path)[RATE]) == list(range(1, number + 1))


@pytest.mark.parametrize("back_to", [1, 3])
def test_a_run_that_goes_back_is_drawn_once(tmp_path, back_to):
    """As one does that begins again at half the rate, within the second in which it began."""
    folder = RunFolder(tmp_path, log_every=1, tensorboard=True)
    folder.evaluation(Checkpoint(None, 0.5, epoch=0.0, kl=0.25))
    for rate, numbers in ((1.0, range(1, 6)), (0.5, range(back_to, 5)), (0.25, range(1, 4))):
        for number in numbers:
            folder.step(Progress(number, steps=9, images=number, loss=rate, learning_rate=rate))
    folder.finish()
    assert shown(tmp_path) == logged(tmp_path) and shown(tmp_path)[RATE] == {1: 0.25, 2: 0.25, 3: 0.25}


def test_without_tensorboardx_it_is_said_before_the_run(files, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    result = onnx_distill(train(files, tmp_path / "run", "--tensorboard"))
    assert result.code == 2 and "needs tensorboardX; run: pip install 'onnx-distill[tensorboard]'" in result.err
    assert not (tmp_path / "run").exists()
