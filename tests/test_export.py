"""export.py: the integers are those of numerics.py, and the stock runtime computes on them what was simulated."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import CONV, FEATURES, ROWS, deployed, net, operators, random_images, simulated, student_of
from onnx import helper

from onnx_distill import numerics, qdq
from onnx_distill.export import export
from onnx_distill.lookup import array, initializers, producers

FLAT = CONV + "r = Flatten(a) "
BODIES = {  # name: nodes, outputs, an operator of the optimized graph that shows the fusion
    "Conv": (CONV + "y = Conv(a, w2, b2)", FEATURES, "QLinearConv"),
    "Conv without bias": ("a = Conv(x, w) y = Conv(a, w2)", FEATURES, "QLinearConv"),
    "Conv and Relu": (CONV + "r = Relu(a) y = Conv(r, w2, b2)", FEATURES, "QLinearConv"),
    "Conv and Relu6 at the end": (CONV + "y = Clip(a, zero, six)", FEATURES, "QLinearConv"),
    "Conv and Clip from below 0": (CONV + "r = Clip(a, minus, quarter) y = Conv(r, w2, b2)", FEATURES, "QLinearConv"),
    "Conv and two bounds": (CONV + "r = Relu(a) c = Clip(r, zero, half) y = Conv(c, w2, b2)", FEATURES, "QLinearConv"),
    "Conv read by two": (
        CONV + "r = Relu(a) c = Conv<pads = [1, 1, 1, 1]>(r, w2, b2) s = Add(a, c) y = Conv(s, w3, b3)",
        FEATURES,
        "QLinearAdd",
    ),
    "depthwise": (CONV + "r = Relu(a) d = Conv<group = 4>(r, depthwise, b2) y = Conv(d, point)", FEATURES, "QLinearConv"),
    "shared weights": (CONV + "c = Conv<pads = [1, 1, 1, 1]>(a, w2, b2) y = Conv(c, w2, b2)", FEATURES, "QLinearConv"),
    "Gemm": (FLAT + "y = Gemm(r, f, fb)", ROWS, "QGemm"),
    "Gemm with transB": (FLAT + "y = Gemm<transB = 1>(r, ft, fb)", ROWS, "QGemm"),
    "Gemm without bias": (FLAT + "y = Gemm<transB = 1>(r, ft)", ROWS, "QGemm"),
    "Gemm with a row": (FLAT + "y = Gemm(r, f, fb_row)", ROWS, "QGemm"),
    "MatMul": (FLAT + "y = MatMul(r, f)", ROWS, "QLinearMatMul"),
    "MatMul of two activations": (
        CONV + "t = Transpose<perm = [0, 1, 3, 2]>(a) y = MatMul(a, t)",
        FEATURES,
        "QLinearMatMul",
    ),
    "MatMul from the left": (CONV + "y = MatMul(left, a)", FEATURES, "QLinearMatMul"),
    "MatMul by a vector": (FLAT + "y = MatMul(r, vector)", "float[N] y", "QLinearMatMul"),
    "MatMul of a batch": (CONV + "y = MatMul(a, batched)", FEATURES, "QLinearMatMul"),
    "Add": (
        CONV + "c = Conv<pads = [1, 1, 1, 1]>(a, w2, b2) s = Add(a, c) r = Relu(s) y = Conv(r, w3, b3)",
        FEATURES,
        "QLinearAdd",
    ),
    "Add of a number": (CONV + "s = Add(a, half) y = Conv(s, w2, b2)", FEATURES, "QLinearAdd"),
    "Mul": (CONV + "s = Sigmoid(a) m = Mul(a, s) y = Conv(m, w2, b2)", FEATURES, "QLinearMul"),
    "Mul by a number": (CONV + "m = Mul(a, half) y = Conv(m, w2, b2)", FEATURES, "QLinearMul"),
    "Mul by channel": (CONV + "r = Relu(a) m = Mul(r, gain) y = Conv(m, w2, b2)", FEATURES, "QLinearConv"),
    "Mul and Add by channel": (
        CONV + "p = MaxPool<kernel_shape = [2, 2]>(a) m = Mul(p, gain) s = Add(m, gain) r = Relu(s) y = Conv(r, w2, b2)",
        FEATURES,
        "QLinearConv",
    ),
    "Sigmoid": (CONV + "s = Sigmoid(a) y = Conv(s, w2, b2)", FEATURES, "QLinearSigmoid"),
    "LeakyRelu": (CONV + "s = LeakyRelu<alpha = 0.1>(a) y = Conv(s, w2, b2)", FEATURES, "QLinearLeakyRelu"),
    "HardSwish": (CONV + "s = HardSwish(a) y = Conv(s, w2, b2)", FEATURES, "QLinearAdd"),
    "HardSigmoid": (CONV + "s = HardSigmoid(a) y = Conv(s, w2, b2)", FEATURES, "QLinearConv"),
    "gate of a block": (
        CONV + "g = GlobalAveragePool(a) c = Conv(g, point) h = HardSigmoid(c) m = Mul(a, h) y = Conv(m, w2, b2)",
        FEATURES,
        "QLinearMul",
    ),
    "Concat": (
        CONV + "c = Conv<pads = [1, 1, 1, 1]>(a, w2, b2) s = Concat<axis = 2>(a, c) y = Conv(s, w3, b3)",
        FEATURES,
        "QLinearConcat",
    ),
    "AveragePool": (
        CONV + "y = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]>(a)",
        FEATURES,
        "QLinearAveragePool",
    ),
    "GlobalAveragePool": (CONV + "y = GlobalAveragePool(a)", FEATURES, "QLinearGlobalAveragePool"),
    "MaxPool": (CONV + "p = MaxPool<kernel_shape = [2, 2]>(a) y = Conv(p, w2, b2)", FEATURES, "NhwcMaxPool"),
    "MaxPool before Relu": (
        CONV + "p = MaxPool<kernel_shape = [2, 2]>(a) r = Relu(p) y = Conv(r, w2, b2)",
        FEATURES,
        "NhwcMaxPool",
    ),
    "Split": (
        CONV + "s, t = Split<axis = 3>(a, halves) c = Conv(s, w2, b2) d = Conv(t, w3, b3) e = Add(c, d) y = Conv(e, point)",
        FEATURES,
        "Split",
    ),
    "Gather": (CONV + "s = Gather<axis = 2>(a, picked) y = Conv(s, w2, b2)", FEATURES, "Gather"),
    "Resize": (CONV + "s = Resize(a, , doubled) y = Conv(s, w2, b2)", FEATURES, "Resize"),
    "channel shuffle": (
        CONV + "p = Reshape(a, pairs) t = Transpose<perm = [0, 2, 1, 3, 4]>(p) s = Reshape(t, whole) y = Conv(s, w2, b2)",
        FEATURES,
        "QLinearConv",
    ),
    "Transpose": (CONV + "t = Transpose<perm = [0, 1, 3, 2]>(a) y = Conv(t, w2, b2)", FEATURES, "QLinearConv"),
    "Reshape": (CONV + "r = Reshape(a, rows) y = Conv(r, w2, b2)", FEATURES, "QLinearConv"),
    "Squeeze": (CONV + "u = Unsqueeze(a, axis) s = Squeeze(u, axis) y = Conv(s, w2, b2)", FEATURES, "QLinearConv"),
    "float gate between": (
        CONV + "g = GlobalAveragePool(a) h = HardSigmoid(g) m = Mul(a, h) y = Conv(m, w2, b2)",
        FEATURES,
        "QLinearMul",
    ),
    "several outputs": (
        CONV + "r = Relu(a) y = Conv(r, w2, b2)",
        FEATURES + ", float[N, C, H, W] r, float[N, C, H, W] a",
        "QLinearConv",
    ),
}
LATER = {  # passed in integers since 1.20, as floats with the same result before
    "Slice": CONV + "s = Slice(a, front, four, axis) y = Conv(s, w2, b2)",
    "Expand": CONV + "s = Expand(a, ones) y = Conv(s, w2, b2)",
    "Tile": CONV + "s = Tile(a, ones) y = Conv(s, w2, b2)",
    "DepthToSpace": CONV + "s = DepthToSpace<blocksize = 2>(a) y = Conv(s, one_channel)",
}
ISLANDS = {  # name: nodes, outputs, what the optimized graph has between integers
    "bias of a MatMul": (CONV + "m = MatMul(a, left) y = Add(m, eights)", FEATURES, {"MatMulIntegerToFloat": 1, "Add": 1}),
    "MatMul of matrices and a shortcut": (
        FLAT + "m = MatMul(r, by_ones) s = Add(m, r) t = Tanh(s) y = Gemm(t, f, fb)",
        ROWS,
        {"QLinearMatMul": 1, "Add": 1, "Tanh": 1, "QGemm": 1},
    ),
    "Gelu": (
        CONV + "m = MatMul(a, left) g = Gelu(m) n = MatMul(g, right) s = Add(n, a) t = Relu(s) y = Flatten(t)",
        ROWS,
        {"MatMulIntegerToFloat": 2, "Gelu": 1, "Add": 1},
    ),
    "LayerNormalization": (
        CONV
        + "l = LayerNormalization(a, eights, eights) m = MatMul(l, left) s = Add(m, a) y = LayerNormalization(s, eights)",
        FEATURES,
        {"MatMulIntegerToFloat": 1, "Add": 1, "LayerNormalization": 2},
    ),
    "attention": (
        CONV + "t = Transpose<perm = [0, 1, 3, 2]>(a) m = MatMul(a, t) h = Mul(m, half) p = Softmax(h) y = MatMul(p, a)",
        FEATURES,
        {"MatMulIntegerToFloat": 1, "Mul": 1, "Softmax": 1, "QLinearMatMul": 1},
    ),
    "Tanh": (FLAT + "g = Gemm(r, f, fb) t = Tanh(g) y = Gemm(t, square)", ROWS, {"QGemm": 2, "Tanh": 1}),
}
FLOAT = {
    "Conv",
    "FusedConv",
    "Gemm",
    "FusedGemm",
    "MatMul",
    "FusedMatMul",
    "Add",
    "Mul",
    "Concat",
    "AveragePool",
    "GlobalAveragePool",
    "MaxPool",
}
CHOICES = {
    "8 bits": {},
    "4 bits": {"weight_bits": 4, "activation_bits": 4, "edge_bits": 0},
    "per tensor": {"per_channel": False, "weight_bits": 6},
}
INT8 = {
    "int8": {"symmetric": True},
    "int8 of 4 bits": {"symmetric": True, "weight_bits": 4, "activation_bits": 4, "edge_bits": 0},
}
every_body = pytest.mark.parametrize(("body", "outputs", "shown"), BODIES.values(), ids=BODIES)
every_choice = pytest.mark.parametrize("choices", {**CHOICES, **INT8}.values(), ids={**CHOICES, **INT8})


@every_body
@every_choice
def test_the_runtime_leaves_nothing_that_has_an_integer_kernel_in_float(body, outputs, shown, choices, tmp_path):
    exported = export(student_of(net(body, outputs), **choices))
    found = operators(exported, tmp_path / "optimized.onnx", int8="symmetric" in choices)
    assert not FLOAT & set(found) and found[shown]


@every_body
@every_choice
def test_deployed_equals_simulated(body, outputs, shown, choices):
    """Within one output step, and identical but for rounding ties: at most 1 value in 1,000."""
    student = student_of(net(body, outputs), **choices)
    images, constants = random_images(student, seed=2), initializers(student)
    made = producers(student)
    for value, here, there in zip(student.graph.output, simulated(student, images), deployed(export(student), images)):
        step = array(constants[made[value.name].input[1]])
        assert np.abs(here - there).max() <= 1.001 * step and np.mean(here != there) <= 1e-3


@pytest.mark.parametrize("body", LATER.values(), ids=LATER)
def test_deployed_equals_simulated_where_older_runtimes_pass_floats(body):
    student = student_of(net(body))
    images = random_images(student, seed=2)
    assert np.mean(simulated(student, images)[0] != deployed(export(student), images)[0]) <= 1e-3


@pytest.mark.parametrize(("body", "outputs", "shown"), ISLANDS.values(), ids=ISLANDS)
def test_islands_of_floats_begin_at_an_integer_kernel_and_have_no_quantizers_inside(body, outputs, shown, tmp_path):
    student = student_of(net(body, outputs, opset=20, ir=9))
    found = operators(export(student), tmp_path / "optimized.onnx")
    assert {name: found[name] for name in shown} == shown and not {"MatMul", "Gemm", "QLinearAdd"} & set(found)
    images = random_images(student, seed=2)
    here, there = simulated(student, images)[0], deployed(export(student), images)[0]
    # float sums in another order, and where they lie at a rounding tie a step of one value among those that are summed
    assert np.mean(np.abs(here - there) > 1e-5 * np.abs(here).max()) <= 2e-3


@every_body
@every_choice
def test_the_integers_are_those_of_numerics(body, outputs, shown, choices):
    student = student_of(net(body, outputs), **choices)
    floats, exported = initializers(student), export(student)
    onnx.checker.check_model(exported, full_check=True)
    integers, stored = initializers(exported), {q.result: q for q in qdq.find(exported) if q.stored}
    weights = [q for q in qdq.find(student) if q.source in floats]
    assert len(stored) == len(weights) > 0
    for q in weights:
        values = array(floats[q.source])
        scale = numerics.broadcastable(array(floats[q.scale]), values.ndim, q.axis)
        zero_point = array(floats[q.zero_point]).reshape(scale.shape).astype(np.int32)
        found = array(integers[stored[q.result].source])
        assert found.dtype == np.dtype(q.integers.dtype)
        assert np.array_equal(found, numerics.quantize(values, scale, zero_point, q.integers.qmin, q.integers.qmax))


@every_body
@every_choice
def test_every_bias_is_int32_and_dequantizes_to_the_students(body, outputs, shown, choices):
    student = student_of(net(body, outputs), **choices)
    exported = export(student)
    made, constants, floats = producers(exported), initializers(exported), initializers(student)
    nodes = {n.name: n for n in student.graph.node}
    for node in exported.graph.node:
        if node.op_type in ("Conv", "Gemm") and len(node.input) > 2:
            dequantize = made[node.input[2]]
            integers, scale = (array(constants[name]) for name in dequantize.input)
            assert integers.dtype == np.int32
            assert np.array_equal(integers.astype(np.float32) * scale, array(floats[nodes[node.name].input[2]]))


@every_body
@every_choice
def test_export_edits_no_argument_and_gives_the_same_bytes_twice(body, outputs, shown, choices):
    student = student_of(net(body, outputs), **choices)
    before = student.SerializeToString(deterministic=True)
    first, second = (export(student).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second and student.SerializeToString(deterministic=True) == before


@every_body
@every_choice
def test_exported_twice_is_exported_once(body, outputs, shown, choices):
    once = export(student_of(net(body, outputs), **choices))
    assert export(once).SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)


def test_no_float_weight_is_left():
    exported = export(student_of(net(FLAT + "m = MatMul(r, f) y = Add(m, fb)", ROWS)))
    kinds = {t.name: t.data_type for t in exported.graph.initializer if np.prod(t.dims) > 8}
    assert set(kinds.values()) == {onnx.TensorProto.INT8}


def test_a_float_model_is_exported_as_it_is():
    model = net(BODIES["Conv"][0])
    assert export(model) == model


def test_names_that_export_needs_may_be_taken():
    body = '"w/integers" = Relu(x) "b/integers" = Add("w/integers", x) a = Conv("b/integers", w, b) y = Conv(a, w2, b2)'
    student = student_of(net(body))
    images = random_images(student)
    assert np.array_equal(simulated(student, images)[0], deployed(export(student), images)[0])


@pytest.mark.parametrize("choices", CHOICES.values(), ids=CHOICES)
def test_the_real_teacher_runs_in_integers_and_as_simulated(teacher, choices, tmp_path):
    """Noise for images: a rounding tie in an early layer moves a few logits by a step or two, 35 layers on."""
    student = student_of(teacher, **choices)
    exported, images = export(student), random_images(teacher, 32, seed=2)
    onnx.checker.check_model(exported, full_check=True)
    assert not FLOAT & set(operators(exported, tmp_path / "optimized.onnx"))
    here, there = simulated(student, images)[0], deployed(exported, images)[0]
    step = array(initializers(student)[qdq.find(student)[-1].scale])
    assert np.mean(here != there) <= 0.2 and np.abs(here - there).max() <= 3.001 * step
    assert np.mean(here.argmax(1) == there.argmax(1)) >= 0.95
    assert exported.ByteSize() < 0.4 * teacher.ByteSize()


def test_where_simulation_and_deployment_part_it_is_at_a_rounding_tie(teacher):
    """Two real layers in 8 bits, 400,000 values: the runtime multiplies by s_x * s_w / s_y where the simulation divides by
    s_y, so that about one value in 100,000 lies on the other side of .5 by float32's last bits."""
    student = student_of(teacher)
    site = [q for q in qdq.find(student) if q.source not in initializers(student)][2]
    del student.graph.output[:]
    student.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in (site.result, site.source)
    )
    images, step = random_images(teacher, 32, seed=3), array(initializers(student)[site.scale])
    here, before = simulated(student, images)
    del student.graph.output[1:]
    there = deployed(export(student), images)[0]
    differ = here != there
    distance = np.abs(before[differ] / step - np.floor(before[differ] / step) - 0.5)  # steps
    assert differ.mean() <= 1e-4 and distance.max(initial=0) <= 1e-3 and np.abs(here - there).max() <= 1.001 * step
