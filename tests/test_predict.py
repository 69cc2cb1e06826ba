"""Answers for images: the probabilities that onnxruntime gives, as lines, as JSON and for a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from PIL import Image
from test_cli import TEACHER, onnx_distill

from onnx_distill.predict import Answer, answers

SCALE = "--mean 127.5 --scale 0.01 --threads 1"


def expected(files: Path, pixels: np.ndarray) -> np.ndarray:
    """What onnxruntime itself says of uint8 [n, 8, 8]: probabilities [n, 3]."""
    session = ort.InferenceSession(str(files / "teacher.onnx"), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": ((pixels[:, None].astype(np.float32) - 127.5) * 0.01).astype(np.float32)})[0]


@pytest.fixture(scope="module")
def pixels(files) -> np.ndarray:
    return np.load(files / "test.npz")["images"]


@pytest.fixture(scope="module")
def names(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("names") / "classes.txt"
    path.write_text("ant, red\nbee\ncow\n")
    return path


def as_table(found: list[dict], classes: int = 3) -> np.ndarray:
    """Probabilities [n, classes] of what --json printed."""
    table = np.full((len(found), classes), np.nan)
    for row, image in enumerate(found):
        for answer in image["answers"]:
            table[row, answer["class"]] = answer["probability"]
    return table


# ---- the answers


def test_answers_are_the_likeliest_classes_with_their_probabilities():
    logits = np.log([[0.1, 0.7, 0.2], [0.5, 0.25, 0.25]])
    found = answers(logits, 2)
    assert [[answer.number for answer in one] for one in found] == [[1, 2], [0, 1]]  # of equal ones the first
    np.testing.assert_allclose([[answer.share for answer in one] for one in found], [[0.7, 0.2], [0.5, 0.25]])


def test_more_answers_than_classes_are_all_classes():
    assert answers(np.zeros((1, 2)), 5) == [[Answer(0, 0.5), Answer(1, 0.5)]]


# ---- the command


def test_probabilities_are_those_of_onnxruntime(files, pixels):
    result = onnx_distill(f"predict {files}/teacher.onnx {files}/test.npz {SCALE} --json")
    assert result.code == 0 and result.err.splitlines() == [
        f"{files}/test.npz: 60 images, read as x = (pixel - 127.5) * 0.01, RGB"
    ]
    found = json.loads(result.out)
    np.testing.assert_allclose(as_table(found), expected(files, pixels), atol=1e-6)
    assert [one["image"] for one in found[:2]] == ["image 0", "image 1"]
    assert all(one["answers"][0]["class"] == best for one, best in zip(found, expected(files, pixels).argmax(axis=1)))


def test_a_real_student_answers_as_under_onnxruntime(fashion_test, tmp_path):
    """The teacher of models/ says itself how its pixels are prepared; nothing is given."""
    few = fashion_test.subset(np.arange(20))
    np.save(tmp_path / "few.npy", few.pixels[:20])
    result = onnx_distill(f"predict {TEACHER} {tmp_path}/few.npy --json --top-k 11")
    assert result.code == 0, result.err
    session = ort.InferenceSession(str(TEACHER), providers=["CPUExecutionProvider"])
    [wanted] = session.run(
        [session.get_outputs()[0].name], {session.get_inputs()[0].name: few.read(np.arange(20)).astype(np.float32)}
    )
    np.testing.assert_allclose(as_table(json.loads(result.out), 11), wanted.reshape(20, -1), atol=1e-5)


def test_image_files_are_named_with_their_folders_and_classes_by_the_names_given(files, pixels, names):
    result = onnx_distill(
        f"predict {files}/teacher.onnx {files}/set --class-names {names} --workers 0 --top-k 1 --json {SCALE}"
    )
    assert result.code == 0, result.err
    found, best = json.loads(result.out), expected(files, pixels).argmax(axis=1)
    assert [one["image"] for one in found[:2]] == ["a/00.png", "a/01.png"]
    called = ["ant, red", "bee", "cow"]
    assert [one["answers"][0]["name"] for one in found] == [called[number] for number in best]
    assert all(len(one["answers"]) == 1 for one in found)


def test_folders_of_images_that_are_fewer_than_the_classes_name_none(files, tmp_path):
    (tmp_path / "set" / "b").mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "set" / "b" / "1.png")
    result = onnx_distill(f"predict {files}/teacher.onnx {tmp_path}/set --workers 0 --json {SCALE}")
    assert result.code == 0 and all(answer["name"] is None for answer in json.loads(result.out)[0]["answers"])


def test_single_image_files_are_read_in_the_order_given_and_named_as_given(files, pixels):
    paths = [files / "set" / "b" / "25.png", files / "set" / "a" / "03.png"]
    result = onnx_distill(f"predict {files}/teacher.onnx {paths[0]} {paths[1]} --json {SCALE}")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert [one["image"] for one in found] == [str(path) for path in paths]
    np.testing.assert_allclose(as_table(found), expected(files, pixels[[25, 3]]), atol=1e-6)


def test_lines_are_one_an_image_with_names_and_shares(files, pixels, names):
    result = onnx_distill(
        f"predict {files}/teacher.onnx {files}/set/a/03.png --class-names {names} --top-k 2 --workers 0 {SCALE}"
    )
    [line] = result.out.splitlines()
    shares = expected(files, pixels[[3]])[0]
    first, second = np.argsort(-shares)[:2]
    called = ["ant, red", "bee", "cow"]
    assert (
        line.split()
        == (
            f"{files}/set/a/03.png {called[first]} {100 * shares[first]:.2f} % {called[second]} {100 * shares[second]:.2f} %"
        ).split()
    ), line


@pytest.mark.parametrize("place", ["-", "answers.csv"])
def test_csv_has_one_row_an_image(files, pixels, names, tmp_path, place):
    path = place if place == "-" else f"{tmp_path}/{place}"
    result = onnx_distill(
        f"predict {files}/teacher.onnx {files}/set --class-names {names} --workers 0 --top-k 2 --csv {path} {SCALE}"
    )
    assert result.code == 0, result.err
    text = result.out if place == "-" else (tmp_path / place).read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0]) == ["image", "class", "name", "probability", "class_2", "name_2", "probability_2"]
    shares = expected(files, pixels)
    assert [int(row["class"]) for row in rows] == shares.argmax(axis=1).tolist()
    np.testing.assert_allclose([float(row["probability"]) for row in rows], shares.max(axis=1), atol=1e-6)
    assert {row["name"] for row in rows} <= {"ant, red", "bee", "cow"}  # a comma in a name is quoted
    assert place == "-" or result.out == f"{path}: 60 images\n"


def test_an_exported_student_and_its_qdq_form_answer(files, tmp_path):
    for made in ("s.onnx", "int8.onnx"):
        if made == "int8.onnx":
            line = f"export {files}/s.onnx --teacher {files}/teacher.onnx -o {tmp_path}/{made}"
            assert onnx_distill(line).code == 0
        path = files / made if made == "s.onnx" else tmp_path / made
        result = onnx_distill(f"predict {path} {files}/test.npz --json {SCALE}")
        assert result.code == 0, result.err
        assert np.nansum(as_table(json.loads(result.out)), axis=1) == pytest.approx(np.ones(60))


def test_broken_images_are_named_and_left_out(files, tmp_path):
    for number, content in enumerate([(files / "set/a/00.png").read_bytes(), b"no image"]):
        (tmp_path / f"{number}.png").write_bytes(content)
    line = f"predict {files}/teacher.onnx {tmp_path} --workers 0 --json {SCALE}"
    assert "1 of 2 images cannot be read (1.png:" in onnx_distill(line).err
    result = onnx_distill(f"{line} --max-broken 0.5")
    assert result.code == 0 and [one["image"] for one in json.loads(result.out)] == ["0.png"]
    assert "skipped 1.png" in result.err


@pytest.mark.parametrize(
    "line, said",
    [
        ("{0}/teacher.onnx {0}/test.npz {0}/list.txt", "test.npz is no image file; wanted files ending in"),
        ("{0}/teacher.onnx {0}/missing", "no file {0}/missing"),
        ("{0}/teacher.onnx {0}/missing.png", "no file {0}/missing.png"),
        ("{0}/teacher.onnx {0}/test.npz --csv - --json", "--csv and --json are both given"),
        ("{0}/teacher.onnx {0}/test.npz --csv {1}/no/a.csv", "Make the folder {1}/no first"),
        ("{0}/teacher.onnx {0}/test.npz --top-k 0", "'--top-k'"),
    ],
)
def test_mistakes_are_one_line(files, tmp_path, line, said):
    result = onnx_distill(f"predict {line.format(files, tmp_path)} {SCALE}")
    assert result.code == 2 and said.format(files, tmp_path) in result.err and "Traceback" not in result.err
    assert result.out == ""


def test_a_model_whose_answers_are_no_numbers_is_named(files, tmp_path):
    model = onnx.load(str(files / "teacher.onnx"))
    for tensor in model.graph.initializer:
        if tensor.name == "b2":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([np.nan, 0, 0], np.float32), "b2"))
    onnx.save(model, str(tmp_path / "nan.onnx"))
    result = onnx_distill(f"predict {tmp_path}/nan.onnx {files}/test.npz {SCALE}")
    assert result.code == 2 and "scores of 60 images are NaN" in result.err
