"""sum_guards.py: OpenVINO fuses every sum of a student for onnxruntime, and computes what the standard says, which it does not unguarded."""

from __future__ import annotations

import graphs
import numpy as np
import onnx
import pytest
from residual import operands, residual, run_in, steps_off

from onnx_distill import qdq, runtime
from onnx_distill.evaluate import with_output
from onnx_distill.export import export
from onnx_distill.kernels.sum_guards import guard_sums
from onnx_distill.lookup import array, consumers, initializers, names, producers
from onnx_distill.targets import target_of


@pytest.fixture(params=["relu behind the sum", "no relu"], ids=lambda text: text.replace(" ", "_"))
def teacher(request) -> onnx.ModelProto:
    return residual(request.param == "no relu")


@pytest.fixture
def student(teacher) -> onnx.ModelProto:
    return graphs.student_of(teacher, target="ort-x86-novnni")


def guards(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "LeakyRelu"]


def test_openvino_fuses_every_sum_and_computes_what_the_standard_says(student, tmp_path):
    shipped = export(student, target_of("openvino-novnni"))
    images = graphs.random_images(shipped, 4)
    assert run_in(shipped, images, tmp_path) == dict.fromkeys(("s1", "s2", "s3"), "Convolution")
    assert (steps_off(shipped, images) > 0.5).mean() < 1e-3  # ties alone; a tenth and more without the guards


def test_without_the_guards_openvino_does_not(student):
    """What the guards are there for: should OpenVINO stop dropping the quantizer, they can go."""
    shipped = export(student, target_of("ort-x86-novnni"))
    assert guards(shipped) == [] and operands(shipped)[1:] == [{"DequantizeLinear"}] * 2
    assert (steps_off(shipped, graphs.random_images(shipped, 4)) > 0.5).mean() > 0.1


def test_a_guard_and_the_bias_stand_before_each_quantizer_of_a_convolution_that_is_only_summed_and_nowhere_else(student):
    shipped = export(student, target_of("openvino-novnni"))
    made_by, readers = producers(shipped), consumers(shipped)
    assert [node.input[0] for node in guards(shipped)] == ["e1", "f1", "e2", "e3"]
    assert all(node.attribute[0].f == 1.0 for node in guards(shipped))
    constants = initializers(shipped)
    for node, bias in zip(guards(shipped), ("b3", "b4", "b6", "b8")):
        assert len(made_by[node.input[0]].input) == 2
        (behind,) = readers[node.output[0]]
        assert behind.op_type == "Add" and constants[behind.input[1]].dims == [16, 1, 1]
        assert np.allclose(array(constants[behind.input[1]]).ravel(), array(initializers(student)[bias]), atol=1e-3)
        assert [n.op_type for n in readers[behind.output[0]]] == ["QuantizeLinear"]
    assert sum(node.op_type == "Add" for node in shipped.graph.node) == 3 + 4


def test_guards_change_no_answer(student):
    images = graphs.random_images(student, 16)
    for value in ("y", "e2/dequantized"):
        model = with_output(student, value)
        shipped = export(model, target_of("openvino-novnni"))
        ours, theirs = (runtime.run(runtime.open_session(m, optimized=False), images)[-1] for m in (model, shipped))
        assert (ours != theirs).mean() < 1e-3  # the bias is added by another node: ties


def test_a_convolution_without_a_bias_gets_the_guard_alone(student):
    made = export(student, target_of("ort-x86-novnni"))
    del producers(made)["e2"].input[2]
    guard_sums(made, qdq.find(made), names(made))
    guard = next(node for node in guards(made) if node.input[0] == "e2")
    assert [n.op_type for n in consumers(made)[guard.output[0]]] == ["QuantizeLinear"]


@pytest.mark.parametrize(
    "body",
    [
        "a = Conv<pads = [1, 1, 1, 1]>(x, w, b) y = Conv(a, w2, b2)",
        "a = Conv<pads = [1, 1, 1, 1]>(x, w, b) s = Add(a, half) y = Conv(s, w2, b2)",
        "a = Conv<pads = [1, 1, 1, 1]>(x, w, b) s = Add(a, a) y = Conv(s, w2, b2)",
        "a = Conv<pads = [1, 1, 1, 1]>(x, w, b) m = Mul(a, a) y = Conv(m, w2, b2)",
    ],
    ids=["no sum", "a constant", "twice itself", "a product"],
)
def test_no_guard_where_no_two_activations_are_summed(body):
    assert guards(export(graphs.student_of(graphs.net(body)), target_of("openvino"))) == []


def test_a_relu_that_was_not_absorbed_is_passed_by(student):
    """OpenVINO folds it into the quantizer, which would then stand first. The bias stays before the Relu."""
    made = export(student, target_of("ort-x86-novnni"))
    quantize = next(n for n in made.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "e2")
    position = list(made.graph.node).index(quantize)
    quantize.input[0] = "relu"
    made.graph.node.insert(position, onnx.helper.make_node("Relu", ["e2"], ["relu"], "relu"))
    guard_sums(made, qdq.find(made), names(made))
    guard = next(node for node in guards(made) if node.input[0] == "relu")
    assert [n.op_type for n in consumers(made)[guard.output[0]]] == ["QuantizeLinear"]
    assert len(producers(made)["e2"].input) == 3


def test_below_8_bits_no_guard_is_needed():
    """OpenVINO fuses no sum there, and drops no quantizer."""
    student = graphs.student_of(residual(False), target="ort-x86", activation_bits=4)
    assert operands(student) == [{"DequantizeLinear"}] * 3
    assert guards(export(student, target_of("openvino"))) == []
