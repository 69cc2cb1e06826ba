"""ties.py: no sum of an 8-bit value and a constant lies in the middle of two integers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import CONV, FEATURES, deployed, net, random_images, simulated, student_of
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from onnx_distill import qdq
from onnx_distill.evaluate import with_output
from onnx_distill.lookup import array, initializers, producers
from onnx_distill.quantization.ties import CLEAR, avoid_ties, clearance

GATED = CONV + "h = HardSwish(a) y = Conv(h, w2, b2)"
CHOICES = {
    "W8A8": {},
    "W4A4": {"weight_bits": 4, "activation_bits": 4},
    "A2": {"activation_bits": 2},
    "symmetric": {"symmetric": True},
    "tensorrt": {"target": "tensorrt"},
    "openvino": {"target": "openvino"},
    "qnn": {"target": "qnn"},
}
every_choice = pytest.mark.parametrize("choices", CHOICES.values(), ids=CHOICES)


def gate(student: onnx.ModelProto) -> tuple[qdq.Quantizer, np.ndarray]:
    """The quantizer of u + c, and every value of that sum, by numpy from the scales in the file."""
    found, made_by, constants = qdq.find(student), producers(student), initializers(student)
    by_result = {q.result: q for q in found}

    def add_behind(q):
        node = made_by.get(q.source)
        while node is not None and node.op_type == "Clip":
            node = made_by.get(node.input[0])
        return node if node is not None and node.op_type == "Add" else None

    q = next(q for q in found if add_behind(q) is not None)
    u, c = (by_result[name] for name in add_behind(q).input)
    integers = np.arange(u.integers.qmin, u.integers.qmax + 1) - int(array(constants[u.zero_point]))
    top = float(array(constants[c.scale])) * (c.integers.qmax - int(array(constants[c.zero_point])))
    return q, integers * float(array(constants[u.scale])) + top


def from_a_tie(student: onnx.ModelProto) -> float:
    """Steps from a tie to the nearest value that the gate can be asked to round."""
    q, sums = gate(student)
    constants = initializers(student)
    zero_point = int(array(constants[q.zero_point]))
    ends = q.integers.qmin - zero_point, q.integers.qmax - zero_point
    return clearance(sums, float(array(constants[q.scale])), *ends)


def with_step(student: onnx.ModelProto, step: float) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(student)
    name = gate(made)[0].scale
    initializers(made)[name].CopyFrom(numpy_helper.from_array(np.asarray(step, np.float32), name))
    return made


@every_choice
def test_no_value_that_the_gate_of_a_hard_swish_can_take_is_a_tie(choices):
    assert from_a_tie(student_of(net(GATED), **choices)) >= CLEAR


def test_a_gate_whose_step_divides_its_range_evenly_has_a_tie_at_zero():
    even = with_step(student_of(net(GATED)), np.float32(np.sqrt(6)) / 255)
    assert from_a_tie(even) == 0


def test_the_step_moves_by_at_most_a_thousandth():
    student = student_of(net(GATED))
    for step in np.sqrt(6) / np.array([255, 15, 254.5, 200.1]):
        moved = with_step(student, step)
        avoid_ties(moved)
        assert float(array(initializers(moved)[gate(moved)[0].scale])) == pytest.approx(step, rel=1.0001e-3)


def test_a_step_without_ties_stays():
    student = student_of(net(GATED))
    before = student.SerializeToString(deterministic=True)
    avoid_ties(student)
    assert student.SerializeToString(deterministic=True) == before


def test_a_sum_of_two_activations_keeps_its_step():
    body = CONV + "c = Conv<pads = [1, 1, 1, 1]>(a, w2, b2) s = Add(a, c) y = Conv(s, w3, b3)"
    student = student_of(net(body))
    before = student.SerializeToString(deterministic=True)
    avoid_ties(student)
    assert student.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("seed", range(4))
def test_integer_kernels_and_simulation_round_every_gate_alike(seed):
    """Half of the values are 0. With a step that divides the range evenly they differ for seed 2, in every 0 (1.19.2, AVX2)."""
    model = net(GATED, FEATURES, seed=seed, b=np.zeros(4, np.float32))
    weights = initializers(model)["w"]
    weights.CopyFrom(numpy_helper.from_array(np.where(np.arange(4).reshape(4, 1, 1, 1) < 2, 0, array(weights)), "w"))
    student, images = student_of(model), random_images(model)
    integers = producers(student)[gate(student)[0].result].input[0]
    watched = with_output(student, integers)
    exact, found = simulated(watched, images)[1], deployed(watched, images)[1]
    assert np.mean(exact == exact[0, 0, 0, 0]) > 0.4
    np.testing.assert_array_equal(exact, found)


@given(st.floats(0.5, 300), st.integers(0, 254))
def test_clearance_is_the_distance_of_the_nearest_sum_from_a_half(step, integer):
    sums = np.array([0.0, integer + 0.5 + 0.125, 10.25, 255.5, -0.5]) * step
    assert clearance(sums, step, 0, 255) == pytest.approx(0.125, abs=1e-9)
