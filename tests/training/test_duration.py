"""How long a training is where nobody says: by bits, by images, by minutes."""

from __future__ import annotations

import pytest

from onnx_distill.config import QuantizeConfig, TrainConfig
from onnx_distill.training.duration import (
    BATCH,
    FEWEST,
    GAINING,
    MINUTES,
    MIXUP,
    MOST_PASSES,
    UPDATES,
    Duration,
    batch_of,
    duration_of,
    lowest_bits,
    mixup_of,
)


def student_of(tiny_student, weight_bits, activation_bits=8):
    return tiny_student(QuantizeConfig(weight_bits, activation_bits))


@pytest.mark.parametrize("bits, least, most", UPDATES)
def test_fewer_bits_get_more_updates_and_so_do_more_images(bits, least, most, tiny_student):
    student = student_of(tiny_student, bits)
    assert duration_of(TrainConfig(), student, 10**6, 64, 15625).updates == most
    assert duration_of(TrainConfig(), student, 64 * 30, 64, 30).updates == least
    assert duration_of(TrainConfig(), student, 64 * 50, 64, 50).updates == min(max(least, GAINING * 50), most)


def test_the_bits_that_count_are_the_fewest_of_weights_and_activations(tiny_student):
    assert [lowest_bits(student_of(tiny_student, *bits)) for bits in ((8, 8), (4, 8), (8, 3))] == [8, 4, 3]


def test_few_images_are_seen_a_limited_number_of_times(tiny_student):
    found = duration_of(TrainConfig(), student_of(tiny_student, 4), 48, 16, 3)
    assert found.updates == 3 * MOST_PASSES and found.passes == MOST_PASSES


def test_slow_steps_get_as_many_updates_as_fit_the_minutes_but_not_next_to_none(tiny_student):
    student = student_of(tiny_student, 4)
    assert duration_of(TrainConfig(), student, 10**6, 64, 15625, seconds=3.0).updates == 20 * MINUTES
    assert duration_of(TrainConfig(), student, 10**6, 64, 15625, seconds=600.0).updates == FEWEST


def test_epochs_that_are_chosen_are_what_is_done_whatever_it_takes(tiny_student):
    found = duration_of(TrainConfig(epochs=2.5), student_of(tiny_student, 4), 6400, 64, 100, seconds=600.0)
    assert found.updates == 250 and found.passes == 2.5


def test_large_images_come_in_half_the_batch_unless_it_is_chosen_and_never_more_than_there_are():
    assert batch_of(TrainConfig(), 10**4, 28 * 28) == BATCH and batch_of(TrainConfig(), 10**4, 224 * 224) == BATCH // 2
    assert batch_of(TrainConfig(batch_size=100), 10**4, 224 * 224) == 100 and batch_of(TrainConfig(), 48, 28 * 28) == 48


def test_it_says_updates_passes_and_time():
    assert (
        str(Duration(1000, 64, 50_000, 125.0)) == "1,000 updates of 64 images (1.28 passes over 50,000), about 2.1 minutes"
    )


@pytest.mark.parametrize(
    "images, passes, chosen, found",
    [(800, 50, None, MIXUP), (800, 2, None, 0), (50_000, 50, None, 0), (800, 50, 0.0, 0), (50_000, 1, 0.2, 0.2)],
)
def test_few_images_that_are_seen_often_are_mixed_unless_it_is_chosen(images, passes, chosen, found):
    assert mixup_of(TrainConfig(mixup=chosen), Duration(images * passes // 50, 50, images)) == found
