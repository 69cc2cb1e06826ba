"""teacher_check.py: images that are read otherwise than the teacher was trained on are noticed, and what would mend it is named."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_distill.data import ArrayImages, Preprocess
from onnx_distill.ready.teacher_check import TeacherCheck, entropy, teacher_check

HALF = np.array([[250, 130, 10], [180, 40, 90], [230, 240, 120], [120, 90, 5]])
COLOURS = np.concatenate([HALF, HALF[:, ::-1]])  # red and blue exchanged, each is another one
RIGHT = Preprocess(mean=(127.5,), scale=(1 / 127.5,))


def images(preprocess: Preprocess = RIGHT, labels: bool = True, count: int = 120) -> ArrayImages:
    """Pictures of one of eight colours, with noise; the label is the colour."""
    rng = np.random.default_rng(1)
    classes = rng.integers(0, 8, count)
    pixels = np.clip(COLOURS[classes][:, None, None] + rng.integers(-9, 10, (count, 6, 6, 3)), 0, 255).astype(np.uint8)
    return ArrayImages(pixels, classes if labels else None, preprocess)


def teacher(batch: np.ndarray) -> np.ndarray:
    """Logits: how near the mean colour lies to each of the eight, on pixels from -1 to 1."""
    mean = batch.mean(axis=(2, 3))
    return -np.square(mean[:, None] - (COLOURS[None] / 127.5 - 1)).sum(axis=2) * 10


def check(seen: ArrayImages) -> TeacherCheck:
    return teacher_check(teacher(seen.read(np.arange(len(seen)))), seen, teacher)


def test_a_teacher_that_is_right_is_not_doubted():
    chance = 100 * np.bincount(images().labels).max() / 120
    assert check(images()) == TeacherCheck(f"teacher: top-1 100.0 % of 120 images (chance {chance:.1f} %)")


@pytest.mark.parametrize(
    "how, named",
    [
        (Preprocess(), "pixels -1 to 1|--preset mobilenet"),
        (RIGHT.replace(order="BGR"), "--order RGB"),
        (Preprocess(scale=(1 / 255,)), "pixels -1 to 1|--preset mobilenet"),
        (Preprocess(mean=(120, 120, 120), scale=(0.1, 0.1, 0.1), order="BGR"), "--order RGB"),
    ],
    ids=["preset forgotten", "BGR", "0 to 1", "both"],
)
def test_images_that_are_read_otherwise_are_doubted_and_what_fits_is_named(how, named):
    found = check(images(how))
    doubt = found.doubt
    assert found.found.startswith("teacher: top-1 ") and "of 120 images (chance " in found.found
    assert "are the images read as it was trained on them?" in doubt
    assert any(f"With {each}" in doubt or f"and {each}" in doubt for each in named.split("|")), doubt
    assert "it is right on 100.0 % of 120." in doubt


@pytest.mark.parametrize("shift, words", [(1, "one less"), (-1, "one more")])
def test_labels_that_are_off_by_one_are_named(shift, words):
    seen = images()
    seen.labels = (seen.labels + shift) % 8
    kept = seen.subset(np.flatnonzero((seen.labels != 0) if shift > 0 else (seen.labels != 7)))
    assert f"labels counted from {words} (--label-offset)" in check(kept).doubt


def test_what_nothing_helps_is_doubted_without_advice():
    seen = images()
    seen.labels = np.random.default_rng(3).integers(0, 8, len(seen))
    assert check(seen).doubt.endswith("--label-offset.")


def test_without_labels_one_answer_for_nearly_all_is_doubted():
    assert not check(images(labels=False)).doubt
    found = check(images(RIGHT.replace(mean=(5000.0, 127.5, 127.5)), labels=False))
    assert "its commonest answer is given for 100.0 % of 120 images" in found.found
    assert "are the images read as it was trained" in found.doubt


def test_entropy_is_0_for_one_certain_class_and_the_log_of_the_classes_for_no_idea():
    np.testing.assert_allclose(entropy(np.float32([[0, 1e4, 0], [7, 7, 7]])), [0, np.log(3)], atol=1e-12)


def test_few_images_are_not_judged():
    assert not check(images(Preprocess(), count=10)).doubt
