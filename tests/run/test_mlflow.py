"""What MLflow shows is what the log holds: each value once, also of runs that were killed and continued, or went back.

With MLflow itself, an extra (onnx-distill[mlflow]), and a store in a file.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_cli import onnx_distill
from test_cli_runs import train

from onnx_distill.run.folder import RunFolder
from onnx_distill.training.trained import Checkpoint, Progress

NAMES = {"train/loss": "loss", "train/learning_rate": "learning_rate", "held_out/score": "score", "held_out/kl": "kl"}


@pytest.fixture
def client(tmp_path, monkeypatch):
    """MLflow's client of a store of its own."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return mlflow.MlflowClient()


def runs(client) -> list:
    return client.search_runs([client.get_experiment_by_name("onnx-distill").experiment_id])


def shown(client) -> dict[str, list[tuple[int, float]]]:
    """Metric -> (step, value) of each value that the one MLflow run has."""
    [run] = runs(client)
    history = {name: client.get_metric_history(run.info.run_id, name) for name in NAMES}
    return {name: sorted((metric.step, metric.value) for metric in metrics) for name, metrics in history.items()}


def logged(folder: Path) -> dict[str, list[tuple[int, float]]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    steps = [line.get("after_step", line.get("step")) for line in lines]
    return {
        name: sorted((step, line[key]) for step, line in zip(steps, lines) if key in line) for name, key in NAMES.items()
    }


def test_mlflow_shows_what_the_log_holds_and_the_options(files, tmp_path, client):
    run = tmp_path / "run"
    result = onnx_distill(train(files, run, "--track mlflow --log-every 5"))
    assert result.code == 0, result.err
    assert shown(client) == logged(run) and [step for step, _ in shown(client)["train/loss"]] == [1, 5, 10, 15, 20, 24]
    [made] = runs(client)
    assert made.info.status == "FINISHED" and made.info.run_name == "run"
    assert made.data.params["batch_size"] == "4" and made.data.params["lr"] == "0.3"


def test_a_run_that_was_killed_and_continued_is_one_run_with_each_value_once(files, tmp_path, client):
    run, more = tmp_path / "run", "--track mlflow --epochs 10 --log-every 1 --save-every 7 --lr 0.02 --step-rate 0.02"
    process = subprocess.Popen(
        [sys.executable, "-m", "onnx_distill", *train(files, run, more).split()], stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not (
        (run / "log.jsonl").exists() and len((run / "log.jsonl").read_text().splitlines()) >= 40
    ):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL  # it had not come to its end
    assert onnx_distill(train(files, run, more + " --resume")).code == 0
    assert shown(client) == logged(run)


def test_each_seed_is_a_run_of_its_own(files, tmp_path, client):
    assert onnx_distill(train(files, tmp_path / "run", "--track mlflow --seeds 2")).code == 0
    assert sorted(run.info.run_name for run in runs(client)) == ["seed-0", "seed-1"]


@pytest.mark.parametrize("back_to", [1, 3])
def test_a_run_that_goes_back_is_shown_without_what_it_went_back_from(tmp_path, client, back_to):
    folder = RunFolder(tmp_path / "run", log_every=1, track=("mlflow",))
    (tmp_path / "run").mkdir()
    folder.write_config("train", {"lr": 0.5})
    folder.evaluation(Checkpoint(None, 0.5, epoch=0.0, kl=0.25))
    for rate, numbers in ((1.0, range(1, 6)), (0.5, range(back_to, 5))):
        for number in numbers:
            folder.step(Progress(number, steps=9, images=number, loss=rate, learning_rate=rate))
    folder.finish()
    assert shown(client) == logged(tmp_path / "run")
    assert dict(shown(client)["train/loss"]) == {n: 1.0 if n < back_to else 0.5 for n in range(1, 5)}


def test_a_store_that_cannot_be_reached_is_named_before_the_run(files, tmp_path, client, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://x")
    result = onnx_distill(train(files, tmp_path / "run", "--track mlflow"))
    assert result.code == 2 and "MLflow cannot be reached (" in result.err and "Traceback" not in result.err
    assert not (tmp_path / "run").exists()


def test_without_mlflow_it_is_said_before_the_run(files, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    result = onnx_distill(train(files, tmp_path / "run", "--track mlflow"))
    assert result.code == 2 and "--track mlflow needs mlflow; run: pip install 'onnx-distill[mlflow]'" in result.err
    assert not (tmp_path / "run").exists()


def test_tensorboard_is_a_tracker_too(files, tmp_path):
    assert onnx_distill(train(files, tmp_path / "run", "--track tensorboard")).code == 0
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1


def test_a_store_that_fails_later_is_said_once_and_the_run_goes_on(tmp_path, client):
    said: list[str] = []
    folder = RunFolder(tmp_path / "run", log_every=1, warn=said.append, track=("mlflow",))
    (tmp_path / "run").mkdir()
    folder.write_config("train", {})
    for number in range(1, 4):
        folder.step(Progress(number, steps=9, images=number, loss=1.0, learning_rate=0.5))
        if number == 1:
            with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
                store.execute("DROP TABLE metrics")
                store.commit()
    assert len(said) == 1 and said[0].startswith("MLflow: ") and said[0].endswith("the run goes on")
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 3
