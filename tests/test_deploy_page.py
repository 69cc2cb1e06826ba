"""docs/deploy.md: its code, run as it stands under each runtime, gives the answers that this project's own code gives."""

from __future__ import annotations

import functools
import json
import re
import subprocess
from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest

from onnx_distill.cut import cut
from onnx_distill.errors import InputError
from onnx_distill.ready.deployable import deployable
from onnx_distill.verify import find_runtime
from onnx_distill.verify.environments import answers

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "deploy.md").read_text(encoding="utf-8")
OLD = "onnxruntime==1.17.3"
TARGETS = {OLD: "ort-x86-novnni"}  # of all others: OpenVINO, whose file is of opset 21, which the old one does not read
BODY = """
    a = Conv<pads = [1, 1, 1, 1]>(x, w, b) r = Relu(a) c = Conv<pads = [1, 1, 1, 1]>(r, w2, b2) s = Add(r, c)
    g = GlobalAveragePool(s) h = Flatten(g) logits = Gemm(h, head, fb) p = Softmax(logits)
"""


def _code(heading: str) -> str:
    """The first block of code below a heading of the page."""
    return re.search(rf"^## {heading}\n+```\w+\n(.*?)```", PAGE, re.M | re.S).group(1)


@pytest.fixture
def runtime() -> str:
    """That of a test which is told none."""
    return "onnxruntime-web"


@functools.cache
def _exported(target: str) -> onnx.ModelProto:
    head = np.random.default_rng(5).standard_normal((4, 5)).astype(np.float32)
    teacher = graphs.net(BODY, "float[N, 5] p", head=head)
    return deployable(graphs.student_of(cut(teacher), target=target), teacher, target)


@pytest.fixture
def exported(runtime) -> onnx.ModelProto:
    """For OpenVINO, whose fusion it allows for, if the runtime reads that; without VNNI: stock runtimes saturate nothing of it on any machine."""
    return _exported(TARGETS.get(runtime, "openvino-novnni"))


@pytest.fixture
def folder(tmp_path, exported):
    """A folder with all that the page's code reads."""
    images = graphs.random_images(exported, 40)
    images += np.random.default_rng(2).normal(0, 3, (40, 3, 1, 1)).astype(np.float32)  # else all are of one class
    onnx.save(exported, str(tmp_path / "student.int8.onnx"))
    np.save(tmp_path / "images.npy", images)
    images.tofile(tmp_path / "images.f32")
    (tmp_path / "shape.json").write_text(json.dumps(images.shape))
    return tmp_path


def _expected(exported, folder) -> list[int]:
    made = answers(find_runtime("wheel"), exported, np.load(folder / "images.npy")).outputs["p"]
    assert len(set(made.argmax(axis=1))) > 1
    return made.argmax(axis=1).tolist()


def _printed(command: list[str], folder: Path) -> list[int]:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


@pytest.mark.parametrize(
    "heading, runtime", [("onnxruntime, Python", "wheel"), ("onnxruntime, Python", OLD), ("OpenVINO", "openvino")]
)
def test_the_python_code_answers(heading, runtime, exported, folder):
    (folder / "code.py").write_text(_code(heading))
    assert _printed([find_runtime(runtime).command[0], "code.py"], folder) == _expected(exported, folder)


def test_the_javascript_code_answers_under_node(exported, folder):
    web = find_runtime("onnxruntime-web")
    (folder / "node_modules").symlink_to(web.folder / "node_modules")
    (folder / "code.mjs").write_text(_code("onnxruntime, JavaScript"))
    assert _printed([web.command[0], "code.mjs"], folder) == _expected(exported, folder)


@pytest.mark.parametrize("runtime", ["onnxruntime", OLD, "openvino", "reference", "onnxruntime-web"])
def test_every_runtime_gives_the_scores_of_the_wheel(runtime, exported, folder):
    images = np.load(folder / "images.npy")
    wheel, other = (answers(find_runtime(name), exported, images) for name in ("wheel", runtime))
    assert np.abs(wheel.outputs["p"] - other.outputs["p"]).max() < 0.02  # a step of the logits moves a score by less
    assert (wheel.outputs["p"].argmax(axis=1) == other.outputs["p"].argmax(axis=1)).mean() >= 39 / 40


def test_the_old_runtime_does_not_read_a_file_for_openvino():
    exported = _exported("openvino-novnni")
    with pytest.raises(InputError, match="Opset 21 is under development"):
        answers(find_runtime(OLD), exported, graphs.random_images(exported, 1))
