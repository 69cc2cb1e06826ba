"""equalize.py: the same answers, and the same student whatever factors lie between the layers of the teacher."""

from __future__ import annotations

import base64
import json

import numpy as np
import onnx
import pytest
from graphs import CONV, FEATURES, ROWS, deployed, net, random_images, random_weights, relative_error, simulated

from onnx_distill import qdq
from onnx_distill.calibrate import mean_squares
from onnx_distill.compare import compare
from onnx_distill.config import QuantizeConfig
from onnx_distill.data import images_from
from onnx_distill.export import export
from onnx_distill.integer_form.channels import Channels
from onnx_distill.integer_form.equalize import METADATA_KEY, as_equalized, channel_axes
from onnx_distill.integer_form.equalize import equalized as equalized_by
from onnx_distill.lookup import array, initializers
from onnx_distill.normalize.graph import Graph
from onnx_distill.ready.adopt import adopt
from onnx_distill.ready.calibrated import calibrated, quantized

DEPTHWISE = "e = Conv<pads = [1, 1, 1, 1], group = 4>(d, depthwise, b3) "
CHAINS = {
    "relu": (CONV + "r = Relu(a) y = Conv(r, w2, b2)", FEATURES),
    "leaky": (CONV + "r = LeakyRelu<alpha = 0.1>(a) y = Conv(r, w2, b2)", FEATURES),
    "prelu": (CONV + "r = PRelu(a, slope) y = Conv(r, w2, b2)", FEATURES),
    "nothing": (CONV + "y = Conv(a, w2, b2)", FEATURES),
    "depthwise": (CONV + "c = Relu(a) d = Identity(c) " + DEPTHWISE + "r = Relu(e) y = Conv(r, w2, b2)", FEATURES),
    "max pool": (CONV + "r = Relu(a) p = MaxPool<kernel_shape = [2, 2]>(r) y = Conv(p, w2, b2)", FEATURES),
    "average pool": (CONV + "r = Relu(a) p = AveragePool<kernel_shape = [2, 2]>(r) y = Conv(p, w2, b2)", FEATURES),
    "flatten": (CONV + "r = Relu(a) p = Flatten(r) y = Gemm(p, f, fb)", ROWS),
    "reshape": (CONV + "r = Relu(a) p = Reshape(r, flat) y = Gemm<transB = 1>(p, ft, fb)", ROWS),
    "pooled": (CONV + "r = Relu(a) g = GlobalAveragePool(r) p = Flatten(g) y = MatMul(p, short)", ROWS),
    "gemms": (CONV + "p = Flatten(a) c = Gemm(p, f, fb) r = Relu(c) y = Gemm(r, square, fb_row)", ROWS),
    "matmuls with an offset": (
        CONV + "p = Flatten(a) c = MatMul(p, f) d = Add(c, fb) r = Relu(d) y = MatMul(r, square)",
        ROWS,
    ),
    "two readers": (
        CONV + "r = Relu(a) c = Conv(r, point, b2) d = Conv(r, w2, b3) e = Conv(c, w3, b4) y = Add(e, d)",
        FEATURES,
    ),
    "sum": (CONV + "c = Conv(a, point, b2) s = Add(a, c) r = Relu(s) y = Conv(r, w2, b3)", FEATURES),
    "side by side": (CONV + "c = Conv(a, point, b2) s = Concat<axis = 1>(a, c) r = Relu(s) y = Conv(r, wide, b3)", FEATURES),
    "gate": (
        CONV + "g = GlobalAveragePool(a) h = Conv(g, point, b2) t = Sigmoid(h) m = Mul(a, t) y = Conv(m, w2, b3)",
        FEATURES,
    ),
}
HELD = {
    "clip": CONV + "r = Clip(a, zero, six) y = Conv(r, w2, b2)",
    "hard swish": CONV + "r = HardSwish(a) y = Conv(r, w2, b2)",
    "sigmoid beside": CONV + "r = Relu(a) s = Sigmoid(r) y = Conv(r, w2, b2) z = Conv(s, w2, b2)",
    "output": CONV + "y = Relu(a) z = Conv(y, w2, b2)",
    "shared weights": CONV + "r = Conv(a, w2, b2) y = Conv(r, w2, b2)",
    "padded with ones": CONV + "r = Relu(a) p = Pad(r, pads, half) y = Conv(p, w2, b2)",
    "the sum with the image": "a = Conv<pads = [1, 1, 1, 1]>(x, w8, b8) s = Add(a, x) y = Conv(s, w, b)",
    "as many channels as rows": CONV + "t = Transpose<perm = [0, 2, 1, 3]>(a) y = Conv(t, rows8, b)",
}
EXTRA = {
    "b4": np.float32([0.1, -0.2, 0.3, 0.4]),
    "slope": np.float32([0.1, 0.2, 0.3, 0.4]).reshape(4, 1, 1),
    "wide": random_weights((4, 8, 3, 3), np.random.default_rng(7)),
    "pads": np.int64([0, 0, 1, 1, 0, 0, 1, 1]),
    "w8": random_weights((3, 3, 3, 3), np.random.default_rng(8)),
    "b8": np.float32([0.1, 0.2, 0.3]),
    "rows8": random_weights((4, 8, 3, 3), np.random.default_rng(9)),
}
BITS = {"W8A8": QuantizeConfig(), "W4A4": QuantizeConfig(weight_bits=4, activation_bits=4, edge_bits=0)}
every_chain = pytest.mark.parametrize(("body", "outputs"), CHAINS.values(), ids=CHAINS)


