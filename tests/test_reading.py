"""A file says how its images are read and what its classes are called; class folders are matched by their names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from test_cli import onnx_distill
from test_cli_runs import QUICK
from test_cli_training import done

from onnx_distill.data import ArrayImages, Preprocess
from onnx_distill.errors import InputError
from onnx_distill.facts.reading import CLASS_NAMES, class_names_in, describe

READ = "--mean 127.5 --scale 0.01"
NAMES = {0: "a", 1: "b", 2: "c"}


def rows(text: str) -> list[dict]:
    return json.loads(text)


@pytest.fixture(scope="module")
def trained(files, tmp_path_factory) -> Path:
    """The folder of a run on a folder for each class."""
    folder = tmp_path_factory.mktemp("reading") / "run"
    done(f"run {files}/teacher.onnx --data {files}/set --workers 0 {READ} {QUICK} --no-latency -o {folder}")
    return folder


# --- how images are read


def test_what_is_written_is_read_back_to_the_last_bit():
    how = Preprocess(
        mean=(1 / 3, 2.0, 3.5), scale=(0.1, 0.7, 1 / 7), order="BGR", crop_fraction=0.875, fit="stretch", label_offset=1
    )
    images = ArrayImages(np.zeros((2, 5, 5, 3), np.uint8), [0, 1], how, class_names={0: "größe", 1: "層"})
    made = describe(onnx.ModelProto(), images)
    assert Preprocess.of(made) == how and class_names_in(made) == {1: "größe", 2: "層"}


def test_images_that_are_taken_as_they_are_leave_nothing_to_say():
    assert not describe(onnx.ModelProto(), ArrayImages(np.zeros((2, 1, 5, 5), np.float32))).metadata_props


def test_the_first_model_that_says_how_is_believed():
    images = ArrayImages(np.zeros((2, 4, 4), np.uint8), None, Preprocess(mean=(3,)))
    says, other = describe(onnx.ModelProto(), images), onnx.ModelProto()
    assert Preprocess.of(other, says).mean == Preprocess.of(says, other).mean == (3.0,)


@pytest.mark.parametrize("text", ["[1, 2]", "{", '{"0": "a"}'])
def test_class_names_that_are_none_are_refused(text):
    model = onnx.ModelProto()
    model.metadata_props.add(key=CLASS_NAMES, value=text)
    with pytest.raises(InputError, match="class_names metadata is .* wanted a JSON list of names"):
        class_names_in(model)


def test_eval_of_an_exported_student_with_no_option_gives_what_the_run_printed(files, trained):
    wanted = json.loads((trained / "result.json").read_text())["rows"][-1]
    line = (
        f"eval {trained}/student.int8.onnx --teacher {files}/teacher.onnx --data {files}/set --workers 0 --no-latency --json"
    )
    bare, given = rows(done(line).out), rows(done(f"{line} {READ}").out)
    assert bare == given and bare[-1]["size_bytes"] == wanted["size_bytes"]
    alone = rows(done(line.replace(f"--teacher {files}/teacher.onnx", "")).out)
    assert alone[0]["top1"] == given[-1]["top1"]


def test_training_reads_images_as_the_student_was_calibrated(files, tmp_path):
    line = f"train {files}/s.onnx --teacher {files}/teacher.onnx --data {files}/test.npz {QUICK}"
    for name, how in (("bare", ""), ("given", READ)):
        done(f"{line} {how} -o {tmp_path}/{name}")
    one, two = ((tmp_path / name / "student.int8.onnx").read_bytes() for name in ("bare", "given"))
    assert one == two


def test_predict_knows_the_names_that_are_in_the_file(files, trained):
    found = rows(done(f"predict {trained}/student.int8.onnx {files}/set/b/25.png --json").out)
    assert "'name': 'b'" in str(found) or '"b"' in json.dumps(found)


# --- images for models that read channels last


@pytest.fixture(scope="module")
def channels_last(files, tmp_path_factory) -> Path:
    """The teacher of `files` as TensorFlow would export it."""
    model = onnx.load(str(files / "teacher.onnx"))
    sizes = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
    for axis, size in zip(model.graph.input[0].type.tensor_type.shape.dim[1:], (sizes[2], sizes[3], sizes[1])):
        axis.dim_value = size
    turn = onnx.helper.make_node("Transpose", ["image"], ["turned"], "turn", perm=[0, 3, 1, 2])
    model.graph.node[0].input[0] = "turned"
    model.graph.node.insert(0, turn)
    path = tmp_path_factory.mktemp("nhwc") / "t.onnx"
    onnx.save(model, str(path))
    return path


def test_image_files_are_read_alike_for_channels_first_and_last(files, channels_last):
    line = f"eval {{}} --data {files}/set --workers 0 {READ} --no-latency --json"
    first, last = (rows(done(line.format(path)).out)[0] for path in (files / "teacher.onnx", channels_last))
    assert (first["top1"], first["top5"]) == (last["top1"], last["top5"])


def test_a_run_on_image_files_and_a_model_of_channels_last_ends_in_one_of_channels_last(files, channels_last, tmp_path):
    done(f"run {channels_last} --data {files}/set --workers 0 {READ} {QUICK} --no-latency -o {tmp_path}/run")
    made = onnx.load(str(tmp_path / "run/student.int8.onnx"))
    assert [axis.dim_value for axis in made.graph.input[0].type.tensor_type.shape.dim][1:] == [8, 8, 1]
    done(f"eval {tmp_path}/run/student.int8.onnx --data {files}/set --workers 0 --no-latency")


def test_colour_files_become_grey_for_a_grey_model_of_either_layout(files, channels_last, tmp_path):
    for path in (files / "set").rglob("*.png"):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        Image.open(path).convert("RGB").save(tmp_path / path.parent.name / path.name)
    line = f"eval {{}} --data {{}} --workers 0 {READ} --no-latency --json"
    wanted = rows(done(line.format(files / "teacher.onnx", files / "set")).out)
    assert rows(done(line.format(channels_last, tmp_path)).out)[0]["top1"] == wanted[0]["top1"]


# --- class folders


def lacking(files: Path, folder: Path, *names: str) -> Path:
    """The folders of `files` without these classes."""
    return Path(shutil.copytree(files / "set", folder, ignore=lambda _, found: [name for name in names if name in found]))


def test_a_test_folder_that_lacks_a_class_is_scored_against_the_classes_of_its_names(files, tmp_path):
    test = lacking(files, tmp_path / "test", "a")
    line = f"run {files}/teacher.onnx --data {files}/set --test-data {test} --workers 0 {READ} {QUICK} --no-latency"
    said = done(f"{line} -o {tmp_path}/run").err
    assert f"warning: {test} has no images of 1 of the 3 classes of {files}/set: a" in said
    with np.load(files / "test.npz") as stored:
        np.savez(tmp_path / "bc.npz", images=stored["images"][20:], labels=stored["labels"][20:])
    wanted = rows(done(f"eval {files}/teacher.onnx --data {tmp_path}/bc.npz {READ} --no-latency --json").out)[0]
    assert json.loads((tmp_path / "run/result.json").read_text())["rows"][0]["top1"] == wanted["top1"]


def test_eval_of_a_student_matches_folders_with_the_names_in_it(files, trained, tmp_path):
    test = lacking(files, tmp_path / "test", "a")
    found = done(f"eval {trained}/student.int8.onnx --data {test} --workers 0 --no-latency --json")
    assert "has no images of 1 of the 3 classes of the model: a" in found.err
    with np.load(files / "test.npz") as stored:
        np.savez(tmp_path / "bc.npz", images=stored["images"][20:], labels=stored["labels"][20:])
    wanted = rows(done(f"eval {trained}/student.int8.onnx --data {tmp_path}/bc.npz --no-latency --json").out)[0]
    assert rows(found.out)[0]["top1"] == wanted["top1"]


def test_a_test_folder_with_a_class_of_its_own_is_refused(files, tmp_path):
    test = lacking(files, tmp_path / "test", "a")
    (test / "b").rename(test / "bee")
    found = onnx_distill(f"run {files}/teacher.onnx --data {files}/set --test-data {test} {READ} {QUICK} -o {tmp_path}/run")
    assert (
        found.code == 2 and f"folder 'bee' is no class of {files}/set; closest: 'b'; wanted a folder for each" in found.err
    )
    assert not (tmp_path / "run").exists()


def test_fewer_class_folders_than_classes_are_named_where_nothing_tells_which(files, tmp_path):
    found = done(
        f"eval {files}/teacher.onnx --data {lacking(files, tmp_path / 'test', 'a')} --workers 0 {READ} --no-latency"
    )
    assert "has 2 class folders, the model 3 classes: they are taken for classes 0 to 1" in found.err


def test_class_names_number_folders(files, tmp_path):
    (tmp_path / "names.txt").write_text("c\nb\na\n")
    line = f"run {files}/teacher.onnx --data {files}/set --workers 0 {READ} {QUICK} --no-latency --class-names {tmp_path}/names.txt"
    done(f"{line} -o {tmp_path}/run")
    assert class_names_in(onnx.load(str(tmp_path / "run/student.int8.onnx"))) == {0: "c", 1: "b", 2: "a"}
    wanted = rows(
        done(
            f"eval {files}/teacher.onnx --data {files}/set --labels {_turned(files, tmp_path)} --workers 0 {READ} --no-latency --json"
        ).out
    )
    found = done(
        f"eval {tmp_path}/run/student.int8.onnx --teacher {files}/teacher.onnx --data {files}/set --workers 0 --no-latency --json"
    )
    assert rows(found.out)[0]["top1"] == wanted[0]["top1"]


def test_names_that_no_folder_has_are_for_the_reader_alone(files, tmp_path):
    """Such as those of folders that are named by synsets."""
    (tmp_path / "names.txt").write_text("cat\ndog\nbird\n")
    line = f"run {files}/teacher.onnx --data {files}/set --workers 0 {READ} {QUICK} --no-latency"
    done(f"{line} --class-names {tmp_path}/names.txt -o {tmp_path}/one")
    done(f"{line} -o {tmp_path}/two")
    one, two = (json.loads((tmp_path / name / "result.json").read_text())["rows"] for name in ("one", "two"))
    assert [row["top1"] for row in one] == [row["top1"] for row in two]
    assert class_names_in(onnx.load(str(tmp_path / "one/student.int8.onnx"))) == {0: "cat", 1: "dog", 2: "bird"}


def test_names_of_which_some_folders_have_none_are_refused(files, tmp_path):
    (tmp_path / "names.txt").write_text("a\nb\nbird\n")
    line = f"run {files}/teacher.onnx --data {files}/set {READ} {QUICK} --class-names {tmp_path}/names.txt -o {tmp_path}/run"
    found = onnx_distill(line)
    assert found.code == 2 and "folder 'c' is no class of --class-names; wanted a folder for each" in found.err


def _turned(files: Path, folder: Path) -> Path:
    """The list of `files` with classes a and c exchanged."""
    lines = [line.rpartition(" ") for line in (files / "list.txt").read_text().splitlines()]
    (folder / "turned.txt").write_text("\n".join(f"{name} {2 - int(label)}" for name, _, label in lines))
    return folder / "turned.txt"


def test_empty_folders_and_those_of_macos_are_no_classes(files, tmp_path):
    folder = lacking(files, tmp_path / "set")
    (folder / "__MACOSX" / "a").mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "__MACOSX" / "a" / "0.png")
    (folder / "another").mkdir()
    line = f"eval {files}/teacher.onnx --data {{}} --workers 0 {READ} --no-latency --json"
    found, wanted = done(line.format(folder)), done(line.format(files / "set"))
    assert found.out == wanted.out and "folders without images are no classes: another" in found.err


# --- how many, and which


def test_every_command_says_how_images_are_read(files, tmp_path):
    for line in (
        "eval {0}/teacher.onnx",
        "quantize {0}/teacher.onnx -o {1}/s.onnx",
        "compare {0}/s.onnx --teacher {0}/teacher.onnx",
    ):
        found = done(f"{line.format(files, tmp_path)} --data {files}/test.npz {READ}")
        assert f"{files}/test.npz: 60 images, read as x = (pixel - 127.5) * 0.01, RGB" in found.err.splitlines()


def test_test_images_that_are_trained_on_are_counted(files, tmp_path):
    with np.load(files / "test.npz") as stored:
        pixels, labels = stored["images"], stored["labels"]
    np.savez(tmp_path / "some.npz", images=np.concatenate([pixels[50:], 255 - pixels[:30]]), labels=np.tile(labels[:20], 2))
    line = f"run {files}/teacher.onnx --data {files}/test.npz {READ} {QUICK} --no-latency"
    found = done(f"{line} --test-data {tmp_path}/some.npz -o {tmp_path}/run")
    assert f"warning: 10 of the 40 images of {tmp_path}/some.npz are among those of {files}/test.npz, too" in found.err
    np.savez(tmp_path / "others.npz", images=255 - pixels, labels=labels)
    assert " are among those of " not in done(f"{line} --test-data {tmp_path}/others.npz -o {tmp_path}/other").err


@pytest.mark.parametrize("count, few", [(49, True), (50, False)])
def test_a_training_on_few_images_is_told_that_they_are(count, few, files, tmp_path):
    with np.load(files / "test.npz") as stored:
        np.savez(tmp_path / "few.npz", **{name: stored[name][:count] for name in ("images", "labels")})
    line = f"train {files}/s.onnx --teacher {files}/teacher.onnx --data {tmp_path}/few.npz {READ} {QUICK} -o {tmp_path}/run"
    assert (f"warning: only {count} images" in done(line).err) == few


# --- pixels that are no numbers


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("command", ["eval", "quantize", "train", "run", "predict", "compare"])
def test_an_image_that_is_not_finite_is_named_by_every_command(command, value, files, tmp_path):
    with np.load(files / "test.npz") as stored:
        pixels = stored["images"].astype(np.float32)
    pixels[7, 3, 3] = value
    np.savez(tmp_path / "n.npz", images=pixels)
    line = {
        "eval": "eval {0}/teacher.onnx --data {1}/n.npz",
        "quantize": "quantize {0}/teacher.onnx --data {1}/n.npz -o {1}/s.onnx",
        "train": "train {0}/s.onnx --teacher {0}/teacher.onnx --data {1}/n.npz -o {1}/run",
        "run": "run {0}/teacher.onnx --data {1}/n.npz -o {1}/run",
        "predict": "predict {0}/teacher.onnx {1}/n.npz",
        "compare": "compare {0}/s.onnx --teacher {0}/teacher.onnx --data {1}/n.npz",
    }[command].format(files, tmp_path)
    found = onnx_distill(f"{line} {READ}")
    assert found.code == 2 and found.err.splitlines()[-1] == (
        "error: image 7 has pixels that are NaN or infinite; wanted finite numbers. Leave it out, or mend it."
    )


def test_pixels_whose_sum_overflows_are_fine():
    pixels = np.full((2, 1, 64, 64), 3e38, np.float32)
    assert ArrayImages(pixels).read(np.arange(2)).max() == np.float32(3e38)


# --- models of one class


@pytest.mark.parametrize("command", ["eval", "quantize", "run"])
def test_a_model_of_one_class_is_named_as_such(command, tmp_path):
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]> net (float[n,1,4,4] x) => (float[n,1] y) {
        f = Flatten(x) z = Gemm(f, w) y = Sigmoid(z)
    }""")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((16, 1), np.float32), "w"))
    onnx.save(model, str(tmp_path / "t.onnx"))
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(0, 1, (60, 1, 4, 4)).astype(np.float32))
    found = onnx_distill(
        f"{command} {tmp_path}/t.onnx --logits z --data {tmp_path}/x.npy --layout NCHW"
        + (f" -o {tmp_path}/o" if command != "eval" else "")
    )
    assert found.code == 2 and "logits 'z' are of one class, whose softmax is always 1; wanted two or more" in found.err
