"""Accuracy class by class, and intervals that hold the truth as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnx_distill.page.classes import ClassResult, Z, by_class, change_interval, share_interval


def test_each_class_that_has_images_is_counted():
    teacher, student, labels = np.array([0, 0, 1, 4, 4]), np.array([0, 1, 1, 4, 0]), np.array([0, 0, 1, 4, 4])
    assert by_class(teacher, student, labels) == [
        ClassResult(0, 2, 2, 1),
        ClassResult(1, 1, 1, 1),
        ClassResult(4, 2, 2, 1),
    ]
    assert by_class(teacher, student, None) == []


@pytest.mark.parametrize("right, count", [(0, 10), (3, 10), (10, 10), (9466, 10000)])
def test_ends_of_a_share_s_interval_are_z_standard_errors_away_by_their_own_error(right, count):
    low, high = share_interval(right, count)
    share = right / count
    assert low <= share <= high
    for end in (low, high):
        away = abs(share - end)
        assert away == pytest.approx(Z * math.sqrt(end * (1 - end) / count)) or end in (0, 1)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.98])
def test_interval_of_a_share_holds_it_in_about_95_of_100_draws(share):
    drawn = np.random.default_rng(0).binomial(200, share, 4000)
    held = np.mean([low <= share <= high for low, high in (share_interval(int(right), 200) for right in drawn)])
    assert 0.93 < held < 0.98


@pytest.mark.parametrize("lost, won", [(0.02, 0.02), (0.05, 0.01)])
def test_interval_of_a_change_holds_it_in_about_95_of_100_draws(lost, won):
    drawn = np.random.default_rng(0).multinomial(500, [lost, won, 1 - lost - won], 4000)
    intervals = [change_interval(int(lost), int(won), 500) for lost, won, _ in drawn]
    held = np.mean([low <= won - lost <= high for low, high in intervals])
    assert 0.93 < held < 0.98


def test_change_of_equal_answers_is_about_nothing():
    low, high = change_interval(0, 0, 1000)
    assert low == -high and 0 < high < 0.003
