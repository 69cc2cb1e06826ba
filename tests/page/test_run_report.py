"""What a report says of a run: which images part, who is right, who is surest; and that it can be made again from the folder."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import CLIPPED, onnx_distill
from test_cli_runs import QUICK

from onnx_distill.data import ArrayImages, Preprocess
from onnx_distill.page import Answer, Partings, run_report

THEIRS = np.array([[4, 0, 0], [4, 0, 0], [0, 4, 0], [0, 0, 4], [1, 0, 0]], np.float32)  # answers 0 0 1 2 0
OURS = np.array([[4, 0, 0], [0, 4, 0], [0, 4, 0], [0, 1, 0], [0, 2, 0]], np.float32)  # answers 0 1 1 1 1
LABELS = np.array([0, 0, 1, 1, 2])


@pytest.fixture
def images() -> ArrayImages:
    pixels = np.arange(5 * 4 * 6, dtype=np.uint8).reshape(5, 4, 6)
    return ArrayImages(pixels, LABELS, Preprocess(mean=100.0, scale=0.01), names=list("abcde"))


def test_partings_count_who_is_right_and_which_answers_are_exchanged():
    found = run_report._partings(THEIRS, OURS, LABELS)
    assert found == Partings(5, 3, teacher_right=1, student_right=1, pairs=((0, 1, 2), (2, 1, 1)))
    assert run_report._partings(THEIRS, OURS, None) == Partings(5, 3, None, None, ((0, 1, 2), (2, 1, 1)))


def test_partings_of_equal_answers_are_none():
    assert run_report._partings(THEIRS, THEIRS, LABELS) == Partings(5, 0, 0, 0, ())


def test_confusion_counts_teacher_by_student():
    counts = run_report._confusion(THEIRS.argmax(axis=1), OURS.argmax(axis=1), 3)
    assert counts.tolist() == [[1, 2, 0], [0, 1, 0], [0, 1, 0]]


def test_disagreements_begin_with_the_surest_and_are_shown_as_stored(images):
    found = run_report._disagreements(images, THEIRS, OURS)
    assert [one.name for one in found] == ["b", "d", "e"] and [one.label for one in found] == [0, 1, 2]
    share = np.exp(4) / (np.exp(4) + 2)
    assert found[0].teacher == Answer(0, pytest.approx(share)) and found[0].student == Answer(1, pytest.approx(share))
    picture = Image.open(io.BytesIO(base64.b64decode(found[0].picture.partition(",")[2])))
    np.testing.assert_array_equal(np.asarray(picture), images.pixels[1])


def test_log_that_went_back_is_drawn_once_and_scores_stand_at_their_steps():
    log = [{"step": 2, "loss": 9.0}, {"step": 4, "loss": 9.0}, {"step": 2, "loss": 1.0}, {"step": 4, "loss": 2.0}]
    steps, scores = run_report._curves([{"epoch": 0.0, "score": 0.5}, *log, {"epoch": 2.0, "score": 0.75}])
    assert [(step, line["loss"]) for step, line in steps.items()] == [(2, 1.0), (4, 2.0)]
    assert scores == [(0, 0.5), (4, 0.75)]


ORIGIN = {"tool": "0.9", "weight_bits": "3", "activation_bits": "8", "temperature": "20.0", "epochs": "2"}
UNFINISHED, KEPT = {**ORIGIN, "epochs": "0"}, {**ORIGIN, "epochs": "0", "kept": "training did not help: no"}


@pytest.mark.parametrize(
    "origin, said",
    [
        (ORIGIN, "W3A8 student of t.onnx, distilled by onnx-distill 0.9: temperature 20.0, epochs 2."),
        (KEPT, "W3A8 student of t.onnx by onnx-distill 0.9. Training did not help: no."),
        (UNFINISHED, "W3A8 student of t.onnx by onnx-distill 0.9. It is the PTQ model: no trained one was better yet."),
    ],
    ids=["trained", "kept", "unfinished"],
)
def test_subtitle_calls_a_student_distilled_only_where_it_is_a_trained_one(origin, said):
    assert run_report._subtitle(origin, {"teacher": "t.onnx"}) == said


# --- from the command line


@pytest.fixture(scope="module")
def run(files, tmp_path_factory) -> Path:
    """The folder of a whole run on a folder of images."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    data = f"--data {files}/set --test-data {files}/set --workers 0 --mean 127.5 --scale 0.01 --weight-bits 3"
    result = onnx_distill(f"run {files}/teacher.onnx {data} {CLIPPED} {QUICK} --report -o {folder}")
    assert result.code == 0, result.err
    return folder


