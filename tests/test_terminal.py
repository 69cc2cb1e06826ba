"""What reaches the terminal: a bar where there is one, few lines where there is none, as much as was asked for."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from test_cli import onnx_distill
from test_cli_runs import QUICK, train

from onnx_distill.cli import progress

LONG = "--epochs 40"  # 480 steps, in under a second


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still; moved by assigning to clock.now."""

    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def shown_on_a_terminal(line: str) -> str:
    """What a process writes to stderr, which is a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 100, 0, 0))  # lines and columns
    command = [sys.executable, "-m", "onnx_distill", *line.split()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    found = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # EIO: the other end is closed
            break
        found += part
    assert process.wait() == 0
    os.close(ours)
    return found.decode()


def test_ten_hours_without_a_terminal_are_few_lines(clock, capsys):
    bar = progress.Bar("train", 36_000, "images")
    for second in range(1, 36_001):
        clock.now = float(second)
        bar.update(second, "loss 1.0000")
    lines = capsys.readouterr().err.splitlines()
    assert 100 < len(lines) < 130  # one in five minutes, and a few more in the first ten
    assert lines[0] == "train: 10 of 36,000 images (0 %), 1/s, 9:59:50 left, loss 1.0000"
    assert lines[-1].startswith("train: 35,")


def test_rate_of_a_run_that_is_continued_leaves_out_what_was_done_before(clock, capsys):
    bar = progress.Bar("train", 2000, "images")
    bar.update(1000)
    clock.now = 10.0
    bar.update(1100)
    assert capsys.readouterr().err == "train: 1,100 of 2,000 images (55 %), 10/s, 0:01:30 left\n"


def test_rate_of_a_run_that_goes_back_is_that_since_then(clock, capsys):
    bar = progress.Bar("train", 2000, "images")
    bar.update(1000)
    clock.now = 5.0
    bar.update(100)
    clock.now = 15.0
    bar.update(200)
    assert capsys.readouterr().err == "train: 200 of 2,000 images (10 %), 10/s, 0:03:00 left\n"


def test_without_a_terminal_there_is_no_bar(files, tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "onnx_distill", *train(files, tmp_path / "run", LONG).split()], capture_output=True, text=True
    )
    assert result.returncode == 0
    assert "\r" not in result.stderr and "\x1b" not in result.stderr
    assert all(
        re.match(r"epoch |480 updates of |at update \d+ |.*: 60 images, read as |(warning: )?teacher: ", line)
        for line in result.stderr.splitlines()
    )


def test_on_a_terminal_there_is_a_bar_without_colours(files, tmp_path):
    shown = shown_on_a_terminal(train(files, tmp_path / "run", LONG))
    assert re.search(r"train: +\d+%.*\| \d+/1920 \[", shown) and "loss " in shown
    assert not re.search(r"\x1b\[[\d;]*m", shown)


@pytest.mark.parametrize("name", ["train", "run", "quantize", "eval", "compare"])
def test_quiet_leaves_nothing_but_the_result(name, files, tmp_path):
    data = f"--data {files}/test.npz --mean 127.5 --scale 0.01"
    line = {
        "train": train(files, tmp_path / "run"),
        "run": f"run {files}/teacher.onnx {data} --test-data {files}/test.npz {QUICK} -o {tmp_path}/run",
        "quantize": f"quantize {files}/logits.onnx {data} -o {tmp_path}/s.onnx",
        "eval": f"eval {files}/teacher.onnx {data}",
        "compare": f"compare {files}/s.onnx --teacher {files}/teacher.onnx {data}",
    }[name]
    result = onnx_distill(f"{line} --quiet")
    assert result.code == 0 and result.out
    assert all(line.startswith("warning: ") for line in result.err.splitlines())


def test_verbose_tells_what_was_read_and_how_long_it_took(files, tmp_path):
    data = f"--data {files}/test.npz --test-data {files}/set --workers 0 --mean 127.5 --scale 0.01"
    result = onnx_distill(f"run {files}/teacher.onnx {data} {QUICK} -o {tmp_path}/run -v")
    assert result.code == 0
    assert re.search(r"^onnx-distill \d.*, onnxruntime 1.19.2, Python 3\S+, \d+ processors$", result.err, re.MULTILINE)
    assert f"{files}/test.npz: 60 images 1x8x8, labels 0 to 2, 3 classes\n" in result.err
    assert f"{files}/set: 60 images 1x8x8, labels 0 to 2, 3 classes\n" in result.err
    stages = re.findall(r"^   (\w+) took \d+\.\d s$", result.err, re.MULTILINE)
    assert stages == ["cut", "quantize", "train", "export", "measure"]


def test_quiet_and_verbose_together_are_an_error(files, tmp_path):
    result = onnx_distill(train(files, tmp_path / "run", "--quiet --verbose"))
    assert result.code == 2 and "--quiet and --verbose are both given; wanted one" in result.err
