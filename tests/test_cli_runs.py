"""Runs through the command line: repeated from their configuration, killed and continued, on folders of images."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from test_cli import WIDENED, onnx_distill

from onnx_distill.facts.provenance import provenance
from onnx_distill.kernels.machine import own_target, sums_saturate

QUICK = f"--batch-size 4 --validation 12 --epochs 2 {WIDENED} --threads 1 --learn-steps all --shift 1 --no-report"


def train(files: Path, run: Path, more: str = "") -> str:
    data = f"--data {files}/test.npz --mean 127.5 --scale 0.01"
    return f"train {files}/s.onnx --teacher {files}/teacher.onnx {data} {QUICK} {more} -o {run}"


def improved(run: Path) -> bool:
    """Whether the student in the folder is a trained one."""
    return json.loads((run / "trained.json").read_text())["kept"] == ""


def test_profile_shows_the_dearest_kinds_of_node_and_leaves_the_student_as_it_is(files, tmp_path):
    plain = onnx_distill(train(files, tmp_path / "plain"))
    profiled = onnx_distill(train(files, tmp_path / "profiled", f"--profile {tmp_path}/steps.json"))
    assert plain.code == profiled.code == 0
    shown = [line.split() for line in profiled.err.splitlines()]
    assert ["a", "step", "nodes", "ms", "share"] in shown and "share" not in plain.err
    events = json.loads((tmp_path / "steps.json").read_text())
    assert sum(event["name"] == "model_run" for event in events) == 24  # two epochs of 48 images in batches of 4
    run = {event["args"]["op_name"] for event in events if event["name"].endswith("_kernel_time")}
    assert {"Conv", "ConvGrad", "DequantizeLinear"} <= run  # forwards and backwards
    students = [(tmp_path / run / "student.int8.onnx").read_bytes() for run in ("plain", "profiled")]
    assert students[0] == students[1] and improved(tmp_path / "plain")


@pytest.mark.parametrize(
    "source", ["{0}/set --workers 0", "{0}/set --labels {0}/list.txt --workers 0"], ids=["folders", "list"]
)
def test_image_files_train_to_the_same_student_as_the_array_they_were_made_from(files, tmp_path, source):
    assert onnx_distill(train(files, tmp_path / "array")).code == 0
    line = train(files, tmp_path / "files").replace(f"{files}/test.npz", source.format(files))
    result = onnx_distill(line)
    assert result.code == 0, result.err
    one, two = (onnx.load(str(tmp_path / name / "student.int8.onnx")) for name in ("array", "files"))
    assert one.graph == two.graph and improved(tmp_path / "array")
    named = {entry.key: entry.value for entry in two.metadata_props if entry not in one.metadata_props}
    assert named == ({"onnx_distill.class_names": '["a", "b", "c"]'} if source.count("list") == 0 else {})


def test_broken_images_are_named_and_too_many_of_them_stop(files, tmp_path):
    broken = tmp_path / "set"
    for path in (files / "set").rglob("*.png"):
        (broken / path.parent.name).mkdir(parents=True, exist_ok=True)
        (broken / path.parent.name / path.name).write_bytes(path.read_bytes() if path.name != "03.png" else b"")
    line = train(files, tmp_path / "run").replace(f"{files}/test.npz", f"{broken} --workers 0")
    assert "1 of 60 images cannot be read (a/03.png: the file is empty); allowed are 1.0%" in onnx_distill(line).err
    result = onnx_distill(line + " --max-broken 0.1")
    assert result.code == 0 and "skipped a/03.png: the file is empty" in result.err


def test_configuration_of_a_run_repeats_it(files, tmp_path):
    assert onnx_distill(train(files, tmp_path / "one", "--ema 0.9 --freeze b1")).code == 0
    result = onnx_distill(f"train --config {tmp_path}/one/config.yaml -o {tmp_path}/two")
    assert result.code == 0, result.err
    one, two = (tmp_path / name for name in ("one", "two"))
    assert improved(one) and (one / "student.int8.onnx").read_bytes() == (two / "student.int8.onnx").read_bytes()
    saved = [(folder / "config.yaml").read_text().replace(str(folder), "RUN") for folder in (one, two)]
    assert saved[0] == saved[1]


def test_command_line_wins_over_the_configuration(files, tmp_path):
    (tmp_path / "c.yaml").write_text("epochs: 1\nseed: 3\n")
    result = onnx_distill(train(files, tmp_path / "run", f"--config {tmp_path}/c.yaml --seed 4"))
    saved = (tmp_path / "run" / "config.yaml").read_text()
    assert result.code == 0 and "seed: 4" in saved and "epochs: 2" in saved  # QUICK says 2 on the command line


def test_unknown_option_in_a_configuration_is_named(files, tmp_path):
    (tmp_path / "c.yaml").write_text("epoch: 1\n")
    result = onnx_distill(train(files, tmp_path / "run", f"--config {tmp_path}/c.yaml"))
    assert result.code == 2 and "has 'epoch', no option of this command; closest: 'epochs'" in result.err


def test_log_has_a_line_a_step_and_each_evaluation(files, tmp_path):
    assert onnx_distill(train(files, tmp_path / "run", "--log-every 1")).code == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "step" in line] == list(range(1, 25))
    assert [line["epoch"] for line in lines if "epoch" in line] == [0, 1, 2]


@pytest.mark.parametrize("epochs, steps", [(2, [1, 10, 20, 24]), (0.75, [1, 9])])
def test_log_has_the_first_and_the_last_step_however_seldom_it_is_written(files, tmp_path, epochs, steps):
    """So that the shortest run has two points to draw a line through."""
    assert onnx_distill(train(files, tmp_path / "run", f"--epochs {epochs} --report")).code == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "step" in line] == steps
    assert len(json.loads((tmp_path / "run" / "report.json").read_text())["losses"]) == len(steps)


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_run_killed_at_any_moment_is_continued_to_the_same_bytes(files, tmp_path, part):
    """kill -9, wherever it hits: before the first checkpoint there is nothing to continue, and the run starts anew."""
    more = "--save-every 3 --epochs 20 --log-every 1"
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert onnx_distill(train(files, whole, more)).code == 0 and improved(whole)
    steps = len((whole / "log.jsonl").read_text().splitlines())
    process = subprocess.Popen(
        [sys.executable, "-m", "onnx_distill", *train(files, cut, more).split()], stderr=subprocess.DEVNULL
    )
    log = cut / "log.jsonl"
    while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < part * steps):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if (cut / "checkpoints").is_dir() and os.listdir(cut / "checkpoints"):
        refused = onnx_distill(train(files, cut, more))
        assert refused.code == 2 and "continue it with --resume" in refused.err
    result = onnx_distill(train(files, cut, more + " --resume"))
    assert result.code == 0, result.err
    for name in ("student.int8.onnx", "trained.qdq.onnx", "log.jsonl"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name
    assert not (cut / "checkpoints").exists()


def test_compare_lists_each_quantized_value(files, tmp_path):
    data = f"--data {files}/test.npz --mean 127.5 --scale 0.01"
    assert onnx_distill(f"quantize {files}/logits.onnx {data} --weight-bits 3 -o {tmp_path}/s.onnx").code == 0
    line = f"compare {tmp_path}/s.onnx --teacher {files}/teacher.onnx {data} --json"
    result = onnx_distill(line)
    assert result.code == 0, result.err
    layers = json.loads(result.out)
    assert {layer["kind"] for layer in layers} == {"weight", "activation"} and all(layer["noise_db"] > 5 for layer in layers)
    assert [layer["own_db"] for layer in layers] == sorted(layer["own_db"] for layer in layers)
    assert json.loads(onnx_distill(f"{line} --top 2").out) == layers[:2]
    assert [layer["value"] for layer in json.loads(onnx_distill(f"{line} --sort graph").out)] != [x["value"] for x in layers]


# ---- features, and several teachers


@pytest.fixture(scope="module")
def other_teacher(files) -> Path:
    """The teacher with other last biases."""
    model = onnx.load(str(files / "teacher.onnx"))
    for tensor in model.graph.initializer:
        if tensor.name == "b2":
            tensor.CopyFrom(numpy_helper.from_array(np.array([2, -1, 0], np.float32), "b2"))
    onnx.save(model, str(files / "other.onnx"))
    return files / "other.onnx"


def test_features_and_a_further_teacher_make_another_student_which_repeats(files, tmp_path, other_teacher):
    more = f"--features auto --feature-weight 2 --also-teacher {other_teacher}"
    found = onnx_distill(train(files, tmp_path / "one", more))
    assert found.code == 0, found.err
    assert "features: a" in found.err
    assert onnx_distill(f"train --config {tmp_path}/one/config.yaml -o {tmp_path}/two").code == 0
    assert onnx_distill(train(files, tmp_path / "plain")).code == 0
    one, two, plain = ((tmp_path / run / "trained.qdq.onnx").read_bytes() for run in ("one", "two", "plain"))
    assert one == two != plain and improved(tmp_path / "one") and improved(tmp_path / "plain")


@pytest.mark.parametrize(
    "more, words",
    [
        ("--features b", "the teacher has no value or node 'b' for --features"),
        ("--features a=z", "the student has no value 'z'; wanted --features TEACHER=STUDENT"),
        ("--features a --feature-weight -1", "feature_weight is -1.0; wanted 0 or more and finite"),
        ("--also-teacher nothing.onnx", "no file nothing.onnx"),
    ],
)
def test_wrong_features_and_teachers_are_one_line_and_code_2(files, tmp_path, more, words):
    result = onnx_distill(train(files, tmp_path / "run", more))
    assert result.code == 2 and words in result.err and "Traceback" not in result.err
    assert not (tmp_path / "run").exists()


def test_wrong_feature_name_is_refused_before_anything_is_quantized_or_scored(files, tmp_path):
    data = f"--data {files}/test.npz --test-data {files}/test.npz --mean 127.5 --scale 0.01"
    found = onnx_distill(f"run {files}/teacher.onnx {data} {QUICK} --features b -o {tmp_path}/run")
    assert found.code == 2 and "the teacher has no value or node 'b' for --features" in found.err
    assert "== quantize" not in found.err and not (tmp_path / "run").exists()
    found = onnx_distill(train(files, tmp_path / "run", "--features b"))
    assert found.code == 2 and "the teacher has no value or node 'b' for --features" in found.err


def test_further_teacher_of_other_images_is_refused(files, tmp_path, other_teacher):
    for name, mean in (("first", 1), ("second", 2)):
        model = onnx.load(str(files / "teacher.onnx"))
        model.metadata_props.add(key="onnx_distill.preprocess", value=f'{{"mean": [{mean}]}}')
        onnx.save(model, str(tmp_path / f"{name}.onnx"))
    line = train(files, tmp_path / "run", f"--also-teacher {tmp_path}/second.onnx")
    result = onnx_distill(line.replace(f"{files}/teacher.onnx", f"{tmp_path}/first.onnx"))
    assert result.code == 2 and "a further teacher wants its images prepared as" in result.err


def test_auto_is_written_down_as_the_row_that_this_machine_takes(files, tmp_path):
    """In the file and in config.yaml, so that the run repeats elsewhere; one line on stderr where the row is not the usual one."""
    data = f"--data {files}/test.npz --test-data {files}/test.npz --mean 127.5 --scale 0.01"
    done = onnx_distill(f"run {files}/teacher.onnx {data} {QUICK} --samples 20 -o {tmp_path}/run")
    assert done.code == 0, done.err
    assert provenance(onnx.load(str(tmp_path / "run/student.int8.onnx")))["target"] == own_target()
    assert f"target: {own_target()}\n" in (tmp_path / "run/config.yaml").read_text()
    assert (f"== target {own_target()}: this machine saturates" in done.err) == sums_saturate()


def test_a_row_that_is_named_is_taken_without_a_word(files, tmp_path):
    line = f"quantize {files}/logits.onnx --data {files}/test.npz --mean 127.5 --scale 0.01 --target ort-x86"
    done = onnx_distill(f"{line} -o {tmp_path}/s.onnx")
    assert done.code == 0 and "target" not in done.err
    assert provenance(onnx.load(str(tmp_path / "s.onnx")))["target"] == "ort-x86"