def facts(folder: Path) -> dict:
    found = json.loads((folder / "report.json").read_text())
    for row in found["rows"]:
        del row["measured"]["latency_seconds"]
    return found


def test_report_is_made_again_from_the_folder_of_a_run(run):
    before = facts(run)
    (run / "report.json").unlink()
    (run / "report.html").unlink()
    result = onnx_distill(f"report {run}")
    assert result.code == 0, result.err
    assert result.out.splitlines()[1].startswith("float ") and result.err.endswith(f"{run}/report.html\n")
    assert facts(run) == before


def test_report_names_images_classes_and_the_commands_that_repeat_it(run, files):
    found = facts(run)
    assert found["class_names"] == {"0": "a", "1": "b", "2": "c"}
    assert all(one["name"].endswith(".png") for one in found["disagreements"])
    first, second, third = found["commands"]
    assert first.startswith(f"onnx-distill run {files}/teacher.onnx --data {files}/set --workers 0 ")
    assert " --weight-bits 3 " in first and first.endswith(
        f" --epochs 2.0 --batch-size 4 --lr 0.3 --step-rate 0.3 --validation 12 --shift 1 --threads 1 --output {run}"
    )
    assert second.startswith(f"onnx-distill run --config {run}/config.yaml") and third == f"onnx-distill report {run}"
    assert found["config"]["weight_bits"] == 3 and found["provenance"]["weight_bits"] == "3"


def test_report_counts_each_class_beside_its_labels_and_says_what_was_chosen(run, files):
    found = facts(run)
    first, *_, last = (row["measured"] for row in found["rows"])
    assert [one["images"] for one in found["classes"]] == [20, 20, 20]
    for side, measured in (("teacher_right", first), ("student_right", last)):
        assert sum(one[side] for one in found["classes"]) == round(60 * measured["top1"])
    assert [found["label_confusion"][c][c] for c in range(3)] == [one["student_right"] for one in found["classes"]]
    assert [sum(row) for row in found["label_confusion"]] == [20, 20, 20]
    assert found["chosen"]["weight_bits"] == 3 and "temperature" not in found["chosen"] and "temperature" in found["config"]
    assert found["teacher_score"] == float(found["provenance"]["score_teacher"])


def test_sizes_in_the_report_are_those_of_the_files(run, files):
    first, *_, last = (row["measured"]["size_bytes"] for row in facts(run)["rows"])
    assert first == (files / "teacher.onnx").stat().st_size and last == (run / "student.int8.onnx").stat().st_size


def test_command_in_the_report_repeats_the_run(run, tmp_path):
    line = facts(run)["commands"][0].replace(str(run), str(tmp_path / "again"))
    result = onnx_distill(f"{line.partition(' ')[2]} --no-report")
    assert result.code == 0, result.err
    assert (tmp_path / "again" / "student.int8.onnx").read_bytes() == (run / "student.int8.onnx").read_bytes()


def test_report_of_other_images_says_so(run, files):
    result = onnx_distill(f"report {run} --data {files}/test.npz")
    assert result.code == 0, result.err
    assert facts(run)["measured_on"] == f"60 images of {files}/test.npz"


def test_report_of_a_training_is_measured_on_what_was_held_out(files, tmp_path):
    data = f"--data {files}/test.npz --mean 127.5 --scale 0.01"
    line = f"train {files}/s.onnx --teacher {files}/teacher.onnx {data} {QUICK} --report -o {tmp_path}/run"
    assert onnx_distill(line).code == 0
    before = facts(tmp_path / "run")
    assert [row["name"] for row in before["rows"]] == ["float", "PTQ", "distilled"]
    assert before["measured_on"].startswith("12 images held out") and before["partings"]["images"] == 12
    assert onnx_distill(f"report {tmp_path}/run").code == 0
    assert facts(tmp_path / "run") == before


