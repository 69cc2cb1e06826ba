"""unshared.py: what an exact session of shared weights is opened from."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import CONV, FEATURES, deployed, net, random_images, simulated, student_of

from onnx_distill.export import export
from onnx_distill.quantization.unshared import with_own_weights

SHARED = CONV + "c = Conv<pads = [1, 1, 1, 1]>(a, w2, b2) d = Conv<pads = [1, 1, 1, 1]>(c, w2, b2) y = Conv(d, w2, b2)"


@pytest.fixture
def shared():
    return export(student_of(net(SHARED, FEATURES)))


def test_every_reader_has_its_own_integers_and_zero_point(shared):
    before = shared.SerializeToString(deterministic=True)
    made = with_own_weights(shared)
    nodes = {node.output[0]: node for node in made.graph.node}
    for position in (0, 2):
        read = [nodes[node.input[1]].input[position] for node in made.graph.node if node.op_type == "Conv"]
        assert len(set(read)) == len(read) == 4
    assert shared.SerializeToString(deterministic=True) == before


def test_it_computes_the_same(shared):
    images = random_images(shared)
    assert np.array_equal(simulated(shared, images)[0], simulated(with_own_weights(shared), images)[0])


def test_it_opens_in_an_exact_session(shared):
    images = random_images(shared)
    assert np.mean(deployed(shared, images)[0] != simulated(shared, images)[0]) <= 1e-3


def test_once_is_enough_and_what_shares_nothing_is_itself(shared):
    made = with_own_weights(shared)
    assert with_own_weights(made) is made


def test_a_student_whose_weights_are_floats_still_opens_too():
    student = student_of(net(SHARED, FEATURES), target="ort-x86")
    images = random_images(student)
    assert np.mean(deployed(student, images)[0] != simulated(student, images)[0]) <= 1e-3
    assert np.array_equal(simulated(student, images)[0], simulated(with_own_weights(student), images)[0])
