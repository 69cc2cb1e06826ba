"""Whether a student is better than another is decided by paired differences and their standard errors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnx_distill.training.score import fall, fell, share_error


def test_the_fall_of_a_kl_is_the_mean_of_the_paired_differences_with_its_standard_error():
    before, after = np.array([0.1, 0.4, 0.2, 0.3]), np.array([0.0, 0.1, 0.2, 0.1])
    change = [0.1, 0.3, 0.0, 0.2]
    assert fall(before, after) == pytest.approx((np.mean(change), np.std(change, ddof=1) / 2))


def test_a_fall_counts_only_beyond_two_standard_errors_or_as_many_as_are_wanted():
    """Of the roots, which are 2 and what differs from 2 by 1 either way: a standard error of 0.1005."""
    roots, level = np.array([3.0, 1.0] * 50), np.full(100, 4.0)
    assert fell((roots + 0.21) ** 2, level) and not fell((roots + 0.19) ** 2, level)
    assert fell((roots + 0.11) ** 2, level, 1) and not fell((roots + 0.09) ** 2, level, 1)


def test_a_few_images_far_off_do_not_hide_what_all_others_say():
    before, after = np.full(16, 0.04), np.full(16, 0.01)
    before[0], after[0] = 0.5, 0.7
    mean, error = fall(before, after)
    assert mean < 2 * error and fell(before, after)


def test_a_mean_that_rose_is_no_fall_whatever_the_roots_say():
    assert not fell(np.full(16, 0.04), np.array([1.0] + [0.01] * 15))


def test_a_single_image_proves_nothing():
    assert fall(np.array([1.0]), np.array([0.0])) == (1.0, math.inf)
    assert not fell(np.array([1.0]), np.array([0.0]))


def test_images_without_a_difference_are_no_fall():
    assert not fell(np.ones(9), np.ones(9))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_all_or_none_has_the_error_of_one_image(share):
    assert share_error(share, 63) == pytest.approx(math.sqrt((1 / 64) * (63 / 64) / 63))


def test_the_error_of_a_share_is_that_of_a_binomial():
    assert share_error(0.9, 100) == pytest.approx(0.03)