def seeds_of(files, run: Path) -> list[Path]:
    """A run of two seeds by `run`, and the folders of its seeds, the best one first."""
    data = f"--data {files}/test.npz --test-data {files}/test.npz --mean 127.5 --scale 0.01 --weight-bits 3"
    made = onnx_distill(f"run {files}/teacher.onnx {data} {CLIPPED} {QUICK} --seeds 2 -o {run}")
    assert made.code == 0, made.err
    return sorted(run.glob("seed-*"), key=lambda path: json.loads((path / "trained.json").read_text())["kl"])


def test_report_of_one_seed_of_several_is_made_and_its_student_with_it(files, tmp_path):
    for folder in seeds_of(files, tmp_path / "run"):
        result = onnx_distill(f"report {folder}")
        assert result.code == 0, result.err
        found = facts(folder)
        assert [row["name"] for row in found["rows"]] == ["float", "PTQ", "distilled"]
        assert found["title"] == str(folder / "student.int8.onnx")
    best = next(folder for folder in sorted((tmp_path / "run").glob("seed-*")))
    assert (best / "student.int8.onnx").is_file()


def test_report_of_seeds_that_came_to_no_end_is_of_the_best_so_far(files, tmp_path):
    best, _ = seeds_of(files, tmp_path / "run")
    for name in ("trained.qdq.onnx", "student.int8.onnx", "trained.json"):
        (tmp_path / "run" / name).unlink()
    result = onnx_distill(f"report {tmp_path}/run")
    assert result.code == 0, result.err
    assert f"of its best seed so far, {best}" in result.err and (best / "report.html").is_file()


def test_report_of_a_run_without_a_student_is_one_line_that_says_what_to_do(files, tmp_path):
    data = f"--data {files}/test.npz --mean 127.5 --scale 0.01"
    assert onnx_distill(f"train {files}/s.onnx --teacher {files}/teacher.onnx {data} {QUICK} -o {tmp_path}/run").code == 0
    (tmp_path / "run" / "trained.qdq.onnx").unlink()
    result = onnx_distill(f"report {tmp_path}/run")
    assert result.code == 2 and len(result.err.splitlines()) == 1
    assert f"no trained.qdq.onnx in {tmp_path}/run: the run has not come to its end; go on with" in result.err


def test_verification_in_the_folder_is_shown(run):
    verified = {"images": 1, "bound": 0.9, "traced": 0, "runners": [], "pairs": [], "passed": True, "more": 1}
    (run / "verify.json").write_text(json.dumps(verified))
    assert onnx_distill(f"report {run}").code == 0
    assert "as wanted" in (run / "report.html").read_text() and facts(run)["verification"]["passed"]
    (run / "verify.json").write_text("{}")
    result = onnx_distill(f"report {run}")
    assert result.code == 2 and "verify.json is not what `onnx-distill verify --json` prints" in result.err
    (run / "verify.json").unlink()


def test_class_names_are_read_for_classes_or_labels(run, files, tmp_path):
    (tmp_path / "names.txt").write_text("ant\nbee\ncow\n")
    assert onnx_distill(f"report {run} --data {files}/test.npz --class-names {tmp_path}/names.txt").code == 0
    assert facts(run)["class_names"] == {"0": "ant", "1": "bee", "2": "cow"}
    (tmp_path / "names.txt").write_text("ant\nbee\n")
    result = onnx_distill(f"report {run} --class-names {tmp_path}/names.txt")
    assert result.code == 2 and "names.txt names 2 classes; wanted 3" in result.err


def test_report_of_what_is_no_run_is_one_line(files, tmp_path):
    for folder, words in ((tmp_path / "no", "no config.yaml in"), (files, "no config.yaml in")):
        result = onnx_distill(f"report {folder}")
        assert result.code == 2 and words in result.err and len(result.err.splitlines()) == 1
    (tmp_path / "config.yaml").write_text("a: 1\n")
    result = onnx_distill(f"report {tmp_path}")
    assert result.code == 2 and "does not say which command made it" in result.err
