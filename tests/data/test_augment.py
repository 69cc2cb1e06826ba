from __future__ import annotations

import numpy as np
import pytest

from onnx_distill.data import Augment
from onnx_distill.errors import InputError

IMAGES = np.random.default_rng(0).normal(size=(64, 3, 9, 11)).astype(np.float32)
ALL = {"flip": True, "shift": 2, "crop": 0.5, "colour": 0.4, "mixup": 0.4}


def rng():
    return np.random.default_rng(7)


@pytest.mark.parametrize("choice", ALL)
def test_same_seed_gives_the_same_images_and_the_argument_stays(choice):
    before, augment = IMAGES.copy(), Augment(**{choice: ALL[choice]})
    one, two = augment(IMAGES, rng()), augment(IMAGES, rng())
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(IMAGES, before)
    assert one.shape == IMAGES.shape and one.dtype == np.float32 and not np.array_equal(one, IMAGES) and augment.changes


def test_off_changes_nothing():
    assert Augment()(IMAGES, rng()) is IMAGES and not Augment().changes


def test_crop_of_the_whole_area_at_the_images_own_ratio_is_the_image(monkeypatch):
    monkeypatch.setattr("onnx_distill.data.augment.LONGEST_SIDE", 1.0)
    np.testing.assert_allclose(Augment(crop=1.0)(IMAGES, rng()), IMAGES, atol=1e-6)


def test_crop_keeps_linear_ramps_linear_and_inside_their_range():
    down, right = np.meshgrid(np.arange(9.0), np.arange(11.0), indexing="ij")
    ramp = np.stack([down, right, down + right])[None].repeat(64, 0).astype(np.float32)
    found = Augment(crop=0.3)(ramp, rng())
    np.testing.assert_allclose(found[:, 2], found[:, 0] + found[:, 1], atol=1e-5)
    assert found.min() >= 0 and found[:, 0].max() <= 8 and found[:, 1].max() <= 10
    inside = np.diff(found[:, 0, 2:-2, 0], axis=1)  # away from the edge, where pixels repeat
    np.testing.assert_allclose(inside, inside[:, :1].repeat(inside.shape[1], 1), atol=1e-5)


def test_crop_takes_at_least_its_share_of_the_area():
    """The slopes of a resized ramp are the sides of the crop, as shares."""
    down, right = np.meshgrid(np.arange(90.0), np.arange(110.0), indexing="ij")
    ramp = np.stack([down, right])[None].repeat(64, 0).astype(np.float32)
    found = Augment(crop=0.5)(ramp, rng())
    area = (found[:, 0, 50, 0] - found[:, 0, 40, 0]) / 10 * (found[:, 1, 0, 60] - found[:, 1, 0, 50]) / 10
    assert area.max() <= 1 + 1e-4 and area.min() >= 0.5 * 3 / 4 - 1e-4  # a side that would stand out is cut off
    assert np.median(area) > 0.6


def test_colour_leaves_grey_images_grey():
    grey = IMAGES[:, :1].repeat(3, axis=1)
    found = Augment(colour=0.5)(grey, rng())
    np.testing.assert_allclose(found, found[:, :1].repeat(3, axis=1), atol=1e-5)


def test_mixup_keeps_the_larger_part_of_each_image():
    """Of images that are orthogonal, the own share is the projection on the image."""
    images = np.eye(64, dtype=np.float32).reshape(64, 1, 8, 8)
    own = Augment(mixup=0.4)(images, rng()).reshape(64, 64)[np.arange(64), np.arange(64)]
    assert own.min() >= 0.6 and own.min() < 0.7


@pytest.mark.parametrize("wrong", [{"crop": 1.5}, {"colour": -0.1}, {"mixup": 0.6}, {"shift": -1}, {"shift": 1.5}])
def test_impossible_choices_are_refused(wrong):
    with pytest.raises(InputError, match=f"{next(iter(wrong))} is .*; wanted"):
        Augment(**wrong)
