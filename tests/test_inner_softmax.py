"""A Softmax whose input has a quantizer because another integer operator reads it too: stock runtimes run it in integers, and
cut off where QuantizeLinear rounds. In plain attention it stays float (placement/graph.py)."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import deployed, net, operators, random_images, simulated, student_of
from onnx import numpy_helper

from onnx_distill.artifacts import trainable
from onnx_distill.export import export
from onnx_distill.lookup import array, initializers

ATTENTION = """
    a = Reshape(x, tokens) q = MatMul(a, wq) k = MatMul(a, wk) kt = Transpose<perm = [0, 2, 1]>(k) s = MatMul(q, kt)
    p = Softmax<axis = -1>(s) u = MatMul(s, a) v = MatMul(p, a) o = Add(u, v) f = Flatten(o) y = MatMul(f, head)"""
WEIGHTS = {name: np.random.default_rng(i).normal(0, 0.3, (8, 8)).astype(np.float32) for i, name in enumerate(("wq", "wk"))}
WEIGHTS["head"] = np.random.default_rng(2).normal(0, 0.1, (192, 5)).astype(np.float32)


def student(bits: int) -> onnx.ModelProto:
    model = net(ATTENTION, "float[N, 5] y", tokens=np.array([0, 24, 8]), **WEIGHTS)
    return student_of(model, weight_bits=bits, activation_bits=bits)


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_the_exported_softmax_answers_as_its_simulation(bits, tmp_path):
    made, images = student(bits), random_images(student(bits))
    assert operators(export(made), tmp_path / "fused.onnx")["QLinearSoftmax"] == 1
    assert np.array_equal(deployed(export(made), images)[0], simulated(made, images)[0])


@pytest.mark.parametrize("bits", [8, 4])
def test_its_scale_is_a_power_of_two_and_stays(bits):
    made = student(bits)
    assert np.log2(array(initializers(made)["p/scale"])) % 1 == 0
    assert "p/scale" not in trainable(made, "all").steps and "s/scale" in trainable(made, "all").steps


def test_the_runtime_still_cuts_off_at_other_scales():
    made = student(8)
    scale = initializers(made)["p/scale"]
    scale.CopyFrom(numpy_helper.from_array(array(scale) * np.float32(0.99), scale.name))
    assert not np.array_equal(deployed(made, random_images(made))[0], simulated(made, random_images(made))[0])
