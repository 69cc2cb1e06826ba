"""Text from everywhere: names that a terminal cannot print, paths of any bytes, files that begin with a byte order mark."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from test_cli import onnx_distill

SCALE = "--mean 127.5 --scale 0.01 --threads 1"
MARK = b"\xef\xbb\xbf"


def process(words: list, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "onnx_distill", *words]
    return subprocess.run(command, capture_output=True, env={**os.environ, **environment})


@pytest.fixture(scope="module")
def chinese(files, tmp_path_factory) -> Path:
    """The teacher of `files` with names of nodes that cp1252 has no letters for, and its student."""
    folder = tmp_path_factory.mktemp("chinese")
    model = onnx.load(str(files / "teacher.onnx"))
    for number, node in enumerate(model.graph.node):
        node.name = f"层{number}"
    onnx.save(model, str(folder / "t.onnx"))
    assert onnx_distill(f"quantize {folder}/t.onnx --data {files}/test.npz {SCALE} -o {folder}/s.onnx").code == 0
    return folder


COMMANDS = {
    "inspect": "inspect {0}/t.onnx",
    "layers": "inspect {0}/t.onnx --layers",
    "compare": "compare {0}/s.onnx --teacher {0}/t.onnx --data {1}/test.npz " + SCALE,
    "sensitivity": "sensitivity {0}/t.onnx --data {1}/test.npz -o {2}/ranking.json " + SCALE,
    "a wrong name": "quantize {0}/t.onnx --data {1}/test.npz --exclude 层9 -o {2}/no.onnx " + SCALE,
}


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8"])
@pytest.mark.parametrize("line", COMMANDS.values(), ids=COMMANDS)
def test_names_that_a_terminal_cannot_print_are_escaped(line, encoding, chinese, files, tmp_path):
    found = process(line.format(chinese, files, tmp_path).split(), PYTHONIOENCODING=encoding)
    assert found.returncode == (2 if "exclude" in line else 0), found.stderr
    assert b"Traceback" not in found.stderr
    name = "层" if encoding == "utf-8" else "\\u5c42"
    assert name in (found.stdout + found.stderr).decode(encoding)


@pytest.mark.skipif(os.name != "posix" or sys.platform == "darwin", reason="paths are Unicode there")
def test_a_path_whose_bytes_are_no_text_is_a_path_for_run_and_report(files, tmp_path):
    folder = os.fsencode(tmp_path) + b"/gr\xf6\xdfe"
    os.mkdir(folder)
    for name in (b"teacher.onnx", b"test.npz"):
        with open(folder + b"/" + name, "wb") as file:
            file.write((files / name.decode()).read_bytes())
    here = lambda name: folder + b"/" + name  # noqa: E731
    run = [
        b"run",
        here(b"teacher.onnx"),
        b"--data",
        here(b"test.npz"),
        b"--test-data",
        here(b"test.npz"),
        b"-o",
        here(b"run"),
    ]
    found = process([*run, *SCALE.encode().split()])
    assert found.returncode == 0, found.stderr
    page = Path(os.fsdecode(here(b"run/report.html"))).read_text(encoding="utf-8")
    assert "gr\\udcf6\\udcdfe" in page
    assert process([b"report", here(b"run")]).returncode == 0


def test_a_byte_order_mark_is_no_part_of_a_list_of_labels_classes_or_options(files, tmp_path):
    lines = (files / "list.txt").read_bytes()
    for name, content in (("plain", b""), ("marked", MARK)):
        (tmp_path / f"{name}.txt").write_bytes(content + lines)
        (tmp_path / f"{name}.yaml").write_bytes(content + b"mean: 127.5\nscale: 0.01\n")
        (tmp_path / f"{name}-classes.txt").write_bytes(content + b"cat\ndog\ncow\n")
    line = (
        "eval {0}/teacher.onnx --data {0}/set --labels {1}/{2}.txt --config {1}/{2}.yaml --threads 1 --batch-sizes '' --json"
    )
    plain, marked = (onnx_distill(line.format(files, tmp_path, name)) for name in ("plain", "marked"))
    assert plain.code == 0 and plain.out == marked.out
    line = (
        "run {0}/teacher.onnx --data {0}/test.npz --test-data {0}/test.npz --class-names {1}/marked-classes.txt -o {1}/run "
    )
    assert onnx_distill(line.format(files, tmp_path) + SCALE).code == 0
    report = (tmp_path / "run" / "report.json").read_text(encoding="utf-8")
    assert "cat" in report and "\\ufeff" not in report and "\ufeff" not in report


def test_labels_in_numbers_may_begin_with_a_mark(files, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 8, 8), np.uint8))
    (tmp_path / "y.txt").write_bytes(MARK + b"0\n1\n2\n")
    line = f"eval {files}/teacher.onnx --data {tmp_path}/x.npy --labels {tmp_path}/y.txt {SCALE} --batch-sizes ''"
    assert onnx_distill(line).code == 0


@pytest.mark.parametrize("how, code, said", [("marked", 0, "report.html"), ("latin", 2, "config.yaml")])
def test_a_configuration_that_was_saved_anew_makes_a_report_or_is_named(how, code, said, files, tmp_path):
    folder = tmp_path / "run"
    line = f"train {files}/s.onnx --teacher {files}/teacher.onnx --data {files}/test.npz {SCALE} --epochs 1 --validation 12 --no-report"
    assert onnx_distill(f"{line} -o {folder}").code == 0
    config = folder / "config.yaml"
    text = config.read_bytes()
    config.write_bytes(MARK + text if how == "marked" else text + "# größe\n".encode("latin-1"))
    found = onnx_distill(f"report {folder} --no-latency")
    assert found.code == code and said in found.err and "Traceback" not in found.err, found.err
