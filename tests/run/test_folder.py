"""log.jsonl of a run that goes back to an earlier step: what was logged since is no part of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onnx_distill.run.folder import RunFolder, made_folder
from onnx_distill.training.trained import Checkpoint, Progress


def step(number: int, rate: float = 1.0) -> Progress:
    return Progress(number, steps=9, images=4 * number, loss=rate, learning_rate=rate)


def evaluation(epoch: float) -> Checkpoint:
    return Checkpoint(None, score=0.5, epoch=epoch, kl=0.25, images=8)


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    """With what comes before the first step, and five steps at the rate 1, an evaluation after every second one."""
    made = RunFolder(tmp_path, log_every=1)
    made.evaluation(evaluation(0))
    for number in range(1, 6):
        made.step(step(number))
        if number % 2 == 0:
            made.evaluation(evaluation(number / 2))
    return made


def logged(path: Path) -> list[tuple]:
    """(step, rate) or (epoch,) of each line."""
    lines = [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
    return [(line["epoch"],) if "epoch" in line else (line["step"], line["learning_rate"]) for line in lines]


def test_a_run_that_goes_forward_keeps_every_line(folder):
    assert logged(folder.path) == [(0,), (1, 1), (2, 1), (1.0,), (3, 1), (4, 1), (2.0,), (5, 1)]


def test_a_run_that_goes_back_leaves_out_the_lines_since_that_step(folder):
    folder.step(step(3, rate=0.5))
    assert logged(folder.path) == [(0,), (1, 1), (2, 1), (1.0,), (3, 0.5)]
    folder.step(step(4, rate=0.5))
    assert logged(folder.path)[-2:] == [(3, 0.5), (4, 0.5)]


def test_a_run_that_begins_again_keeps_what_came_before_its_first_step(folder):
    folder.step(step(1, rate=0.5))
    assert logged(folder.path) == [(0,), (1, 0.5)]


def test_the_same_step_again_takes_the_place_of_the_first(folder):
    folder.step(step(5, rate=0.5))
    assert logged(folder.path)[-2:] == [(2.0,), (5, 0.5)]


def test_lines_go_though_the_step_that_it_goes_back_to_was_not_logged(tmp_path):
    """Of steps 1, 4, 8 are logged; it goes back to 6, which is none of them."""
    made = RunFolder(tmp_path, log_every=4)
    for number in range(1, 9):
        made.step(step(number))
    made.step(step(6, rate=0.5))
    assert logged(tmp_path) == [(1, 1), (4, 1)]
    for number in (7, 8, 9):
        made.step(step(number, rate=0.5))
    assert logged(tmp_path) == [(1, 1), (4, 1), (8, 0.5), (9, 0.5)]


@pytest.mark.parametrize("depth", [1, 3])
def test_folders_that_were_made_and_stay_empty_are_gone_again(depth, tmp_path):
    path = tmp_path.joinpath(*"abc"[:depth])
    with made_folder(path):
        assert path.is_dir()
    assert list(tmp_path.iterdir()) == []
    with made_folder(path):
        (path / "x").write_text("")
    with made_folder(path / "more"):
        pass
    assert sorted(tmp_path.rglob("*"))[-1] == path / "x"
