"""What a notebook shows: short forms of what the functions give, tables of plain values, a bar while it trains."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from test_api import CLIPPED, QUICK, RECIPE
from test_cli import classifier

import onnx_distill as od
from onnx_distill.training.score import Score

PLAIN = (int, float, str, type(None))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> onnx.ModelProto:
    path = tmp_path_factory.mktemp("notebook") / "teacher.onnx"
    onnx.save(classifier(), str(path))
    return od.load_model(path)


@pytest.fixture(scope="module")
def images(teacher):
    rng = np.random.default_rng(0)
    return od.read_images(rng.integers(0, 256, (60, 6, 6), np.uint8), teacher, rng.integers(0, 3, 60))


@pytest.fixture(scope="module")
def student(teacher, images) -> onnx.ModelProto:
    return od.quantize_model(od.cut_model(teacher), images, CLIPPED, threads=1, **QUICK)


@pytest.fixture(scope="module")
def trained(student, teacher, images):
    return od.train_model(student, teacher, images, training=RECIPE, **QUICK)


@pytest.fixture(scope="module")
def outcome(teacher, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook") / "run"
    return od.run_pipeline(teacher, images, images, folder, CLIPPED, training=RECIPE, **QUICK)


def test_images_show_how_many_of_which_size_and_their_labels(images):
    assert repr(images) == "ArrayImages(60 images 1x6x6, labels 1 to 3)"  # the teacher's label_offset is 1
    assert repr(images.subset(np.arange(0))) == "ArrayImages(0 images of no size, no labels)"
    assert repr(od.read_images(np.zeros((2, 3, 4), np.uint8))) == "ArrayImages(2 images 1x3x4, no labels)"


def test_a_training_shows_its_best_student_in_words_and_no_model(trained):
    assert repr(trained).startswith("Trained(the student of epoch ") and " of 12 held-out images, KL " in repr(trained)
    assert repr(trained.best).startswith("Checkpoint(epoch ") and str(trained.best) in repr(trained.best)
    assert max(len(repr(trained)), len(repr(trained.best))) < 160


def test_a_score_shows_its_means():
    assert repr(Score(0.5, np.array([0.25, 0.75]))) == "Score(50.00 % of 2 images, KL 0.5)"


def test_a_run_shows_its_student_and_what_each_model_is_worth(outcome):
    assert repr(outcome).startswith(f"Outcome({outcome.student}: float top-1 ") and ", PTQ top-1 " in repr(outcome)
    assert len(repr(outcome)) < 400


def test_evaluations_are_a_dict_that_shows_itself_as_a_table(teacher, student, images):
    found = od.evaluate_models({"float": teacher, "PTQ": student}, images, threads=1, batch_sizes=(2,))
    assert list(found) == ["float", "PTQ"] and found["PTQ"].count == 60 and found == dict(found)
    head, first, second = repr(found).splitlines()
    assert "batch 2, ms" in head and first.startswith("float ") and second.startswith("PTQ ")


def test_tables_have_a_row_of_plain_values_for_each_model_and_evaluation(teacher, student, images, trained, outcome):
    found = od.evaluate_models({"float": teacher, "PTQ": student}, images, threads=1, batch_sizes=(1, 2))
    for records, count in ((found.records(), 2), (outcome.records(), len(outcome.rows)), (trained.records(), 3)):
        assert len(records) == count and len({tuple(record) for record in records}) == 1  # the same columns in each
        assert all(isinstance(value, PLAIN) for record in records for value in record.values())
    first = found.records()[0]
    assert first["model"] == "float" and first["top1"] == found["float"].top1
    assert first["latency_seconds_batch_2"] == found["float"].latency_seconds[2]
    assert [(row["epoch"], row["score"]) for row in trained.records()] == list(trained.scores)


def test_progress_is_a_bar_on_stderr_and_changes_nothing(student, teacher, images, trained, capsys):
    shown = od.train_model(student, teacher, images, training=RECIPE, progress=True, **QUICK)
    out, err = capsys.readouterr()
    assert out == "" and "train: 100%" in err and "held out " in err
    assert shown.best.student == trained.best.student and shown.scores == trained.scores


def test_without_progress_nothing_is_shown(student, teacher, images, capsys):
    od.train_model(student, teacher, images, training=RECIPE, **QUICK)
    assert capsys.readouterr() == ("", "")
