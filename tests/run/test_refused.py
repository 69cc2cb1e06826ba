"""--max-drop: a student that loses more against its float teacher is refused, and what lies in the folder cannot be taken for a good one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from test_cli import CLIPPED, onnx_distill
from test_cli_runs import QUICK, train

from onnx_distill.data import Preprocess, open_images, split
from onnx_distill.evaluate import Evaluation
from onnx_distill.facts.provenance import provenance
from onnx_distill.run.refused import lost_by_rows, lost_by_training, refusal
from onnx_distill.run.result import Row

KEPT = "--train always --epochs 0.3 --lr 1e-9 --step-rate 0"  # the PTQ student stays: its ranges are clipped, it loses much


def rows(first: float, last: float, agreement: float = 0.9, labelled: bool = True) -> list[Row]:
    shares = (first, last) if labelled else (None, None)
    return [Row("float", Evaluation(10, shares[0], None, 1.0)), Row("PTQ", Evaluation(10, shares[1], None, agreement))]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def whole(files: Path, folder: Path, more: str = "") -> str:
    data = f"--data {files}/test.npz --test-data {files}/test.npz --mean 127.5 --scale 0.01 --weight-bits 3"
    return f"run {files}/teacher.onnx {data} {CLIPPED} {QUICK} {KEPT} {more} -o {folder}"


# ---- how much is lost


def test_what_is_lost_is_top_1_or_without_labels_answers_unlike_the_teachers():
    assert lost_by_rows(rows(0.95, 0.92)) == (3.0, "top-1 92.00 % after float's 95.00 %")
    assert lost_by_rows(rows(0.5, 0.9))[0] == -40
    assert lost_by_rows(rows(0, 0, 0.875, labelled=False)) == (12.5, "87.50 % of the answers are float's")


def test_a_loss_of_just_the_limit_is_none_whatever_floats_make_of_it():
    assert 100 * (0.9466 - 0.9416) > 0.5
    assert refusal(lost_by_rows(rows(0.9466, 0.9416)), 0.5, "ten images") == ""
    said = "refused: loses 0.51 points, more than --max-drop 0.5 (top-1 94.15 % after float's 94.66 %), on ten images"
    assert refusal(lost_by_rows(rows(0.9466, 0.9415)), 0.5, "ten images") == said
    assert refusal(lost_by_rows(rows(0.9, 0.1)), None, "ten images") == ""


def test_a_training_is_judged_by_its_held_out_images(files, tmp_path):
    assert onnx_distill(train(files, tmp_path / "run", KEPT)).code == 0
    made = onnx.load(str(tmp_path / "run" / "student.int8.onnx"))
    images = open_images(files / "test.npz", preprocess=Preprocess(mean=127.5, scale=0.01))
    held_out = split(images, 12, 0)[1]
    right = []
    for path in (files / "teacher.onnx", tmp_path / "run" / "student.int8.onnx"):
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        answers = session.run(None, {"image": held_out.read(np.arange(12))})[0].argmax(axis=1)
        right.append(100 * np.mean(answers == held_out.labels))
    points, said = lost_by_training(made)
    assert points == pytest.approx(right[0] - right[1], abs=1e-3) and points != 0
    assert said == f"top-1 {right[1]:.2f} % after float's {right[0]:.2f} %"


# ---- the commands


@pytest.mark.parametrize("storage", ["int8", "int4"])
def test_run_refuses_a_student_that_loses_more(files, tmp_path, storage):
    folder = tmp_path / "run"
    result = onnx_distill(whole(files, folder, f"--max-drop 0 --weight-storage {storage} --report"))
    assert result.code == 1
    [line] = [line for line in result.err.splitlines() if line.startswith("refused: ")]
    assert "more than --max-drop 0 (top-1 " in line and f", on 60 images of {files}/test.npz" in line
    assert line.endswith(f"It is kept as {folder}/student.{storage}.refused.onnx")
    assert f"student.{storage}.refused.onnx" in names(folder) and f"student.{storage}.onnx" not in names(folder)
    why = json.loads((folder / "result.json").read_text())["refused"]
    assert line.startswith(why)
    assert provenance(onnx.load(str(folder / f"student.{storage}.refused.onnx")))["refused"] == why
    page = (folder / "report.html").read_text()
    assert "student.int8.refused.onnx" in page.replace("int4", "int8") and why.replace("'", "&#x27;") in page
    assert result.out.splitlines()[1].startswith("float ")  # the table is there all the same


def test_run_takes_a_student_that_loses_less(files, tmp_path):
    result = onnx_distill(whole(files, tmp_path / "run", "--max-drop 100"))
    assert result.code == 0 and "refused" not in result.err
    assert "student.int8.onnx" in names(tmp_path / "run")
    assert "refused" not in json.loads((tmp_path / "run" / "result.json").read_text())


def test_with_json_the_last_row_says_that_it_is_refused(files, tmp_path):
    result = onnx_distill(whole(files, tmp_path / "run", "--max-drop 0 --json"))
    assert result.code == 1
    first, *_, last = json.loads(result.out)
    assert last["refused"].startswith("refused: loses ") and "refused" not in first


def test_a_refused_run_that_is_continued_with_another_limit_is_judged_again(files, tmp_path):
    folder = tmp_path / "run"
    assert onnx_distill(whole(files, folder, "--max-drop 0 --report")).code == 1
    again = onnx_distill(whole(files, folder, "--max-drop 0 --report --resume"))
    assert again.code == 1 and "student.int8.onnx" not in names(folder)
    taken = onnx_distill(whole(files, folder, "--max-drop 100 --report --resume"))
    assert taken.code == 0, taken.err
    assert "student.int8.onnx" in names(folder) and "student.int8.refused.onnx" not in names(folder)
    assert "refused" not in json.loads((folder / "result.json").read_text())
    assert "refused: loses" not in (folder / "report.html").read_text()


def test_train_refuses_by_the_images_that_it_held_out(files, tmp_path):
    folder = tmp_path / "run"
    result = onnx_distill(train(files, folder, f"{KEPT} --max-drop 0 --report --json"))
    assert result.code == 1
    [line] = [line for line in result.err.splitlines() if line.startswith("refused: ")]
    assert ", on the 12 held-out images" in line
    said = json.loads(result.out)
    assert said["student"] == f"{folder}/student.int8.refused.onnx" and line.startswith(said["refused"])
    assert (
        "student.int8.onnx" not in names(folder)
        and said["refused"].replace("'", "&#x27;") in (folder / "report.html").read_text()
    )
    assert onnx_distill(train(files, folder, f"{KEPT} --max-drop 100 --report --resume")).code == 0
    assert "student.int8.onnx" in names(folder) and "student.int8.refused.onnx" not in names(folder)


def test_report_of_a_refused_run_leaves_it_refused(files, tmp_path):
    folder = tmp_path / "run"
    assert onnx_distill(whole(files, folder, "--max-drop 0")).code == 1
    result = onnx_distill(f"report {folder}")
    assert result.code == 0, result.err
    assert "student.int8.onnx" not in names(folder) and "refused: loses" in (folder / "report.html").read_text()


def test_inspect_says_that_a_student_was_refused(files, tmp_path):
    assert onnx_distill(train(files, tmp_path / "run", f"{KEPT} --max-drop 0")).code == 1
    assert "refused: loses" in onnx_distill(f"inspect {tmp_path}/run/student.int8.refused.onnx").out