def model_of(body: str, outputs: str = FEATURES, **values) -> onnx.ModelProto:
    return net(body, outputs, **{**EXTRA, **values})


def equalized(model: onnx.ModelProto, batches: list[np.ndarray], threads: int) -> onnx.ModelProto:
    return equalized_by(model, mean_squares(model, channel_axes(model), batches, threads))


def rescaled(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """The same function with a random factor, 1/100 to 100, for each channel between its layers: by as_equalized, whose inverse is itself."""
    channels = Channels(Graph(copied(model)))
    exponents = np.random.default_rng(seed).uniform(-2, 2, channels.count)
    carrier = onnx.ModelProto()
    texts = {made: _encoded(10 ** exponents[channels.of[made]]) for _, _, made in channels.layers if made}
    onnx.helper.set_model_props(carrier, {METADATA_KEY: json.dumps(texts)})
    return as_equalized(model, carrier)


def _encoded(factors: np.ndarray) -> str:
    return base64.b64encode(factors.astype(np.float32).tobytes()).decode()


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made


def weights_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {
        name: array(tensor) for name, tensor in initializers(model).items() if tensor.data_type == onnx.TensorProto.FLOAT
    }


@every_chain
def test_the_answers_stay_and_so_do_the_names(body, outputs):
    model, images = model_of(body, outputs), random_images(model_of(body, outputs))
    made = equalized(model, [images], 1)
    assert relative_error(simulated(made, images)[0], simulated(model, images)[0]) < 1e-10
    assert [node.name for node in made.graph.node] == [node.name for node in model.graph.node]
    assert set(initializers(made)) >= set(initializers(model))
    assert any(not np.array_equal(weights_of(made)[name], values) for name, values in weights_of(model).items())


@every_chain
def test_factors_in_the_teacher_cancel(body, outputs):
    model = model_of(body, outputs)
    images = random_images(model)
    other = rescaled(model, 3)
    assert max(np.abs(a / b).max() for a, b in zip(weights_of(other).values(), weights_of(model).values()) if b.all()) > 3
    found, wanted = (weights_of(equalized(each, [images], 1)) for each in (other, model))
    assert all(np.allclose(found[name], wanted[name], rtol=2e-5, atol=1e-7) for name in wanted)


@every_chain
def test_equalised_twice_is_equalised_once(body, outputs):
    model = model_of(body, outputs)
    images = random_images(model)
    once = equalized(model, [images], 1)
    twice = weights_of(equalized(once, [images], 1))
    assert all(np.allclose(twice[name], values, rtol=2e-5, atol=1e-7) for name, values in weights_of(once).items())


@pytest.mark.parametrize("config", BITS.values(), ids=BITS)
@pytest.mark.parametrize("name", ["relu", "depthwise", "sum", "flatten"])
def test_a_teacher_with_factors_between_its_layers_has_the_same_student(name, config):
    model = model_of(*CHAINS[name])
    images = images_from(random_images(model, 64))
    students = [quantized(calibrated(each, images, config, 1), config) for each in (model, rescaled(model, 5))]
    found, wanted = (deployed(export(student), images.read(np.arange(64)))[0] for student in students)
    step = max(float(np.max(array(initializers(students[0])[q.scale]))) for q in qdq.find(students[0]) if q.axis is None)
    assert np.mean(np.abs(found - wanted) > 0.01 * step) < 0.01  # ties of rounding move single integers
    for q in qdq.find(students[0]):
        scales = [array(initializers(student)[q.scale]) for student in students]
        assert np.allclose(*scales, rtol=1e-4)


def test_the_factor_is_the_fourth_root_of_mean_square_over_column():
    """u = s^2 = sqrt(p / g) by numpy, for a layer without a Relu behind it: all of p is the mean square."""
    model = model_of(CONV + "y = Conv(a, w2)")
    images = random_images(model)
    made = equalized(model, [images], 1)
    a = simulated(model_with_output(model, "a"), images)[1].astype(np.float64)
    p = np.square(a).mean(axis=(0, 2, 3))
    squares = np.square(weights_of(model)["w2"].astype(np.float64)).sum(axis=(2, 3))
    g = (squares / (squares @ p)[:, None]).sum(axis=0)
    factors = (p / g) ** 0.25
    assert np.allclose(weights_of(made)["w2"], weights_of(model)["w2"] * factors.reshape(1, 4, 1, 1), rtol=1e-5)
    assert np.allclose(weights_of(made)["w"], weights_of(model)["w"] / factors.reshape(4, 1, 1, 1), rtol=1e-5)
    assert np.allclose(weights_of(made)["b"], weights_of(model)["b"] / factors, rtol=1e-5)


def model_with_output(model: onnx.ModelProto, value: str) -> onnx.ModelProto:
    made = copied(model)
    made.graph.output.append(onnx.ValueInfoProto(name=value))
    return made


@pytest.mark.parametrize("body", HELD.values(), ids=HELD)
def test_what_no_factor_may_pass_stays_as_it_is(body):
    outputs = FEATURES + ", float[N, D, I, J] z" if " z = " in body else FEATURES
    model = model_of(body, outputs)
    assert channel_axes(model) == {}


@pytest.mark.parametrize("dead", ["closed", "zero row", "zero column", "zero row and column", "all"])
def test_dead_channels_stay_finite_and_leave_the_others_alone(dead):
    w, b, w2 = (weights_of(model_of(*CHAINS["relu"]))[name].copy() for name in ("w", "b", "w2"))
    rows = slice(None) if dead == "all" else slice(1, 2)
    if dead == "closed":
        w[rows], b[rows] = w[rows] * 1e-3, -5
    if dead.startswith("zero row") or dead == "all":
        w[rows], b[rows] = 0, 0
    if dead.endswith("column") or dead == "all":
        w2[:, rows] = 0
    model = model_of(*CHAINS["relu"], w=w, b=b, w2=w2)
    images = random_images(model)
    made = equalized(model, [images], 1)
    assert all(np.isfinite(values).all() for values in weights_of(made).values())
    assert np.abs(weights_of(made)["w2"]).max() < 100 * np.abs(w2).max() + 1
    assert np.allclose(simulated(made, images)[0], simulated(model, images)[0], atol=1e-5)


def test_a_shared_bias_becomes_one_for_each():
    model = model_of(CONV + "r = Relu(a) c = Conv(r, w2, b) d = Relu(c) y = Conv(d, w3, b3)")
    images = random_images(model)
    made = equalized(model, [images], 1)
    assert len({node.input[2] for node in made.graph.node if node.op_type == "Conv"}) == 3
    assert relative_error(simulated(made, images)[0], simulated(model, images)[0]) < 1e-10


def test_more_batches_are_one_large_batch():
    model = model_of(*CHAINS["sum"])
    images = random_images(model, 20)
    one, several = (weights_of(equalized(model, found, 1)) for found in ([images], [images[:3], images[3:16], images[16:]]))
    assert all(np.allclose(several[name], values, rtol=1e-5) for name, values in one.items())


def test_channels_of_unequal_size_cost_a_student_nothing():
    """4 bits and factors up to 100: without equalisation the small channels are rounded to 0."""
    model = rescaled(model_of(*CHAINS["depthwise"]), 11)
    images = images_from(random_images(model, 64))
    student = quantized(calibrated(model, images, BITS["W4A4"], 1), BITS["W4A4"])
    read = images.read(np.arange(64))
    assert relative_error(deployed(export(student), read)[0], simulated(model, read)[0]) < 0.15


def test_the_exported_file_is_what_the_student_computes():
    model = rescaled(model_of(*CHAINS["sum"]), 2)
    images = images_from(random_images(model, 16))
    student = quantized(calibrated(model, images, QuantizeConfig(), 1), QuantizeConfig())
    read = images.read(np.arange(16))
    assert np.allclose(deployed(export(student), read)[0], simulated(student, read)[0], rtol=1e-5, atol=1e-6)


def test_the_teacher_as_equalised_has_the_inner_values_of_the_students_floats():
    model = rescaled(model_of(*CHAINS["sum"]), 2)
    images = images_from(random_images(model, 16))
    source = calibrated(model, images, QuantizeConfig(), 1)
    teacher = as_equalized(model, quantized(source, QuantizeConfig()))
    read = images.read(np.arange(16))
    for value in ("a", "s"):
        found, wanted = (simulated(model_with_output(each, value), read)[1] for each in (teacher, source.model))
        assert relative_error(found, wanted) < 1e-10
    assert as_equalized(model, model) is model


def test_compare_sees_rounding_alone():
    model = rescaled(model_of(*CHAINS["sum"]), 2)
    images = images_from(random_images(model, 16))
    student = quantized(calibrated(model, images, QuantizeConfig(), 1), QuantizeConfig())
    layers = compare(model, student, [images.read(np.arange(16))], 1)
    assert all(layer.noise_db is None or layer.noise_db > 25 for layer in layers)


def test_a_stored_student_that_was_equalised_keeps_its_own_weights():
    """Its integers are not its teacher's weights rounded."""
    model = rescaled(model_of(*CHAINS["sum"]), 2)
    images = images_from(random_images(model, 16))
    student = quantized(calibrated(model, images, QuantizeConfig(), 1), QuantizeConfig())
    read = images.read(np.arange(16))
    adopted = adopt(export(student), model)
    assert relative_error(simulated(adopted, read)[0], simulated(student, read)[0]) < 1e-6
