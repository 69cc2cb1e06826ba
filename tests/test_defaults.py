"""What `run` does where nobody says: a part of the images for the table, no more timing than wanted; the least that one types."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from test_cli import onnx_distill
from test_cli_runs import QUICK
from test_cli_training import done

from onnx_distill.data import ArrayImages, held_out_count, split
from onnx_distill.errors import InputError
from onnx_distill.pipeline import kept_for_the_table


def run(files: Path, folder: Path, more: str = "") -> str:
    return f"run {files}/teacher.onnx --data {files}/test.npz --mean 127.5 --scale 0.01 {QUICK} {more} -o {folder}"


def rows(folder: Path, name: str = "result.json") -> list[dict]:
    return json.loads((folder / name).read_text())["rows"]


# --- without test data


@pytest.mark.parametrize("count", [3, 8, 110, 3000, 60000])
def test_three_parts_of_the_images_share_none_and_are_all(count):
    """Each image is its own number, so that it can be followed."""
    images = ArrayImages(np.arange(count, dtype=np.float32)[:, None, None])
    rest, test = kept_for_the_table(images)
    train, held_out = split(rest, None, seed=3)
    found = [set(part.read(np.arange(len(part))).reshape(-1).astype(int).tolist()) for part in (train, held_out, test)]
    assert sum(map(len, found)) == count and set().union(*found) == set(range(count))
    assert len(test) == held_out_count(count) and all(found)


def test_two_images_cannot_be_shared_out():
    with pytest.raises(InputError, match="2 images cannot be shared out .* wanted 3 at least, or .* --test-data"):
        kept_for_the_table(ArrayImages(np.zeros((2, 4, 4), np.float32)))


def test_a_run_without_test_data_says_so_and_measures_on_a_part_that_a_report_finds_again(files, tmp_path):
    result = done(run(files, tmp_path / "run", "--report --no-latency"))
    (said,) = [line for line in result.err.splitlines() if "--test-data" in line]
    assert said == "no --test-data: 15 of the 60 images are kept for the table, and used for nothing else"
    first = json.loads((tmp_path / "run" / "report.json").read_text())
    assert first["measured_on"] == f"15 of the 60 images of {files}/test.npz, kept apart from training"
    assert {row["count"] for row in rows(tmp_path / "run")} == {15}
    done(f"report {tmp_path}/run --no-latency")
    again = json.loads((tmp_path / "run" / "report.json").read_text())
    assert (again["rows"], again["measured_on"]) == (first["rows"], first["measured_on"])


def test_it_is_the_run_on_the_other_images_with_that_part_as_test_data(files, tmp_path):
    stored = np.load(files / "test.npz")
    order = np.random.default_rng(0).permutation(60)
    for name, part in (("test", order[:15]), ("rest", order[15:])):
        np.savez(tmp_path / f"{name}.npz", **{key: stored[key][np.sort(part)] for key in ("images", "labels")})
    done(run(files, tmp_path / "one", "--no-latency"))
    line = run(files, tmp_path / "two", f"--no-latency --test-data {tmp_path}/test.npz")
    done(line.replace(f"{files}/test.npz", f"{tmp_path}/rest.npz"))
    assert rows(tmp_path / "one") == rows(tmp_path / "two")
    assert (tmp_path / "one/student.int8.onnx").read_bytes() == (tmp_path / "two/student.int8.onnx").read_bytes()


def test_the_part_is_the_same_whatever_the_seed(files, tmp_path):
    """The float model's row says so."""
    for seed in (0, 1):
        done(run(files, tmp_path / str(seed), f"--seed {seed} --no-latency"))
    assert rows(tmp_path / "0")[0] == rows(tmp_path / "1")[0]


def test_a_finished_run_without_test_data_is_found_finished(files, tmp_path):
    first = done(run(files, tmp_path / "run"))
    again = done(run(files, tmp_path / "run", "--resume"))
    assert "is finished: nothing is left to train" in again.err and again.out == first.out


def test_a_batch_is_no_larger_than_the_images_and_it_is_said(files, tmp_path):
    line = run(files, tmp_path / "run", "--train always --no-latency").replace("--batch-size 4", "--batch-size 1000")
    lines = done(line).err.splitlines()
    assert "a batch of 1000 is more than the 33 images to train on: all of them are one batch" in lines
    assert [text.partition(",")[0] for text in lines if " updates of " in text] == [
        "2 updates of 33 images (2 passes over 33)"
    ]


# --- the least that one types


def test_a_model_and_a_folder_of_photos_are_all_that_run_needs(tmp_path):
    """Colour photos of many sizes in a folder a class, and a model that ends in a Gemm, as torch exports it."""
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
    torch (float[batch,3,16,16] input) => (float[batch,2] output) {
        c = Conv<kernel_shape = [3,3], strides = [2,2]>(input, w1, b1)  a = Relu(c)  p = GlobalAveragePool(a)  f = Flatten(p)
        output = Gemm<transB = 1>(f, w2, b2)
    }""")
    for name, shape in {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (2, 8), "b2": (2,)}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(0, 0.5, shape).astype(np.float32), name))
    onnx.save(model, str(tmp_path / "model.onnx"))
    for number in range(40):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20 + number, 30, 3), np.uint8)).save(path)
    result = done(f"run {tmp_path}/model.onnx --data {tmp_path}/photos --preset imagenet -o {tmp_path}/run")
    assert "10 of the 40 images are kept for the table" in result.err and "Traceback" not in result.err
    assert result.out.startswith(" ") and (tmp_path / "run/report.html").is_file()


# --- latency


@pytest.mark.parametrize("command", ["run", "eval"])
def test_without_latency_nothing_is_timed(command, files, tmp_path):
    if command == "run":
        result = done(run(files, tmp_path / "run", "--no-latency --report"))
        found = [*rows(tmp_path / "run"), *rows(tmp_path / "run", "report.json")]
        assert {(row.get("measured") or row)["latency_seconds"] for row in found} == {None}
    else:
        result = done(f"eval {files}/teacher.onnx --data {files}/test.npz --no-latency")
    assert not re.search(r"\bms\b|batch", result.out)


def test_no_latency_in_a_file(files, tmp_path):
    (tmp_path / "c.yaml").write_text("latency: false\n")
    result = onnx_distill(f"eval {files}/teacher.onnx --data {files}/test.npz --json --config {tmp_path}/c.yaml")
    assert json.loads(result.out)[0]["latency_seconds"] is None
