"""What several teachers agree on is the mean of their softened probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_distill.training.ensemble import agreed_logits


def softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    z = logits.astype(np.float64) / temperature
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


LOGITS = np.random.default_rng(0).normal(0, 5, (3, 8, 7)).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.5, 1, 4, 20])
def test_softmax_of_what_is_agreed_is_the_mean_of_the_softened_probabilities(temperature):
    wanted = np.mean([softmax(z, temperature) for z in LOGITS], axis=0)
    found = softmax(agreed_logits(list(LOGITS), temperature), temperature)
    # float32 logits of T log p, each 2^-24 relative: T log p / T = log p
    np.testing.assert_allclose(found, wanted, rtol=2.0**-22 * 60)


def test_one_teacher_is_left_as_it_is():
    alone = LOGITS[0]
    assert agreed_logits([alone], 4) is alone


def test_teachers_that_agree_are_one_teacher():
    found = agreed_logits([LOGITS[0]] * 3, 4)
    np.testing.assert_allclose(softmax(found, 4), softmax(LOGITS[0], 4), rtol=1e-5)


def test_scale_of_one_teacher_does_not_rule_the_others_out():
    """Of a mean of logits the teacher with the largest ones would decide alone; here each has half of the vote."""
    sure, unsure = np.array([[1000.0, 0, 0]], np.float32), np.array([[0.0, 1, 0]], np.float32)
    found = softmax(agreed_logits([sure, unsure], 1), 1)
    np.testing.assert_allclose(found, (np.array([[1.0, 0, 0]]) + softmax(unsure, 1)) / 2, rtol=1e-4)


def test_confident_teachers_stay_finite():
    found = agreed_logits([np.array([[3e4, 0]], np.float32), np.array([[3e4, -3e4]], np.float32)], 1)
    assert np.isfinite(found).all() and found.dtype == np.float32
