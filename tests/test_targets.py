"""--target: what each row of targets.py promises holds in the quantized and the exported student, and docs/targets.md says it."""

from __future__ import annotations

import graphs
import make_targets_page
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from onnx_distill import qdq, runtime
from onnx_distill.config import QuantizeConfig
from onnx_distill.cut import cut
from onnx_distill.errors import InputError
from onnx_distill.export import export
from onnx_distill.kernels.saturation import saturating
from onnx_distill.kernels.wide_sums import without_wide_sums
from onnx_distill.lookup import array, initializers, producers
from onnx_distill.ready.deployable import deployable
from onnx_distill.targets import TARGETS, target_of

BODY = """
    a = Conv<pads = [1, 1, 1, 1]>(x, w, b)
    r = Relu(a)
    c = Conv<pads = [1, 1, 1, 1]>(r, w2, b2)
    s = Add(r, c)
    g = GlobalAveragePool(s)
    h = Flatten(g)
    logits = Gemm(h, head, fb)
    p = Softmax(logits)
"""
HEAD = np.random.default_rng(5).standard_normal((4, 5)).astype(np.float32)


@pytest.fixture
def teacher() -> onnx.ModelProto:
    return graphs.net(BODY, "float[N, 5] p", head=HEAD)


@pytest.fixture
def student(teacher):
    """target name -> the QDQ student for it."""
    return lambda name: graphs.student_of(cut(teacher), target=name)


def _sums(model: onnx.ModelProto) -> list[list[str]]:
    """Operators that make the operands of each Add."""
    made_by = producers(model)
    return [[made_by[name].op_type for name in node.input] for node in model.graph.node if node.op_type == "Add"]


@pytest.mark.parametrize("name", TARGETS)
def test_the_exported_student_computes_what_the_student_does(name, student, teacher):
    qdq_student = student(name)
    images = graphs.random_images(qdq_student, 40)
    shipped = export(qdq_student, target_of(name))
    onnx.checker.check_model(shipped, full_check=True)
    shipped = without_wide_sums(shipped)  # as OpenVINO computes them; what they are to others: kernels/test_wide_sums.py
    ours, theirs = (runtime.run(runtime.open_session(m, optimized=False), images)[0] for m in (qdq_student, shipped))
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("name", TARGETS)
def test_what_takes_the_teachers_place_passes_the_checker_and_strict_shape_inference_and_is_made_twice_alike(
    name, student, teacher
):
    made, again = (deployable(student(name), teacher) for _ in range(2))
    onnx.checker.check_model(made, full_check=True)
    onnx.shape_inference.infer_shapes(made, check_type=True, strict_mode=True, data_prop=True)
    assert made.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", [t.name for t in TARGETS.values() if t.symmetric])
def test_a_symmetric_target_has_zero_points_of_0_and_nothing_between_q_and_dq(name, student):
    shipped = export(student(name), target_of(name))
    constants = initializers(shipped)
    assert all(not np.any(array(constants[q.zero_point])) for q in qdq.find(shipped))
    assert {q.integers.dtype for q in qdq.find(shipped)} == {"int8"}
    assert "Clip" not in {node.op_type for node in shipped.graph.node}


def test_tensorrt_has_float_biases_and_its_relu_in_front_of_the_quantizer(student):
    shipped = export(student("tensorrt"), target_of("tensorrt"))
    assert TensorProto.INT32 not in {t.data_type for t in shipped.graph.initializer}
    made_by = producers(shipped)
    quantized = [
        made_by[n.input[0]].op_type for n in shipped.graph.node if n.op_type == "QuantizeLinear" and n.input[0] in made_by
    ]
    assert "Relu" in quantized


def test_qnn_has_unsigned_weights_around_128_per_tensor(student):
    shipped = export(student("qnn"), target_of("qnn"))
    constants = initializers(shipped)
    stored = [q for q in qdq.find(shipped) if q.stored]
    assert len(stored) == 3
    for q in stored:
        assert constants[q.source].data_type == TensorProto.UINT8 and int(array(constants[q.zero_point])) == 128
        assert array(constants[q.scale]).ndim == 0


@pytest.mark.parametrize("name, operand", [("ort-x86", "DequantizeLinear"), ("openvino", "Conv"), ("tensorrt", "Conv")])
def test_a_sum_takes_one_layers_result_as_floats_where_the_runtime_fuses_them(name, operand, student):
    assert _sums(student(name)) == [["DequantizeLinear", operand]]


def test_without_vnni_no_two_products_can_leave_16_bits(student):
    shipped = export(student("ort-x86-novnni"), target_of("ort-x86-novnni"))
    assert saturating(shipped) == [] and saturating(student("ort-x86-novnni")) == []


def test_full_range_weights_can_saturate_and_the_layer_is_named(student):
    found = saturating(export(student("ort-x86")))
    assert len(found) == 3 and max(one.largest for one in found) <= 255 * 254
    for one in found:
        assert one.largest > 32767 and one.channels >= 1


def test_saturation_is_that_of_the_worst_two_weights_of_a_channel(student):
    """255 * (100 + 29) = 32,895 is above 32,767; 255 * (100 + 28) = 32,640 is not."""
    shipped = export(student("ort-x86"))
    q = next(q for q in qdq.find(shipped) if q.stored)
    tensor = initializers(shipped)[q.source]
    for second, expected in ((29, 1), (28, 0)):
        values = np.zeros_like(array(tensor))
        values[0].flat[0], values[0].flat[5] = 100, second
        values[1].flat[3], values[1].flat[4] = -64, -64
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        assert sum(one.channels for one in saturating(shipped)[:1] if len(saturating(shipped)) == 3) == expected


@pytest.mark.parametrize(
    "target, message",
    [
        ("tensorrt", "has a zero point of .*, which tensorrt does not run; quantize and train with --target tensorrt"),
        ("ort-x86-novnni", "has weights to 127, which ort-x86-novnni does not run"),
    ],
)
def test_a_student_for_another_target_is_refused(target, message, student, teacher):
    with pytest.raises(InputError, match=message):
        deployable(student("ort-x86"), teacher, target)


@pytest.mark.parametrize(
    "choices, message",
    [
        (dict(target="tensorrt", symmetric=False), "activations are asymmetric; wanted symmetric ones for tensorrt"),
        (dict(target="tensorrt", activation_bits=4), "activations have 4 bits; wanted 8 for tensorrt"),
        (dict(target="tpu"), "target is 'tpu'; wanted one of ort-x86"),
    ],
)
def test_choices_that_a_target_does_not_run_are_refused(choices, message):
    with pytest.raises(InputError, match=message):
        QuantizeConfig(**choices)


def test_the_page_is_what_the_table_says():
    assert make_targets_page.PAGE.read_text() == make_targets_page.page(), "run: make docs"
