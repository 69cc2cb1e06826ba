from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import random_images
from onnx import numpy_helper

from onnx_distill import qdq, runtime
from onnx_distill.compare import compare, render_layers, worst_first
from onnx_distill.config import QuantizeConfig
from onnx_distill.errors import InputError
from onnx_distill.evaluate import with_output
from onnx_distill.lookup import initializers


def batches(model: onnx.ModelProto) -> list[np.ndarray]:
    images = random_images(model)
    return [images[:1], images[1:]]


def test_each_quantizer_with_a_scale_of_its_own_has_a_line_with_its_bits(tiny_float, tiny_student):
    layers = compare(tiny_float, tiny_student(), batches(tiny_float), 1)
    assert [q.source for q in qdq.find(tiny_student()) if q.source not in {layer.value for layer in layers}] == ["f"]
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


def test_layers_go_by_the_names_of_their_nodes(tiny_float, tiny_student):
    layers = compare(tiny_float, tiny_student(), batches(tiny_float), 1)
    assert {layer.value: layer.layer for layer in layers} == {
        **{"w1": "stem", "w2": "depthwise", "w3": "classifier"},
        **{"image": "image", "c1": "stem", "c2": "depthwise", "d": "residual", "logits/float": "classifier"},
    }


def test_own_noise_is_what_a_quantizer_makes_of_the_teachers_values(tiny_float, tiny_student):
    student = tiny_student()
    layer = next(x for x in compare(tiny_float, student, batches(tiny_float), 1) if x.layer == "residual")
    q = next(q for q in qdq.find(student) if q.source == "d")
    s, z = (numpy_helper.to_array(initializers(student)[name]) for name in (q.scale, q.zero_point))
    d = runtime.run(runtime.open_session(with_output(tiny_float, "d"), 1), random_images(tiny_float), ["d"])[0].astype(
        np.float64
    )
    rounded = (np.clip(np.rint(d / s) + z, q.integers.qmin, q.integers.qmax) - z) * s
    assert layer.own_db == pytest.approx(10 * np.log10((d**2).sum() / ((d - rounded) ** 2).sum()), rel=1e-3)
    assert layer.noise_db < layer.own_db  # more has gathered


def test_the_layer_with_the_fewest_bits_comes_first(tiny_float, tiny_student):
    student = tiny_student(QuantizeConfig(bits=("depthwise=W2",)))
    worst = worst_first(x for x in compare(tiny_float, student, batches(tiny_float), 1) if x.kind == "weight")
    assert [x.layer for x in worst][0] == "depthwise" and worst[0].own_db < 12 < worst[1].own_db
    lines = render_layers(worst, top=1).splitlines()
    assert lines[1].split()[:2] == ["depthwise", "W2"] and lines[2] == "and 2 more"


def test_nothing_that_rounds_to_the_last_level_counts_as_clipped(tiny_float, tiny_student, set_values):
    student = tiny_student()
    q = next(q for q in qdq.find(student) if q.source == "image")
    largest = np.abs(random_images(tiny_float)).max()
    student = set_values(student, {q.scale: np.float32(largest / 127.4)})
    image = next(x for x in compare(tiny_float, student, batches(tiny_float), 1) if x.value == "image")
    assert image.clipped == 0


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
