"""Netron's own parser, from its package on pip, reads every form of exported file whole."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest

from onnx_distill.export import export
from onnx_distill.targets import TARGETS, target_of
from onnx_distill.verify import environments

DRIVE = Path(__file__).with_name("netron.mjs")
BODY = """
    a = Conv<pads = [1, 1, 1, 1]>(x, w, b) r = Relu(a) c = Conv<pads = [1, 1, 1, 1]>(r, w2, b2) s = Add(r, c)
    g = GlobalAveragePool(s) h = Flatten(g) logits = Gemm(h, head, fb)
"""
HEAD = np.random.default_rng(5).standard_normal((4, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def netron() -> Path:
    """The folder of Netron's scripts."""
    folder = environments._made("netron", print, lambda place: environments._pip(place, "netron", ""))
    return next(folder.glob("**/site-packages/netron/onnx.js")).parent


@pytest.mark.parametrize("target, storage", [*((name, "int8") for name in TARGETS), ("ort-x86", "int4")])
def test_netron_reads_an_exported_student(target, storage, netron, tmp_path):
    student = graphs.student_of(graphs.net(BODY, "float[N, 5] logits", head=HEAD), target=target, weight_bits=4)
    made = export(student, target_of(target), storage)
    onnx.checker.check_model(made, full_check=True)
    onnx.shape_inference.infer_shapes(made, check_type=True, strict_mode=True, data_prop=True)
    onnx.save(made, str(tmp_path / "student.onnx"))
    command = [environments.program("node"), str(DRIVE), str(netron), str(tmp_path / "student.onnx")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["format"].startswith("ONNX") and (found["inputs"], found["outputs"]) == (["x"], ["logits"])
    assert found["operators"] == sorted({node.op_type for node in made.graph.node})
