"""The disk fills up while a checkpoint is written: one clear line, the last good checkpoint intact, and the run goes on from it.

A limit on the size of files stands for the full disk: below a checkpoint's size the kernel refuses to write on, as a full disk does.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_cli import onnx_distill
from test_cli_runs import train

from onnx_distill.errors import InputError
from onnx_distill.training.state import State, StateStore

MORE = "--save-every 3 --epochs 40 --log-every 1"


def store_of(run: Path) -> StateStore:
    return StateStore(run / "checkpoints")


def run_until_the_disk_is_full(line: str, run: Path) -> subprocess.Popen:
    """The command, allowed from its second checkpoint on to write no file longer than half of one."""
    command = [sys.executable, "-m", "onnx_distill", *line.split()]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while process.poll() is None and len(list((run / "checkpoints").glob("step-*.ckpt"))) < 2:
        time.sleep(0.002)
    half = max(path.stat().st_size for path in (run / "checkpoints").glob("step-*.ckpt")) // 2
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (half, half))
    return process


def test_full_disk_is_one_line_and_the_last_good_checkpoint_is_continued_to_the_same_bytes(files, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert onnx_distill(train(files, whole, MORE)).code == 0
    process = run_until_the_disk_is_full(train(files, cut, MORE), cut)
    _, told = process.communicate(timeout=120)
    last = told.strip().splitlines()[-1]
    assert process.returncode == 2 and "Traceback" not in told
    good = store_of(cut).newest()
    assert good is not None and last.startswith("error: cannot write ") and "File too large. Free space" in last
    assert last.endswith(f"--resume goes on from step {good.step}.")
    assert not [name for name in os.listdir(cut / "checkpoints") if name.endswith(".part")]
    assert onnx_distill(train(files, cut, MORE + " --resume")).code == 0
    for name in ("student.int8.onnx", "trained.qdq.onnx", "log.jsonl"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name


@contextlib.contextmanager
def small_files():
    """No file may become longer than 4 kB, pytest's own output included: for one call, and no longer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_checkpoint_that_finds_no_room_leaves_the_ones_before_it(tmp_path):
    store = StateStore(tmp_path)
    store.save(State(1, {"small": np.zeros(8, np.float32)}, {}))
    with pytest.raises(InputError, match="File too large. Free space .* --resume goes on from step 1."), small_files():
        store.save(State(2, {"large": np.zeros(4096, np.float32)}, {}))
    assert store.newest().step == 1 and os.listdir(tmp_path) == ["step-00000001.ckpt"]
