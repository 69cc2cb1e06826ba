"""A run that is over stays as it is when it is continued; one that something stopped goes on."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from test_cli import onnx_distill
from test_cli_runs import QUICK, train

NOTHING_LEFT = "is finished: nothing is left to train"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(files: Path, folder: Path, more: str = "") -> str:
    data = f"--data {files}/test.npz --test-data {files}/test.npz --mean 127.5 --scale 0.01 --weight-bits 3 --samples 20"
    return f"run {files}/teacher.onnx {data} {QUICK} {more} -o {folder}"


COMMANDS = {"train": train, "run": run}
MORE = {"one seed": "", "seeds": "--seeds 2", "early stopping": "--patience 1 --learn-steps none --lr 1e-12"}


@pytest.mark.parametrize("more", list(MORE.values()), ids=list(MORE))
@pytest.mark.parametrize("command", list(COMMANDS))
def test_finished_run_that_is_continued_keeps_every_byte_and_prints_its_result_again(files, tmp_path, command, more):
    line = COMMANDS[command](files, tmp_path / "run", more + " --report")
    first, before = onnx_distill(line), contents(tmp_path / "run")
    again = onnx_distill(line + " --resume")
    assert first.code == again.code == 0, first.err + again.err
    assert NOTHING_LEFT in again.err and "\nepoch" not in again.err
    assert again.out == first.out and contents(tmp_path / "run") == before


@pytest.mark.parametrize("command", list(COMMANDS))
def test_what_is_missing_of_a_finished_run_is_made(files, tmp_path, command):
    """Report and result hold measured times: of these not the bytes are the same, but that they are there."""
    folder, more = tmp_path / "run", "--report"
    assert onnx_distill(COMMANDS[command](files, folder, more)).code == 0
    before = contents(folder)
    missing = {"student.int8.onnx", "report.html", "report.json"} | ({"result.json"} if command == "run" else set())
    for name in missing:
        (folder / name).unlink()
    assert onnx_distill(COMMANDS[command](files, folder, more + " --resume")).code == 0
    after = contents(folder)
    assert before.keys() == after.keys()
    measured = missing - {"student.int8.onnx"}
    assert {name: after[name] for name in after.keys() - measured} == {
        name: before[name] for name in before.keys() - measured
    }


def test_report_of_a_finished_run_that_wanted_none_is_made_when_it_is_wanted(files, tmp_path):
    folder = tmp_path / "run"
    assert onnx_distill(train(files, folder)).code == 0 and not (folder / "report.html").exists()
    result = onnx_distill(train(files, folder, "--report --resume"))
    assert result.code == 0 and NOTHING_LEFT in result.err and (folder / "report.html").is_file()


def test_finished_run_that_is_continued_with_other_options_is_refused_and_names_them(files, tmp_path):
    assert onnx_distill(train(files, tmp_path / "run")).code == 0
    before = contents(tmp_path / "run")
    result = onnx_distill(train(files, tmp_path / "run", "--lr 2e-3 --resume"))
    assert result.code == 2 and "was trained with other options (lr was 0.3, is 0.002); repeat" in result.err
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("seeds", ["", "--seeds 2"], ids=["one seed", "seeds"])
@pytest.mark.parametrize("changed", ["student", "teacher", "data"])
def test_finished_run_of_what_has_changed_since_is_refused_and_names_it(files, tmp_path, changed, seeds):
    """The file has the same name, as after another `quantize` to it, and another content."""
    of = {"student": "s.onnx", "teacher": "teacher.onnx", "data": "test.npz"}
    for name in of.values():
        shutil.copy(files / name, tmp_path / name)
    assert onnx_distill(train(tmp_path, tmp_path / "run", seeds)).code == 0
    before, path = contents(tmp_path / "run"), tmp_path / of[changed]
    if changed == "data":
        stored = np.load(path)
        np.savez(path, images=stored["images"], labels=stored["labels"][::-1])
    else:
        model = onnx.load(str(path))
        model.doc_string = "another"
        onnx.save(model, str(path))
    result = onnx_distill(train(tmp_path, tmp_path / "run", f"{seeds} --resume"))
    assert result.code == 2 and f"another --{changed}: what it names has changed since" in result.err
    assert contents(tmp_path / "run") == before


def test_with_overwrite_a_finished_run_is_trained_again_to_the_same_bytes(files, tmp_path):
    assert onnx_distill(train(files, tmp_path / "run")).code == 0
    before = contents(tmp_path / "run")
    result = onnx_distill(train(files, tmp_path / "run", "--overwrite"))
    assert result.code == 0 and NOTHING_LEFT not in result.err
    same = before.keys() - {"trained.json"}  # it has the seconds that training took
    assert {name: contents(tmp_path / "run")[name] for name in same} == {name: before[name] for name in same}


def test_training_anew_in_the_folder_of_a_finished_run_that_is_killed_is_not_taken_for_finished(files, tmp_path):
    folder, more = tmp_path / "run", "--epochs 20 --save-every 1 --log-every 1"
    assert onnx_distill(train(files, folder, more)).code == 0
    whole = contents(folder)
    process = subprocess.Popen([sys.executable, "-m", "onnx_distill", *train(files, folder, f"{more} --overwrite").split()])
    while process.poll() is None and not (folder / "checkpoints").is_dir():
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not (folder / "trained.json").exists()
    result = onnx_distill(train(files, folder, more + " --resume"))
    assert result.code == 0 and NOTHING_LEFT not in result.err
    assert (folder / "log.jsonl").read_bytes() == whole["log.jsonl"]


@pytest.mark.parametrize("seeds", ["", "--seeds 2"], ids=["one seed", "seeds"])
def test_run_that_ran_out_of_time_goes_on_when_it_is_continued_to_the_same_bytes(files, tmp_path, seeds):
    """Each try has time for a step or two; the last has no limit."""
    whole, cut, more = tmp_path / "whole", tmp_path / "cut", f"--log-every 1 {seeds}"
    assert onnx_distill(train(files, whole, more)).code == 0
    for _ in range(2):
        late = onnx_distill(train(files, cut, more + " --max-minutes 1e-9 --resume"))
        assert late.code == 0 and "1e-09 minutes are over; --resume goes on" in late.err
        assert (cut / "student.int8.onnx").is_file() and not (cut / "trained.json").exists()
        if not seeds:
            assert "score" in json.loads((cut / "log.jsonl").read_text().splitlines()[-1])  # of what it came to
    result = onnx_distill(train(files, cut, more + " --resume"))
    assert result.code == 0 and NOTHING_LEFT not in result.err
    for name in ("student.int8.onnx", "trained.qdq.onnx", "log.jsonl"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    assert NOTHING_LEFT in onnx_distill(train(files, cut, more + " --resume")).err


def test_run_that_ctrl_c_stopped_goes_on_when_it_is_continued_to_the_same_bytes(files, tmp_path):
    whole, cut, more = tmp_path / "whole", tmp_path / "cut", "--epochs 60 --save-every 3 --log-every 1"
    assert onnx_distill(train(files, whole, more)).code == 0
    command = [sys.executable, "-m", "onnx_distill", *train(files, cut, more).split()]
    listens = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # pytest in the background does not
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=listens)
    log = cut / "log.jsonl"
    while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < 50):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(60) == 0 and not (cut / "trained.json").exists()
    result = onnx_distill(train(files, cut, more + " --resume"))
    assert result.code == 0 and NOTHING_LEFT not in result.err
    for name in ("student.int8.onnx", "trained.qdq.onnx", "log.jsonl"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name


def test_damaged_word_of_a_finished_run_is_one_line(files, tmp_path):
    assert onnx_distill(train(files, tmp_path / "run")).code == 0
    (tmp_path / "run" / "trained.json").write_text(json.dumps({"score": 1}))
    result = onnx_distill(train(files, tmp_path / "run", "--resume"))
    assert result.code == 2 and "trained.json is damaged; remove it to train again" in result.err
