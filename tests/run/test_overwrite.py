"""Nothing of an earlier run is lost unasked, and nothing of it stands beside a later one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_cli import onnx_distill
from test_cli_runs import QUICK, train

import onnx_distill as od
from onnx_distill.data import ArrayImages, Preprocess
from onnx_distill.facts import provenance
from onnx_distill.page.run_report import PAGE, VERIFIED
from onnx_distill.run.folder import RunFolder, clear
from onnx_distill.run.result import REPORTS


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(files: Path, folder: Path, more: str = "") -> str:
    data = f"--data {files}/test.npz --mean 127.5 --scale 0.01 --weight-bits 3 --samples 20 --no-latency"
    return f"run {files}/teacher.onnx {data} {QUICK} {more} -o {folder}"


COMMANDS = {"train": train, "run": run}


@pytest.mark.parametrize("seeds", ["", "--seeds 2"], ids=["one seed", "seeds"])
@pytest.mark.parametrize("command", list(COMMANDS))
def test_a_finished_run_is_not_overwritten_unasked(files, tmp_path, command, seeds):
    line = COMMANDS[command](files, tmp_path / "run", seeds)
    assert onnx_distill(line).code == 0
    before = contents(tmp_path / "run")
    for other in (line, line.replace(seeds, "") if seeds else line + " --seeds 2", line + " --data nothing.npz"):
        result = onnx_distill(other)
        assert (
            result.code == 2
            and "run has an earlier run (trained.qdq.onnx); continue it with --resume, replace it with --overwrite"
            in result.err
        )
    assert contents(tmp_path / "run") == before


def test_a_seed_that_is_done_is_not_overwritten_either(files, tmp_path):
    """Of a run that was killed in its second seed."""
    assert onnx_distill(train(files, tmp_path / "run", "--seeds 2")).code == 0
    for name in ("trained.qdq.onnx", "trained.json", "student.int8.onnx"):
        (tmp_path / "run" / name).unlink()
    result = onnx_distill(train(files, tmp_path / "run", "--seeds 2"))
    assert result.code == 2 and "has an earlier run (seed-0/trained.qdq.onnx)" in result.err
    assert onnx_distill(train(files, tmp_path / "run", "--seeds 2 --resume")).code == 0


@pytest.mark.parametrize("later", ["run", "train"])
@pytest.mark.parametrize("seeds", ["", "--seeds 2"], ids=["one seed", "seeds"])
def test_after_an_overwrite_the_folder_is_that_of_the_later_run_alone_and_of_what_is_not_a_runs(
    files, tmp_path, later, seeds
):
    folder, alone = tmp_path / "run", tmp_path / "alone"
    assert onnx_distill(run(files, folder, f"{seeds} --report --weight-storage int4 --tensorboard")).code == 0
    for name in ("verify.json", "student.int8.refused.onnx", "mlflow.json"):
        (folder / name).write_text("{}")
    (folder / "notes.txt").write_text("mine")
    line = COMMANDS[later](files, folder, "--seed 1 --overwrite")
    assert onnx_distill(line).code == 0
    assert onnx_distill(line.replace(f"-o {folder}", f"-o {alone}")).code == 0
    kept = {"notes.txt"} | ({"logits.onnx", "student.qdq.onnx"} if later == "train" else set())
    after, wanted = contents(folder), contents(alone)
    assert after.keys() == wanted.keys() | kept and after["notes.txt"] == b"mine"
    for name in wanted.keys() - {"trained.json", "config.yaml"}:  # the seconds that it took; the folder's name
        assert after[name] == wanted[name], name


def test_an_interrupted_run_is_overwritten_when_that_is_asked_for_and_not_continued(files, tmp_path):
    cut, more = tmp_path / "cut", "--save-every 1"
    assert onnx_distill(train(files, tmp_path / "whole", more)).code == 0
    assert onnx_distill(train(files, cut, f"{more} --max-minutes 1e-9 --seed 3")).code == 0
    refused = onnx_distill(train(files, cut, more))
    assert refused.code == 2 and "continue it with --resume, replace it with --overwrite" in refused.err
    assert onnx_distill(train(files, cut, f"{more} --overwrite")).code == 0
    for name in ("student.int8.onnx", "trained.qdq.onnx", "log.jsonl"):
        assert (cut / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_an_overwriting_run_that_is_refused_leaves_the_earlier_one(files, tmp_path):
    assert onnx_distill(run(files, tmp_path / "run")).code == 0
    before = contents(tmp_path / "run")
    result = onnx_distill(run(files, tmp_path / "run", "--overwrite --validation 60"))
    assert result.code == 2 and contents(tmp_path / "run") == before


def test_what_is_cleared_are_the_names_that_reports_have():
    assert {PAGE, VERIFIED} < set(REPORTS) and clear.__doc__


# --- images that changed


@pytest.mark.parametrize("state", ["interrupted", "finished"])
@pytest.mark.parametrize("command", list(COMMANDS))
def test_a_run_is_not_continued_on_images_of_which_one_pixel_is_another(files, tmp_path, command, state):
    """As many images, in a file of the same name; whichever image it is, those held out among them."""
    for name in ("teacher.onnx", "s.onnx", "test.npz"):
        shutil.copy(files / name, tmp_path / name)
    line = COMMANDS[command](tmp_path, tmp_path / "run", "--save-every 1 --train always")
    line += f" --test-data {files}/test.npz" if command == "run" else ""
    assert onnx_distill(line + (" --max-minutes 1e-9" if state == "interrupted" else "")).code == 0
    before, stored = contents(tmp_path / "run"), dict(np.load(tmp_path / "test.npz"))
    for number in range(0, 60, 7):
        pixels = stored["images"].copy()
        pixels[number, 4, 4] ^= 1
        np.savez(tmp_path / "test.npz", images=pixels, labels=stored["labels"])
        result = onnx_distill(line + " --resume")
        assert result.code == 2 and "changed since" in result.err, number
    assert contents(tmp_path / "run") == before
    np.savez(tmp_path / "test.npz", **stored)
    assert onnx_distill(line + " --resume").code == 0


def test_a_run_is_not_continued_with_another_student(files, tmp_path):
    """Nor are the files of the student that it began with replaced."""
    assert onnx_distill(run(files, tmp_path / "run", "--save-every 1 --train always --max-minutes 1e-9")).code == 0
    before = contents(tmp_path / "run")
    for other in ("--weight-bits 4", "--samples 21", "--calibration-method minmax"):
        result = onnx_distill(run(files, tmp_path / "run", f"--save-every 1 --train always --resume {other}"))
        assert result.code == 2 and "student.qdq.onnx is another student than this command makes" in result.err
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
@pytest.mark.parametrize("limit", [2**30, 600])
def test_a_fingerprint_sees_every_image_however_many(kind, limit, monkeypatch):
    """With a limit below their size it reads the middle of each."""
    monkeypatch.setattr(provenance, "BYTES", limit)
    monkeypatch.setattr(provenance, "CHUNK", 100)
    monkeypatch.setattr(provenance, "SAMPLES", 2)
    pixels = np.random.default_rng(0).integers(0, 255, (50, 3, 6, 6)).astype(kind)
    labels = np.zeros(50, int)
    found = {provenance.contents_sha256(ArrayImages(pixels, labels))}
    for number in range(50):
        other = pixels.copy()
        other[number] += 1
        found.add(provenance.contents_sha256(ArrayImages(other, labels)))
    assert len(found) == 51
    turned = ArrayImages(pixels.transpose(0, 1, 3, 2), labels)  # no contiguous array
    assert provenance.contents_sha256(turned) == provenance.contents_sha256(ArrayImages(turned.pixels.copy(), labels))
    order = np.random.default_rng(1).permutation(50)
    shuffled = ArrayImages(pixels[np.argsort(order)], labels).subset(order)
    assert provenance.contents_sha256(shuffled) == provenance.contents_sha256(ArrayImages(pixels, labels))


# --- the same for Python programs


@pytest.fixture
def parts(files):
    teacher = od.load_model(files / "teacher.onnx")
    images = od.read_images(files / "test.npz", preprocess=Preprocess(mean=(127.5,), scale=(0.01,)))
    how = od.TrainConfig(epochs=2, batch_size=4, threads=1, preflight=False, train="always", save_every=2)
    return teacher, images, how


def test_a_training_in_a_used_folder_begins_its_log_anew(files, parts, tmp_path):
    teacher, images, how = parts
    student = od.quantize_model(od.cut_model(teacher), images, threads=1)
    logs = []
    for _ in range(2):
        od.train_model(student, teacher, images, training=how, folder=tmp_path / "t", validation=12)
        logs.append((tmp_path / "t" / "log.jsonl").read_bytes())
    assert logs[0] == logs[1]


def test_run_pipeline_refuses_a_used_folder_and_overwrites_it_when_told(parts, tmp_path):
    teacher, images, how = parts
    go = lambda **more: od.run_pipeline(teacher, images, None, tmp_path / "r", training=how, samples=20, **more)  # noqa: E731
    first = go()
    before = contents(tmp_path / "r")
    assert {row.measured.count for row in first.rows} == {15}
    with pytest.raises(od.InputError, match=r"has an earlier run \(trained.qdq.onnx\); continue it with --resume, replace"):
        go()
    with pytest.raises(od.InputError, match=r"has a run that is finished \(trained.qdq.onnx\), and nothing to continue"):
        go(resume=True)
    assert contents(tmp_path / "r") == before
    go(overwrite=True)
    after = contents(tmp_path / "r")
    assert after.keys() == before.keys() and after["log.jsonl"] == before["log.jsonl"]


def test_a_result_is_gone_before_the_student_that_it_is_not_of_is_written(parts, tmp_path):
    """A run that is continued after it was stopped: what it was worth then is not what its student is worth now."""
    teacher, images, how = parts
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "result.json").write_text(json.dumps({"rows": []}))
    folder = RunFolder(tmp_path / "r", overwrite=True)
    assert (tmp_path / "r" / "result.json").is_file()
    folder.begin()
    assert not (tmp_path / "r" / "result.json").exists()
