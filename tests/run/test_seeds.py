"""Several seeds: each is the run that it would be alone, the best is kept, finished ones are not trained again."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import pytest
from test_cli import onnx_distill
from test_cli_runs import QUICK, train

from onnx_distill.files.settings import read_settings
from onnx_distill.run.seeds import Seeds, told_of_seeds
from onnx_distill.training.trained import Checkpoint, Trained


def result_of(line: str) -> dict:
    result = onnx_distill(line + " --json")
    assert result.code == 0, result.err
    return json.loads(result.out)


def of(*scores: tuple[float, float]) -> Seeds:
    """Seeds 5, 6, ... with these (score, KL)."""
    made = (Trained(Checkpoint(None, score, 1.0, kl, 8), (), 0, 0.0, False) for score, kl in scores)
    return Seeds(dict(enumerate(made, start=5)))


def test_best_is_the_first_of_the_lowest_kl_and_the_spread_of_the_scores_is_told():
    seeds = of((0.75, 0.5), (0.5, 0.125), (0.25, 0.25), (0.75, 0.125))
    assert seeds.facts() == {
        "scores": {"5": 0.75, "6": 0.5, "7": 0.25, "8": 0.75},
        "kls": {"5": 0.5, "6": 0.125, "7": 0.25, "8": 0.125},
        **{"seed": 6, "median": 0.625, "lowest": 0.25, "highest": 0.75},
    }
    assert (
        told_of_seeds(seeds.facts()) == "seed 6 has the lowest KL of 4: median 62.50 %, 25.00 to 75.00 % on held-out images"
    )


def test_each_seed_is_the_run_that_it_would_be_alone_and_the_best_is_exported(files, tmp_path):
    found = result_of(train(files, tmp_path / "all", "--seed 3 --seeds 3"))
    scores, kls = found["seeds"]["scores"], found["seeds"]["kls"]
    assert list(scores) == list(kls) == ["3", "4", "5"] and len(set(kls.values())) == 3
    assert kls[str(found["seeds"]["seed"])] == found["kl"] == min(kls.values())
    assert found["seeds"]["median"] == median(scores.values()) and not found["kept"]
    for seed, score in scores.items():
        alone = result_of(train(files, tmp_path / seed, f"--seed {seed} --split-seed 3"))
        one, two = (folder / "trained.qdq.onnx" for folder in (tmp_path / seed, tmp_path / "all" / f"seed-{seed}"))
        assert alone["best"] == score and one.read_bytes() == two.read_bytes()
    best = tmp_path / str(found["seeds"]["seed"])
    for name in ("trained.qdq.onnx", "student.int8.onnx", "log.jsonl"):
        assert (tmp_path / "all" / name).read_bytes() == (best / name).read_bytes(), name


def test_text_result_names_the_best_seed_and_the_spread(files, tmp_path):
    result = onnx_distill(train(files, tmp_path / "run", "--seeds 2"))
    assert (
        result.code == 0
        and result.out.splitlines()[1].startswith("seed ")
        and "has the lowest KL of 2: median" in result.out
    )


def test_configurations_repeat_all_seeds_and_each_alone(files, tmp_path):
    assert onnx_distill(train(files, tmp_path / "all", "--seed 3 --seeds 2")).code == 0
    settings = read_settings(tmp_path / "all" / "config.yaml", ["seeds", "seed"] + list(everything(tmp_path / "all")))
    assert settings["seeds"] == 2 and settings["seed"] == 3
    assert onnx_distill(f"train --config {tmp_path}/all/seed-4/config.yaml -o {tmp_path}/alone").code == 0
    one, two = (tmp_path / name / "trained.qdq.onnx" for name in ("alone", "all/seed-4"))
    assert one.read_bytes() == two.read_bytes()


def everything(folder: Path) -> dict:
    import yaml

    return yaml.safe_load((folder / "config.yaml").read_text())


def stopped_at_seed_1(files, run: Path, more: str, number: int) -> subprocess.Popen:
    """The command, sent the signal when the second of its seeds has logged twenty lines."""
    command = [sys.executable, "-m", "onnx_distill", *train(files, run, more).split()]
    listens = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # pytest in the background does not
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stderr=pipe, stdout=subprocess.DEVNULL, text=True, preexec_fn=listens)
    log = run / "seed-1" / "log.jsonl"
    while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < 20):
        time.sleep(0.002)
    process.send_signal(number)
    return process


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl-C"])
def test_seeds_that_were_stopped_go_on_where_they_were(files, tmp_path, number):
    more = "--seeds 3 --epochs 8 --save-every 3 --log-every 1"
    whole = result_of(train(files, tmp_path / "whole", more))
    process = stopped_at_seed_1(files, tmp_path / "cut", more, number)
    _, told = process.communicate(timeout=120)
    if number == signal.SIGINT:
        assert process.returncode == 0 and "interrupted at seed 1, 2 of 3; --resume goes on there" in told
        assert (tmp_path / "cut" / "student.int8.onnx").is_file()
    first = tmp_path / "cut" / "seed-0" / "trained.json"
    written = first.stat().st_mtime_ns
    found = result_of(train(files, tmp_path / "cut", more + " --resume"))
    assert first.stat().st_mtime_ns == written  # not trained again
    assert found["seeds"] == whole["seeds"]
    for name in ("trained.qdq.onnx", "student.int8.onnx", "seed-1/trained.qdq.onnx", "seed-1/log.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert not list(tmp_path.glob("cut/seed-*/checkpoints"))


def test_seed_that_was_done_with_other_options_is_refused(files, tmp_path):
    assert onnx_distill(train(files, tmp_path / "run", "--seeds 2")).code == 0
    result = onnx_distill(train(files, tmp_path / "run", "--seeds 2 --lr 2e-3 --resume"))
    assert result.code == 2 and "run was trained with other options (lr was 0.3, is 0.002); repeat" in result.err
    result = onnx_distill(train(files, tmp_path / "run", "--seeds 3 --lr 2e-3 --resume"))
    assert result.code == 2 and "seed-0 was trained with other options (lr was 0.3, is 0.002); repeat" in result.err


def test_further_seeds_are_trained_beside_those_that_are_done(files, tmp_path):
    assert onnx_distill(train(files, tmp_path / "run", "--seeds 2")).code == 0
    written = (tmp_path / "run" / "seed-1" / "trained.json").stat().st_mtime_ns
    found = result_of(train(files, tmp_path / "run", "--seeds 3 --resume"))
    assert list(found["seeds"]["scores"]) == ["0", "1", "2"]
    assert (tmp_path / "run" / "seed-1" / "trained.json").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    "more, words",
    [("--seeds 0", "0 is not in the range x>=1"), ("--seeds 2 --profile p.json", "--profile is for one training")],
)
def test_useless_seeds_are_refused(files, tmp_path, more, words):
    result = onnx_distill(train(files, tmp_path / "run", more))
    assert result.code == 2 and words in result.err


def test_run_measures_the_best_seed(files, tmp_path):
    data = f"--data {files}/test.npz --test-data {files}/test.npz --mean 127.5 --scale 0.01 --weight-bits 3"
    rows = result_of(f"run {files}/teacher.onnx {data} {QUICK} --report --seeds 2 -o {tmp_path}/run")
    seeds = rows[-1]["seeds"]
    best = tmp_path / "run" / f"seed-{seeds['seed']}" / "trained.qdq.onnx"
    assert (tmp_path / "run" / "trained.qdq.onnx").read_bytes() == best.read_bytes()
    assert set(seeds["scores"]) == {"0", "1"} and (tmp_path / "run" / "report.html").is_file()
