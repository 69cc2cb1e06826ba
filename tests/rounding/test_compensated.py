"""compensated.py: weights that are rounded together compute what the float layer computes, better than weights rounded one by one."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import CONV, ROWS, deployed, net, random_images, simulated

from onnx_distill import qdq
from onnx_distill.calibrate import calibrate
from onnx_distill.config import QuantizeConfig
from onnx_distill.evaluate import mean_kl
from onnx_distill.export import export
from onnx_distill.lookup import array, initializers
from onnx_distill.pipeline import quantize_with_images
from onnx_distill.placement import plan
from onnx_distill.quantize import quantize
from onnx_distill.ready.measure import logits_of
from onnx_distill.rounding.compensated import compensated, nearest_plane

LAYERS = {  # one layer each, then nets of several
    "convolution": "y = Conv<pads = [1, 1, 1, 1]>(x, w, b)",
    "strided": "y = Conv<pads = [0, 1, 2, 0], strides = [2, 1]>(x, w, b)",
    "dilated": "y = Conv<dilations = [2, 3]>(x, w, b)",
    "no bias": "y = Conv(x, w)",
    "gemm": "r = Reshape(x, one_row) y = Gemm(r, wide, b)",
    "transposed gemm": "r = Reshape(x, one_row) y = Gemm<transB = 1>(r, tall, b)",
    "matmul": "r = Reshape(x, one_row) y = MatMul(r, wide)",
}
NETS = {
    "depthwise": CONV + "h = Relu(a) y = Conv<group = 4, pads = [1, 1, 1, 1]>(h, depthwise, b2)",
    "residual": CONV + "h = Relu(a) s = Conv(h, point, b2) t = Add(s, h) y = Conv(t, w3, b3)",
    "branches": CONV + "h = Relu(a) s = Conv(h, point, b2) t = Conv(h, point2, b3) y = Add(s, t)",
    "flat": CONV + "h = Relu(a) r = Flatten(h) y = Gemm(r, f, fb)",
}
RNG = np.random.default_rng(5)
MORE = {
    "one_row": np.int64([-1, 192]),
    "wide": RNG.normal(0, 0.1, (192, 4)).astype(np.float32),
    "tall": RNG.normal(0, 0.1, (4, 192)).astype(np.float32),
    "point2": RNG.normal(0, 0.5, (4, 4, 1, 1)).astype(np.float32),
}
W3 = {"weight_bits": 3, "activation_bits": 8, "edge_bits": 0}


def model_of(body: str) -> onnx.ModelProto:
    rows = ROWS if "Gemm" in body or "MatMul" in body else "float[N, C, H, W] y"
    rows = rows.replace("5", "M")
    return net(
        body,
        rows,
        **{
            name: values
            for name, values in MORE.items()
            if name in body.replace("(", " ").replace(",", " ").replace(")", " ").split()
        },
    )


def correlated_images(model: onnx.ModelProto, count: int = 400) -> np.ndarray:
    """Sums of a few patterns and some noise, as pictures are: what makes the error of one weight mendable by another."""
    patterns = random_images(model, 12, seed=2)[:, :, ::4, ::4].repeat(4, axis=2).repeat(4, axis=3)
    images = np.tensordot(np.random.default_rng(3).normal(0.1, 0.5, (count, 12)), patterns, 1)
    return (images + 0.2 * random_images(model, count) + 0.5).astype(np.float32)


def student_on(images: np.ndarray, model: onnx.ModelProto, **choices) -> onnx.ModelProto:
    """The QDQ form, calibrated by the smallest and largest values on these images."""
    config = QuantizeConfig(**choices)
    sites = plan(model, config)
    found = calibrate(model, [site.value for site in sites.activations], [images], threads=1)
    return quantize(model, sites, {name: (each.low, each.high) for name, each in found.items()}, config)


def rounded(
    model: onnx.ModelProto, images: np.ndarray, batch: int = 32, **choices
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The student with weights rounded to the nearest, and the one rounded together."""
    student = student_on(images, model, **{**W3, **choices})
    batches = [images[at : at + batch] for at in range(0, len(images), batch)]
    return student, compensated(student, model, lambda: batches, len(images), 1)


def error(student: onnx.ModelProto, model: onnx.ModelProto, images: np.ndarray) -> float:
    """Mean squared difference from the float model's output."""
    return float(np.square(simulated(student, images)[0] - simulated(model, images)[0], dtype=np.float64).mean())


@pytest.mark.parametrize("body", [*LAYERS.values(), *NETS.values()], ids=[*LAYERS, *NETS])
def test_what_a_net_computes_is_nearer_to_the_float_one_on_images_of_its_kind(body):
    model = model_of(body)
    images = correlated_images(model)
    nearest, together = rounded(model, images[:300])
    assert error(together, model, images[300:]) < 0.8 * error(nearest, model, images[300:])


@pytest.mark.parametrize("body", [*LAYERS.values(), *NETS.values()], ids=[*LAYERS, *NETS])
def test_only_weights_and_biases_change_and_the_exported_model_computes_the_same(body):
    model = model_of(body)
    images = correlated_images(model, 64)
    nearest, together = rounded(model, images)
    before, after = (initializers(student) for student in (nearest, together))
    weights = {q.source for q in qdq.find(nearest) if q.source in before}
    biases = {name for node in model.graph.node if node.op_type in ("Conv", "Gemm") for name in node.input[2:]}
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= weights | biases and changed & weights
    assert list(nearest.graph.node) == list(together.graph.node)
    assert np.array_equal(deployed(export(together), images)[0], deployed(together, images)[0])


