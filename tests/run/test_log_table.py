"""log.csv holds what log.jsonl holds, row by row, also of a run that went back, was killed, or was trained with several seeds."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_cli import onnx_distill
from test_cli_runs import train

from onnx_distill.run.folder import RunFolder
from onnx_distill.run.log_table import COLUMNS
from onnx_distill.training.trained import Checkpoint, Progress


def rows(folder: Path) -> list[dict[str, float]]:
    """The rows of log.csv without their empty cells, read as a spreadsheet would."""
    with (folder / "log.csv").open(encoding="utf-8", newline="") as file:
        table = csv.DictReader(file, strict=True)
        found = [{name: float(cell) for name, cell in row.items() if cell} for row in table]
        assert tuple(table.fieldnames or ()) == COLUMNS
    return found


def logged(folder: Path) -> list[dict[str, float]]:
    """The lines of log.jsonl, each evaluation with the step after which it was."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for line in lines:
        line["step"] = line.pop("after_step", line.get("step"))
    return lines


def test_table_holds_what_the_log_holds(files, tmp_path):
    run = tmp_path / "run"
    assert onnx_distill(train(files, run, "--log-every 5")).code == 0
    found = rows(run)
    assert found == logged(run)
    assert [row["step"] for row in found if "loss" in row] == [1, 5, 10, 15, 20, 24]
    assert [(row["epoch"], row["step"]) for row in found if "epoch" in row] == [(0, 0), (1, 12), (2, 24)]  # 12 steps each


def test_a_run_that_begins_anew_begins_its_table_anew(files, tmp_path):
    run = tmp_path / "run"
    for seed in (1, 2):
        assert onnx_distill(train(files, run, f"--overwrite --seed {seed}")).code == 0
    assert rows(run) == logged(run) and sum(row.get("epoch") == 0 for row in rows(run)) == 1


def test_table_of_seeds_is_that_of_the_best(files, tmp_path):
    run = tmp_path / "run"
    assert onnx_distill(train(files, run, "--seeds 2")).code == 0
    assert rows(run) == logged(run) and rows(run) in [rows(run / "seed-0"), rows(run / "seed-1")]


def test_a_run_that_was_killed_and_continued_has_each_row_once(files, tmp_path):
    run, more = tmp_path / "run", "--epochs 60 --log-every 1 --save-every 7 --lr 0.02 --step-rate 0.02"
    process = subprocess.Popen(
        [sys.executable, "-m", "onnx_distill", *train(files, run, more).split()], stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not ((run / "log.csv").exists() and (run / "log.csv").read_text().count("\n") >= 60):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL  # it had not come to its end
    with (run / "log.csv").open("a") as file:
        file.write("61,,2")  # as a kill in the middle of a row leaves it
    assert onnx_distill(train(files, run, more + " --resume")).code == 0
    found = rows(run)
    assert found == logged(run)
    assert [row["step"] for row in found if "loss" in row] == list(range(1, 721))


def step(number: int, rate: float = 1.0) -> Progress:
    return Progress(number, steps=9, images=number, loss=rate, learning_rate=rate)


@pytest.mark.parametrize("back_to", [1, 3])
def test_a_run_that_goes_back_has_each_row_once(tmp_path, back_to):
    folder = RunFolder(tmp_path, log_every=1)
    folder.evaluation(Checkpoint(None, 0.5, epoch=0.0, kl=0.25))
    for rate, numbers in ((1.0, range(1, 6)), (0.5, range(back_to, 5))):
        for number in numbers:
            folder.step(step(number, rate))
    folder.evaluation(Checkpoint(None, 0.75, epoch=2.0))
    assert rows(tmp_path) == logged(tmp_path)
    assert [(row["step"], row["loss"]) for row in rows(tmp_path) if "loss" in row] == [
        (number, 1.0 if number < back_to else 0.5) for number in range(1, 5)
    ]
    assert rows(tmp_path)[-1] == {"step": 4, "epoch": 2, "score": 0.75}  # no KL was measured


def test_a_run_of_an_earlier_version_that_is_continued_gets_its_table(files, tmp_path):
    run = tmp_path / "run"
    assert onnx_distill(train(files, run, "--max-minutes 0.0001 --save-every 1")).code == 0
    (run / "log.csv").unlink()
    assert onnx_distill(train(files, run, "--save-every 1 --resume")).code == 0
    assert rows(run) == logged(run) and rows(run)[0]["epoch"] == 0
