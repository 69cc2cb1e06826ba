from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

from onnx_distill import runtime
from onnx_distill.errors import InputError
from onnx_distill.training import teacher
from onnx_distill.training.ensemble import agreed_logits
from onnx_distill.training.teacher import Teacher

IMAGES = np.random.default_rng(0).normal(size=(6, 1, 4, 4)).astype(np.float32)


@pytest.fixture
def counted(monkeypatch):
    """How often the runtime was asked."""
    calls, run = [], runtime.run
    monkeypatch.setattr(teacher.runtime, "run", lambda *given: calls.append(1) or run(*given))
    return calls


def test_logits_are_the_models(tiny_float):
    wanted = runtime.run(runtime.open_session(tiny_float, 1), IMAGES)[0]
    np.testing.assert_array_equal(Teacher(tiny_float, 1, 3).logits(IMAGES, np.arange(6)), wanted)


@pytest.mark.parametrize("largest", [2**20, 0], ids=["in memory", "on disk"])
def test_each_image_is_computed_once_and_remembered_in_any_order(tiny_float, counted, monkeypatch, largest):
    monkeypatch.setattr(teacher, "LARGEST_IN_MEMORY", largest)
    wanted = Teacher(tiny_float, 1, 3).logits(IMAGES, np.arange(6))
    remembering = Teacher(tiny_float, 1, 3, remember=6)
    remembering.logits(IMAGES[:3], np.arange(3))
    remembering.logits(IMAGES[3:], np.arange(3, 6))
    before, order = len(counted), np.array([5, 0, 3, 2, 1, 4])
    np.testing.assert_array_equal(remembering.logits(IMAGES[order], order), wanted[order])
    assert len(counted) == before


def test_batch_with_one_new_image_is_computed(tiny_float, counted):
    remembering = Teacher(tiny_float, 1, 3, remember=6)
    remembering.logits(IMAGES[:3], np.arange(3))
    before = len(counted)
    remembering.logits(IMAGES[2:4], np.arange(2, 4))
    assert len(counted) == before + 1


def test_without_remembering_every_batch_is_computed(tiny_float, counted):
    forgetting = Teacher(tiny_float, 1, 3)
    for _ in range(2):
        forgetting.logits(IMAGES, np.arange(6))
    assert len(counted) == 2


def test_images_of_another_size_are_refused(tiny_float):
    with pytest.raises(InputError, match="4, 4"):
        Teacher(tiny_float, 1, 3).check(np.zeros((2, 1, 5, 5), np.float32))


# ---- features, and several teachers


def other_teacher(set_values, tiny_float):
    return set_values(tiny_float, {"w3": -2 * np.random.default_rng(5).normal(size=(64, 3))})


def test_features_come_with_the_logits_and_nothing_is_remembered(tiny_float, counted):
    guide = Teacher(tiny_float, 1, 3, remember=6, features=["a1", "d"])
    for _ in range(2):
        logits, (a1, d) = guide.answer(IMAGES, np.arange(6))
    wanted = runtime.run(runtime.open_session(tiny_float, 1), IMAGES)[0]
    np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-6)  # another optimized graph
    assert a1.shape == d.shape == (6, 4, 4, 4) and a1.min() == 0
    assert len(counted) == 3


def test_several_teachers_answer_with_the_mean_of_their_probabilities(tiny_float, set_values):
    both = [tiny_float, other_teacher(set_values, tiny_float)]
    each = [runtime.run(runtime.open_session(model, 1), IMAGES)[0] for model in both]
    found = Teacher(both[0], 1, 3, also=both[1:], temperature=4).logits(IMAGES, np.arange(6))
    np.testing.assert_array_equal(found, agreed_logits(each, 4))


def test_what_several_teachers_agree_on_is_remembered(tiny_float, set_values, counted):
    guide = Teacher(tiny_float, 1, 3, remember=6, also=[other_teacher(set_values, tiny_float)], temperature=4)
    first = guide.logits(IMAGES, np.arange(6))
    np.testing.assert_array_equal(guide.logits(IMAGES[::-1].copy(), np.arange(6)[::-1]), first[::-1])
    assert len(counted) == 2  # one run for each teacher


def test_images_that_a_further_teacher_cannot_take_are_refused(tiny_float):
    bare = parser.parse_model(
        "<ir_version: 8, opset_import: ['': 17]> g (float[n,1,5,5] i) => (float[n,25] l) { l = Flatten(i) }".replace(
            "'", '"'
        )
    )
    with pytest.raises(InputError, match="4, 4.* wants .*5, 5"):
        Teacher(tiny_float, 1, 3, also=[bare]).check(IMAGES)