@pytest.mark.parametrize("body", ["convolution", "strided", "dilated", "gemm", "transposed gemm"])
def test_a_bias_takes_up_the_mean_of_what_the_weights_get_wrong(body):
    model = model_of(LAYERS[body])
    images = correlated_images(model)
    _, together = rounded(model, images, activation_bits=8)
    off = simulated(together, images)[0] - simulated(model, images)[0]
    axes = tuple(axis for axis in range(off.ndim) if axis != 1)
    assert np.all(np.abs(off.mean(axis=axes)) < 0.15 * off.std(axis=axes) + 0.02)


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_weights_lie_within_half_a_step_of_the_integers_that_they_round_to(bits):
    _, together = rounded(model_of(NETS["residual"]), correlated_images(model_of(NETS["residual"]), 64), weight_bits=bits)
    constants = initializers(together)
    for q in qdq.find(together):
        if q.source in constants:
            steps = array(constants[q.source]) / array(constants[q.scale]).reshape(-1, 1, 1, 1)
            assert np.all(np.abs(steps) <= q.integers.qmax + 0.46)
            assert np.all(np.abs(steps - np.rint(steps)) < 0.46)


def test_weights_of_more_bits_than_asked_for_stay():
    model = model_of(NETS["flat"])
    images = correlated_images(model, 32)
    student = student_on(images, model, weight_bits=4, activation_bits=8)  # first and last layer have 8
    assert compensated(student, model, lambda: [images], 32, 1, most_bits=3) is student
    assert all(q.integers.bits == 8 for q in qdq.find(student) if q.source in initializers(student))
    assert compensated(student, model, lambda: [images], 32, 1, most_bits=6) is student


def test_weights_that_two_layers_share_stay():
    model = model_of(CONV + "h = Relu(a) s = Conv(h, point, b2) y = Conv(s, point, b3)")
    nearest, together = rounded(model, correlated_images(model, 64))
    assert initializers(nearest)["point"] == initializers(together)["point"]
    assert initializers(nearest)["w"] != initializers(together)["w"]


def test_batches_of_any_size_give_the_same_but_for_the_places_that_are_drawn():
    model = model_of(LAYERS["gemm"])  # which has none
    images = correlated_images(model, 60)
    one, other = (rounded(model, images, batch)[1] for batch in (7, 60))
    assert array(initializers(one)["wide"]) == pytest.approx(array(initializers(other)["wide"]), abs=1e-4)


# --- nearest_plane


def symmetric(columns: int, seed: int, groups: int = 1) -> np.ndarray:
    """Random positive definite matrices [groups, columns, columns]."""
    samples = np.random.default_rng(seed).normal(size=(groups, 2 * columns, columns)) + 1
    return samples.transpose(0, 2, 1) @ samples


def errors(rows: np.ndarray, integers: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return np.einsum("gok,gkl,gol->go", rows - integers, matrix, rows - integers)


@pytest.mark.parametrize("columns", [1, 2, 9, 130, 300])
def test_no_row_is_worse_than_rounded_to_the_nearest_and_most_are_better(columns):
    rows, matrix = np.random.default_rng(0).normal(0, 2, (3, 20, columns)), symmetric(columns, 1, groups=3)
    found = nearest_plane(rows, matrix, -7, 7)
    before, after = errors(rows, np.clip(np.rint(rows), -7, 7), matrix), errors(rows, found, matrix)
    assert np.array_equal(found, np.rint(found)) and np.abs(found).max() <= 7
    assert np.all(after <= before) and (columns < 9 or after.mean() < 0.7 * before.mean())


def test_without_correlation_the_nearest_integers_are_found():
    rows = np.random.default_rng(0).normal(0, 2, (1, 8, 40))
    matrix = np.diag(np.random.default_rng(1).uniform(0.1, 3, 40))[None]
    assert np.array_equal(nearest_plane(rows, matrix, -3, 3), np.clip(np.rint(rows), -3, 3))


@pytest.mark.parametrize("seed", range(4))
def test_it_is_gptq_with_the_inverse_matrix(seed):
    """Frantar et al. 2023, as written there: each column's error is spread over those not rounded yet, by the inverse."""
    rows, matrix = np.random.default_rng(seed).normal(0, 2, (1, 6, 12)), symmetric(12, seed)
    order = np.argsort(-np.diag(matrix[0]), kind="stable")
    left, inverse = rows[0][:, order].copy(), np.linalg.inv(matrix[0][np.ix_(order, order)])
    wanted = np.zeros_like(left)
    for k in range(12):
        wanted[:, k] = np.clip(np.rint(left[:, k]), -7, 7)
        off = (left[:, k] - wanted[:, k]) / inverse[k, k]
        left[:, k:] -= off[:, None] * inverse[k, k:]
        inverse = inverse - np.outer(inverse[:, k], inverse[k]) / inverse[k, k]
    back = np.empty_like(wanted)
    back[:, order] = wanted
    nearest = np.clip(np.rint(rows), -7, 7)
    better = errors(rows, back[None], matrix) < errors(rows, nearest, matrix)
    assert np.array_equal(nearest_plane(rows, matrix, -7, 7), np.where(better[..., None], back[None], nearest))


def test_a_real_student_of_few_bits_is_half_as_far_from_its_teacher(teacher, fashion_train, fashion_test):
    """3 bits, 256 images; on images that neither student has seen."""
    distance = {}
    wanted = logits_of(teacher, fashion_test.subset(np.arange(500)), 1)
    for rounding in ("nearest", "auto"):
        config = QuantizeConfig(3, 8, rounding=rounding)
        student = quantize_with_images(teacher, fashion_train.subset(np.arange(256)), config, threads=1)
        found = logits_of(student, fashion_test.subset(np.arange(500)), 1)
        distance[rounding] = mean_kl(wanted, found)
    assert distance["auto"] < 0.5 * distance["nearest"]
