"""bias.py: every bias lies on the grid of its integer accumulator and fits int32."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import CONV, ROWS, deployed, net, random_images, relative_error, simulated, student_of
from onnx import numpy_helper

from onnx_distill import numerics, qdq
from onnx_distill.export import export
from onnx_distill.lookup import array, initializers
from onnx_distill.quantization.bias import align_biases, biased_sides
from onnx_distill.train import with_parameters

BODIES = {
    "conv": (CONV + "r = Relu(a) y = Conv(r, w2, b2)", "float[N, C, H, W] y"),
    "gemm": (CONV + "r = Flatten(a) y = Gemm<transB = 1>(r, ft, fb)", ROWS),
    "gemm with a row": (CONV + "r = Flatten(a) y = Gemm(r, f, fb_row)", ROWS),
    "gemm with one value": (CONV + "r = Flatten(a) y = Gemm(r, f, half)", ROWS),
    "shared bias": (CONV + "c = Conv<pads = [1, 1, 1, 1]>(a, w2, b) y = Conv(c, w3, b)", "float[N, C, H, W] y"),
    "shared with an Add": (CONV + "y = Add(a, one)", "float[N, C, H, W] y"),
}
every_body = pytest.mark.parametrize(("body", "outputs"), BODIES.values(), ids=BODIES)
every_granularity = pytest.mark.parametrize("per_channel", [True, False], ids=["per channel", "per tensor"])


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


def biased(model: onnx.ModelProto) -> list[tuple]:
    """(bias, input scale, weight scale) of each node that has one."""
    constants, by_result = initializers(model), {q.result: q for q in qdq.find(model)}
    found = [(node, biased_sides(node, by_result, constants)) for node in model.graph.node]
    return [(array(constants[n.input[2]]), *(array(constants[q.scale]) for q in sides)) for n, sides in found if sides]


def model_of(body: str, outputs: str, **values) -> onnx.ModelProto:
    return net(body, outputs, one=np.float32(1).reshape(1, 1, 1, 1), **values)


@every_body
@every_granularity
def test_every_bias_is_a_whole_number_of_steps(body, outputs, per_channel):
    found = biased(student_of(model_of(body, outputs), per_channel=per_channel))
    assert len(found) == body.count("b)") + body.count("b2)") + body.count("fb_row)") + body.count("half)")
    for bias, input_scale, weight_scale in found:
        steps = numerics.quantize_bias(bias, input_scale, weight_scale)
        assert bias.ndim == 1 and np.array_equal(bias, steps.astype(np.float32) * (input_scale * weight_scale))


@every_body
@every_granularity
def test_no_bias_moves_by_more_than_half_a_step(body, outputs, per_channel):
    model = model_of(body, outputs)
    given = [
        array(initializers(model)[n.input[2]]).reshape(-1)
        for n in model.graph.node
        if len(n.input) > 2 and n.op_type != "Clip"
    ]
    for wanted, (bias, input_scale, weight_scale) in zip(given, biased(student_of(model, per_channel=per_channel))):
        assert np.all(np.abs(bias - wanted) <= 0.5001 * input_scale * weight_scale)


@every_body
@every_granularity
def test_aligned_twice_is_aligned_once(body, outputs, per_channel):
    student = student_of(model_of(body, outputs), per_channel=per_channel)
    again = copy_of(student)
    align_biases(again)
    assert again.SerializeToString(deterministic=True) == student.SerializeToString(deterministic=True)


def test_a_bias_that_several_nodes_read_becomes_one_for_each():
    student = student_of(model_of(*BODIES["shared bias"]))
    names = [n.input[2] for n in student.graph.node if n.op_type == "Conv"]
    assert len(set(names)) == 3 and len(biased(student)) == 3
    onnx.checker.check_model(student, full_check=True)


def faint(size: float, **values) -> onnx.ModelProto:
    """A model whose channel 0 has weights of `size` and a bias of 3."""
    w = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    w[0] *= np.float32(size)
    return net(CONV + "y = Conv(a, w2, b2)", w=w, b=np.float32([3, -0.5, 0.25, 1]), **values)


@every_granularity
@pytest.mark.parametrize("size", [0, 1e-30, 1e-12, 1e-9], ids=str)
def test_a_channel_of_almost_no_weight_and_a_large_bias_does_not_wrap(size, per_channel):
    model = faint(size)
    student, images = student_of(model, per_channel=per_channel), random_images(model)
    bias, input_scale, weight_scale = biased(student)[0]
    assert np.all(np.abs(bias / (input_scale * weight_scale)) <= numerics.INT32_MAX // 2)
    for outputs in (simulated(student, images), deployed(student, images), deployed(export(student), images)):
        assert relative_error(outputs[0], simulated(model, images)[0]) < 1e-3


def test_a_channel_that_training_leaves_with_almost_no_weight_does_not_wrap():
    """Its trained scale is too small for the bias: raised with the trained values, and the weights are rounded in it anew."""
    model = faint(1.0)
    student, images = student_of(model), random_images(model)
    weights, scales = (array(initializers(student)[name]).copy() for name in ("w", "w/scale"))
    weights[0], scales[0] = weights[0] * np.float32(1e-12), 1e-14
    trained = with_parameters(student, {"w": weights, "w/scale": scales})
    bias, input_scale, weight_scale = biased(trained)[0]
    assert weight_scale[0] > scales[0] and np.array_equal(weight_scale[1:], scales[1:])
    assert np.all(np.abs(bias / (input_scale * weight_scale)) <= numerics.INT32_MAX // 2)
    assert abs(bias[0] - biased(student)[0][0][0]) < 1e-6
    assert relative_error(deployed(export(trained), images)[0], simulated(trained, images)[0]) < 1e-3


def test_only_scales_that_are_too_small_are_raised():
    raised, plain = (initializers(student_of(faint(size))) for size in (1e-12, 1.0))
    scales, before = array(raised["w/scale"]), numerics.max_weight_scale(array(raised["w"]), 0, 127)
    assert scales[0] > before[0] and np.array_equal(scales[1:], before[1:])
    assert np.array_equal(array(plain["w/scale"]), numerics.max_weight_scale(array(plain["w"]), 0, 127))


def test_weights_stored_as_integers_follow_a_raised_scale():
    """A model of another tool: int8 weights, float bias, and after training a bias too large for their scale."""
    model = faint(1.0)
    student = export(student_of(model))
    stored = copy_of(student)
    conv = next(n for n in stored.graph.node if n.op_type == "Conv")
    constants = initializers(stored)
    weight = next(q for q in qdq.find(stored) if q.result == conv.input[1])
    scale = array(constants[weight.scale])
    constants[weight.scale].CopyFrom(numpy_helper.from_array(scale * np.float32([1e-9, 1, 1, 1]), weight.scale))
    conv.input[2] = "given"
    stored.graph.initializer.append(numpy_helper.from_array(np.float32([3, -0.5, 0.25, 1]), "given"))
    images, wanted = random_images(model), copy_of(stored)
    align_biases(stored)
    assert array(initializers(stored)[weight.scale])[0] > 1e-9 * scale[0]
    assert relative_error(simulated(stored, images)[0], simulated(wanted, images)[0]) < 1e-5
    assert relative_error(deployed(export(stored), images)[0], simulated(wanted, images)[0]) < 1e-3


NONE = {
    "no bias": CONV.replace(", b)", ")") + "y = Relu(a)",
    "not weighted": CONV + "y = Add(a, a)",
    "two activations": CONV + "t = Transpose<perm = [0, 1, 3, 2]>(a) y = MatMul(a, t)",
}


@pytest.mark.parametrize("body", NONE.values(), ids=NONE)
def test_nodes_without_an_integer_bias_have_no_sides(body):
    student = student_of(net(body))
    by_result = {q.result: q for q in qdq.find(student)}
    node = next(n for n in reversed(student.graph.node) if n.op_type in ("Conv", "Add", "MatMul"))
    assert biased_sides(node, by_result, initializers(student)) is None


def test_an_excluded_node_keeps_its_bias_as_it_was():
    model = net("[odd] a = Conv(x, w, b) y = Conv(a, w2, b2)")
    assert np.array_equal(array(initializers(student_of(model, exclude=("odd",)))["b"]), array(initializers(model)["b"]))
