from __future__ import annotations

import numpy as np
import pytest

from onnx_distill import runtime, teacher
from onnx_distill.errors import InputError
from onnx_distill.teacher import Teacher

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
