from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import random_images
from onnx import numpy_helper

from onnx_distill import qdq
from onnx_distill.compare import compare
from onnx_distill.errors import InputError
from onnx_distill.model import initializers


def batches(model: onnx.ModelProto) -> list[np.ndarray]:
    images = random_images(model)
    return [images[:1], images[1:]]


def test_each_quantizer_has_a_line_with_its_bits(tiny_float, tiny_student):
    layers = compare(tiny_float, tiny_student(), batches(tiny_float), 1)
    quantizers = qdq.find(tiny_student())
    assert [layer.value for layer in layers] == [q.source for q in quantizers]
    assert {layer.kind for layer in layers} == {"weight", "activation"}
    assert all(2 <= layer.bits <= 8 and 0 <= layer.unused <= 1 and 0 <= layer.clipped <= 1 for layer in layers)


def test_noise_of_a_weight_is_that_of_its_rounding(tiny_float, tiny_student):
    student = tiny_student()
    layer = next(layer for layer in compare(tiny_float, student, batches(tiny_float), 1) if layer.value == "w3")
    q = next(q for q in qdq.find(student) if q.source == "w3")
    w, s = (numpy_helper.to_array(initializers(student)[name]).astype(np.float64) for name in ("w3", q.scale))
    rounded = np.clip(np.rint(w / s), q.integers.qmin, q.integers.qmax) * s
    assert layer.noise_db == pytest.approx(10 * np.log10((w**2).sum() / ((w - rounded) ** 2).sum()), rel=1e-5)


def test_noise_of_the_image_is_that_of_its_grid(tiny_float, tiny_student):
    student = tiny_student()
    layer = next(layer for layer in compare(tiny_float, student, batches(tiny_float), 1) if layer.value == "image")
    q = next(q for q in qdq.find(student) if q.source == "image")
    s, z = (float(numpy_helper.to_array(initializers(student)[name])) for name in (q.scale, q.zero_point))
    x = random_images(tiny_float).astype(np.float64)
    rounded = (np.clip(np.rint(x / s) + z, q.integers.qmin, q.integers.qmax) - z) * s
    assert layer.noise_db == pytest.approx(10 * np.log10((x**2).sum() / ((x - rounded) ** 2).sum()), rel=1e-4)


def test_a_range_that_is_too_small_is_seen_as_clipping(tiny_float, tiny_student):
    student = tiny_student()
    scale = initializers(student)[next(q for q in qdq.find(student) if q.source == "image").scale]
    before = compare(tiny_float, student, batches(tiny_float), 1)
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) / np.float32(10), scale.name))
    after = compare(tiny_float, student, batches(tiny_float), 1)
    clipped = [next(layer.clipped for layer in layers if layer.value == "image") for layers in (before, after)]
    assert clipped[1] > clipped[0] + 0.3


def test_a_range_that_is_too_large_is_seen_as_unused_levels(tiny_float, tiny_student):
    student = tiny_student()
    scale = initializers(student)[next(q for q in qdq.find(student) if q.source == "image").scale]
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(100), scale.name))
    image = next(layer for layer in compare(tiny_float, student, batches(tiny_float), 1) if layer.value == "image")
    assert image.unused > 0.95


def test_result_does_not_depend_on_the_batches(tiny_float, tiny_student):
    images = random_images(tiny_float)
    one, two = (compare(tiny_float, tiny_student(), parts, 1) for parts in ([images], batches(tiny_float)))
    for a, b in zip(one, two):
        assert (a.clipped, a.unused) == (b.clipped, b.unused) and a.noise_db == pytest.approx(b.noise_db)


def test_a_float_model_and_no_images_are_refused(tiny_float, tiny_student):
    with pytest.raises(InputError, match="no quantizers"):
        compare(tiny_float, tiny_float, batches(tiny_float))
    with pytest.raises(InputError, match="no images"):
        compare(tiny_float, tiny_student(), [])
