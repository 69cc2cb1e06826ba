from __future__ import annotations

import os

import onnx

from onnx_distill.evaluate import Evaluation
from onnx_distill.page.stored import as_stored, stored_bytes
from onnx_distill.run.result import Row


def test_size_is_that_of_the_file_and_of_its_external_data(files, tmp_path):
    path = files / "teacher.onnx"
    assert stored_bytes(path) == os.path.getsize(path)
    onnx.save(onnx.load(str(path)), str(tmp_path / "t.onnx"), save_as_external_data=True, size_threshold=0)
    assert {file.name for file in tmp_path.iterdir()} > {"t.onnx"}
    assert stored_bytes(tmp_path / "t.onnx") == sum(file.stat().st_size for file in tmp_path.iterdir())


def test_rows_of_files_that_are_gone_keep_what_was_measured(files, tmp_path):
    rows = [Row(name, Evaluation(1, size_bytes=5)) for name in ("float", "PTQ", "distilled")]
    sizes = [row.measured.size_bytes for row in as_stored(rows, str(tmp_path / "gone"), files / "s.onnx")]
    assert sizes == [5, 5, os.path.getsize(files / "s.onnx")]
