"""The unit of each parameter follows its size, so that a training is the same however the layers of a teacher are scaled."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from onnx_distill import artifacts, placement, qdq, quantize
from onnx_distill.config import DistillConfig, QuantizeConfig, TrainConfig
from onnx_distill.data import ArrayImages
from onnx_distill.lookup import array, initializers
from onnx_distill.train import train
from onnx_distill.trainable.units import FLOAT_STEPS, STEP, TYPICAL, natural_units
from onnx_distill.training.score import Score

RANGES = {"image": (-1, 1), "a1": (0, 2), "c2": (-2, 2), "d": (-2, 4), "logits": (-3, 3)}
FLOAT_ERROR = 2.0**-20  # a few roundings of float32 an update, some hundred updates


def units_of(student):
    found = artifacts.trainable(student, "all")
    return natural_units(student, found.weights + found.biases, found.steps)


def test_the_unit_of_a_weight_is_its_quantization_step(tiny_student):
    student = tiny_student()
    found, constants = units_of(student), initializers(student)
    for q in qdq.find(student):
        if q.source in found and q.axis is not None:
            assert np.array_equal(found[q.source].reshape(-1), array(constants[q.scale])), q.source


def test_the_unit_of_a_bias_is_the_rounding_error_of_the_weights_beside_it(tiny_student):
    student = tiny_student()
    constants, quantizers = initializers(student), {q.source: q for q in qdq.find(student)}
    step, image = array(constants[quantizers["w1"].scale]), quantizers["image"]
    span = array(constants[image.scale]) * (image.integers.qmax - image.integers.qmin)
    np.testing.assert_allclose(units_of(student)["b1"], step * span / TYPICAL * np.sqrt(9), rtol=1e-6)  # 1 x 3 x 3 weights


def test_the_unit_of_a_step_is_a_share_of_it_that_falls_with_the_levels(tiny_student):
    student = tiny_student(QuantizeConfig(weight_bits=4, activation_bits=3, edge_bits=0))
    quantizers = {q.source: q for q in qdq.find(student)}
    units = units_of(student)
    assert units[quantizers["w2"].scale] == np.float32(STEP / 14) and units[quantizers["d"].scale] == np.float32(STEP / 7)


def test_values_without_a_quantizer_are_learned_in_parts_of_their_size(tiny_float):
    config = QuantizeConfig(weight_bits=4, activation_bits=4, exclude=("depthwise",))
    student = quantize.quantize(tiny_float, placement.plan(tiny_float, config), RANGES, config)
    w2 = array(initializers(student)["w2"])
    assert units_of(student)["w2"] == pytest.approx(np.sqrt((w2**2).mean()) / FLOAT_STEPS)


def scaled_student(set_values, tiny_float, factor: float):
    """The student of tiny_float with its first layer `factor` times as large; what reads it is as much smaller."""
    f = np.float32(factor)
    value = {t.name: numpy_helper.to_array(t) for t in tiny_float.graph.initializer}
    teacher = set_values(
        tiny_float,
        {"w1": value["w1"] * f, "b1": value["b1"] * f, "b2": value["b2"] * f, "w3": value["w3"] / f},
    )
    ranges = {
        name: (low * factor, high * factor) if name in ("a1", "c2", "d") else (low, high)
        for name, (low, high) in RANGES.items()
    }
    config = QuantizeConfig(weight_bits=4, activation_bits=4)
    return teacher, quantize.quantize(teacher, placement.plan(teacher, config), ranges, config)


@pytest.mark.parametrize("factor", [2.0**-7, 2.0**7], ids=["1/128", "128"])
def test_scaling_a_layer_and_the_next_one_back_changes_the_trained_student_by_that_scale_alone(
    factor, set_values, tiny_float
):
    """With powers of two nothing is rounded differently, so that every integer of the trained students is the same."""
    rng = np.random.default_rng(0)
    images = ArrayImages(rng.uniform(-1, 1, (96, 4, 4)).astype(np.float32), rng.integers(0, 3, 96))
    falling = iter(range(100, 0, -1))
    config = TrainConfig(epochs=20, batch_size=16, threads=1)
    made = []
    for scale in (1.0, factor):
        teacher, student = scaled_student(set_values, tiny_float, scale)
        judge = lambda model: Score(0.0, np.full(2, float(next(falling))))  # noqa: E731
        made.append(train(student, teacher, images, judge, DistillConfig(), config).best.student)
    one, other = made
    scales = {"w1": factor, "b1": factor, "b2": factor, "w3": 1 / factor}
    moved = 0
    for name, scale in {"w2": 1.0, "b3": 1.0, **scales}.items():
        first, second = (array(initializers(model)[name]) for model in (one, other))
        largest = np.abs(first).max()
        np.testing.assert_allclose(second / scale, first, atol=FLOAT_ERROR * largest, rtol=0, err_msg=name)
        moved += not np.array_equal(first, array(initializers(tiny_float)[name]))
    assert moved == 6
