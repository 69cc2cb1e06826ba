"""What can be refused is refused before the first image is decoded: a folder of photos takes minutes."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from test_cli import onnx_distill
from test_cli_runs import QUICK

from onnx_distill.data import Preprocess, decoded, find_images, open_images


@pytest.fixture
def unread(files, monkeypatch) -> Path:
    """files, and a test that fails when one of its images is decoded."""
    monkeypatch.setattr(decoded, "decode", lambda *_: pytest.fail("an image was decoded"))
    return files


def line(command: str, files: Path, folder: Path, more: str) -> str:
    model = {"run": f"{files}/teacher.onnx", "train": f"{files}/s.onnx --teacher {files}/teacher.onnx"}[command]
    return f"{command} {model} --data {files}/set --workers 0 --mean 127.5 --scale 0.01 {QUICK} {more} -o {folder}/run"


CASES = [
    ("train run", "--validation 5000", "cannot hold out 5000 of (60|45) images; wanted 1 to (59|44): --validation"),
    ("train run", "--class-names no.txt", "cannot read no.txt: No such file"),
    ("train run", "--preprocess no.yaml", "no file no.yaml"),
    ("train run", "--labels no.txt", "cannot read no.txt: No such file"),
    ("train run", "--label-offset 7", "label 7 .* is outside 0..2"),
    ("train run", "--scale 1 2", "mean and scale are given for 3 channels; images of shape .*60, 8, 8, 1"),
    ("train run", "--max-broken 2", "share of images that may be broken is 2.0"),
    ("train run", "--also-teacher no.onnx", "no file no.onnx"),
    ("run", "--test-data no", "no file no"),
    ("run", "--test-data {files}/test.npz --test-labels no.npy", "no file no.npy"),
    ("run", "--test-data {files}/list.txt", "list.txt starts with bytes .*; wanted an .npz, .npy or IDX"),
    ("run", "--test-data {out}", "no images in .* or its subfolders"),
    ("run", "--test-labels {files}/list.txt", "--test-labels is .*list.txt, but there is no --test-data"),
    ("run", "--mixed no.json", "no.json"),
]


@pytest.mark.parametrize(
    "command, more, words", [(c, more, words) for commands, more, words in CASES for c in commands.split()]
)
def test_a_mistake_is_found_before_an_image_is_decoded(command, more, words, unread, tmp_path):
    result = onnx_distill(line(command, unread, tmp_path, more.format(files=unread, out=tmp_path)))
    assert result.code == 2
    assert re.search(words, result.err), result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
@pytest.mark.parametrize("command", ["train", "run"])
def test_a_folder_that_cannot_be_written_to_is_found_before(command, unread, tmp_path):
    tmp_path.chmod(0o500)
    result = onnx_distill(line(command, unread, tmp_path, ""))
    assert result.code == 2 and "cannot make the folder" in result.err


@pytest.mark.parametrize("command", ["train", "run"])
def test_a_used_folder_is_found_before(command, unread, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text("{}")
    result = onnx_distill(line(command, unread, tmp_path, ""))
    assert result.code == 2 and "has an earlier run (result.json)" in result.err


def test_both_sets_must_find_room_together(files, unread, tmp_path, monkeypatch):
    """60 images of 64 bytes each: there is room for one set."""
    monkeypatch.setattr(decoded.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 60 * 64 + 1}))
    result = onnx_distill(line("run", files, tmp_path, f"--test-data {files}/set"))
    assert result.code == 2 and "the decoded images need" in result.err


@pytest.mark.parametrize("command", ["train", "run"])
def test_a_missing_extra_is_said_first_and_refused_where_it_was_asked_for(command, files, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    missing = "matplotlib is missing; pip install 'onnx-distill[report]', or --no-report"
    quick = line(command, files, tmp_path, "--no-latency").replace(" --no-report", "")
    assert onnx_distill(f"{quick} --report").err == f"error: a report cannot be made: {missing}.\n"
    result = onnx_distill(quick)
    assert result.code == 0 and result.err.splitlines()[0] == f"warning: there will be no report.html: {missing}"


@pytest.mark.parametrize("source, labels", [("set", None), ("set", "list.txt"), ("test.npz", None)])
def test_what_is_found_is_what_is_opened(source, labels, files):
    arguments = files / source, files / labels if labels else None, Preprocess(mean=(3,)), 3, (1, 8, 8)
    found, opened = find_images(*arguments), open_images(*arguments)
    images = found.open()
    assert len(found) == len(images) == len(opened) == 60
    assert found.decoded_bytes == (60 * 64 if source == "set" else 0)
    assert images.labels.tolist() == opened.labels.tolist()
    assert np.array_equal(images.read(np.arange(60)), opened.read(np.arange(60)))
