"""provenance.py: what a file says of itself is true, whole, and the same in every export of one run."""

from __future__ import annotations

import hashlib

import graphs
import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from onnx_distill import __version__
from onnx_distill.cli import main
from onnx_distill.cut import cut
from onnx_distill.data import open_images
from onnx_distill.facts.provenance import data_sha256, file_sha256, provenance, stamp
from onnx_distill.kernels.machine import own_target
from onnx_distill.ready.deployable import deployable

BODY = """
    a = Conv<pads = [1, 1, 1, 1]>(x, w, b) r = Relu(a) g = GlobalAveragePool(r) h = Flatten(g)
    logits = Gemm(h, head, fb) p = Softmax(logits)
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with teacher.onnx and images.npy."""
    head = np.random.default_rng(5).standard_normal((4, 5)).astype(np.float32)
    onnx.save(graphs.net(BODY, "float[N, 5] p", head=head), str(tmp_path / "teacher.onnx"))
    np.save(tmp_path / "images.npy", np.random.default_rng(1).standard_normal((96, 3, 8, 8)).astype(np.float32))
    return tmp_path


def _call(*arguments) -> None:
    result = CliRunner().invoke(main, [str(part) for part in arguments])
    assert result.exit_code == 0, result.output


def _way(folder, out: str) -> onnx.ModelProto:
    """cut, quantize, train, each by its command and from the files of the one before; the exported student."""
    made = folder / out
    made.mkdir()
    _call("cut", folder / "teacher.onnx", "-o", made / "logits.onnx")
    data = ("--data", folder / "images.npy")
    clipped = ("--calibration-method", "percentile", "--percentile", 60)  # training mends it
    _call("quantize", made / "logits.onnx", *data, "--weight-bits", 4, *clipped, "-o", made / "student.onnx")
    train = ("--epochs", 2, "--lr", 0.3, "--step-rate", 0.3, "--batch-size", 8, "--validation", 16, "--threads", 1)
    _call("train", made / "student.onnx", "--teacher", folder / "teacher.onnx", *data, *train, "-o", made / "run")
    return onnx.load(str(made / "run" / "student.int8.onnx"))


def test_the_exported_student_says_where_it_comes_from(folder):
    made = provenance(_way(folder, "a"))
    images = open_images(folder / "images.npy")
    known = {
        "tool": __version__,
        "teacher_sha256": hashlib.sha256((folder / "teacher.onnx").read_bytes()).hexdigest(),
        "logits": "logits",
        "target": own_target(),
        "weight_bits": "4",
        "activation_bits": "8",
        "calibration": "percentile",
        "temperature": "20.0",
        "alpha": "1.0",
        "data_sha256": data_sha256(images),
        "score_of": "agreement with the teacher on 16 held-out images",
    }
    assert {name: made[name] for name in known} == known
    assert 0 <= float(made["score_before"]) <= float(made["score_after"]) <= 1 and "kept" not in made


def test_two_ways_from_the_same_files_end_in_the_same_bytes(folder):
    _way(folder, "a"), _way(folder, "b")
    names = ("student.onnx", "run/trained.qdq.onnx", "run/student.int8.onnx")
    assert all((folder / "a" / name).read_bytes() == (folder / "b" / name).read_bytes() for name in names)


def test_inspect_shows_it(folder):
    student = stamp(onnx.load(str(folder / "teacher.onnx")), tool="9.9", alpha=0.5)
    onnx.save(student, str(folder / "student.onnx"))
    shown = CliRunner().invoke(main, ["inspect", str(folder / "student.onnx")]).stdout
    assert "made with      tool 9.9\n               alpha 0.5\n" in shown


def test_a_stamp_replaces_its_keys_and_leaves_the_users_own(folder):
    model = onnx.load(str(folder / "teacher.onnx"))
    model.metadata_props.add(key="author", value="somebody")
    stamp(stamp(model, alpha=0.5, target="qnn"), alpha=0.9, target=None)
    assert provenance(model) == {"target": "qnn", "alpha": "0.9"}
    assert [entry.value for entry in model.metadata_props if entry.key == "author"] == ["somebody"]


def test_the_sha256_is_that_of_the_whole_file(tmp_path):
    content = np.random.default_rng(0).bytes(3 * 2**20 + 17)
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("change", ["pixel", "label", "count"])
def test_other_data_have_another_fingerprint(tmp_path, change):
    images, labels = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 5
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    if change == "pixel":
        images[7, 3, 3] = 1
    elif change == "label":
        labels[3] = 0
    else:
        images, labels = images[:19], labels[:19]
    np.savez(tmp_path / "b.npz", images=images, labels=labels)
    a, b = (data_sha256(open_images(tmp_path / f"{name}.npz")) for name in "ab")
    assert a != b and a == data_sha256(open_images(tmp_path / "a.npz"))


def test_a_teacher_given_as_a_model_has_no_file_to_name(folder):
    teacher = onnx.load(str(folder / "teacher.onnx"))
    made = deployable(graphs.student_of(cut(teacher)), teacher)
    assert "teacher_sha256" not in provenance(made) and provenance(made)["logits"] == "logits"
