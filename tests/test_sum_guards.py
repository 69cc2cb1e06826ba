"""sum_guards.py: OpenVINO fuses every sum of what is exported for it, and computes what the standard says, which it does not unguarded."""

from __future__ import annotations

import json
import subprocess

import graphs
import numpy as np
import onnx
import pytest

from onnx_distill import qdq, runtime
from onnx_distill.cut import cut
from onnx_distill.data import ArrayImages, Preprocess
from onnx_distill.deployable import deployable
from onnx_distill.evaluate import with_output
from onnx_distill.export import export
from onnx_distill.lookup import array, consumers, initializers, names, producers
from onnx_distill.model import save
from onnx_distill.sum_guards import guard_sums
from onnx_distill.targets import target_of
from onnx_distill.verify import find_runtime, verify
from onnx_distill.verify.agree import ending_at
from onnx_distill.verify.environments import answers

STEM = "x0 = Conv<pads = [1, 1, 1, 1]>(x, w, b) r0 = Relu(x0) "
SMALLER = """
    c1 = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(r0, w2, b2) d1 = Relu(c1) e1 = Conv(d1, point, b3)
    f1 = Conv<strides = [2, 2]>(r0, point2, b4) s1 = Add(e1, f1)
"""
SAME = "c2 = Conv<pads = [1, 1, 1, 1]>(r1, w3, b5) d2 = Relu(c2) e2 = Conv(d2, point3, b6) s2 = Add(e2, r1) "
AGAIN = "c3 = Conv<pads = [1, 1, 1, 1]>(r2, w4, b7) d3 = Relu(c3) e3 = Conv(d3, point4, b8) s3 = Add(r2, e3) "
HEAD = "y = Conv(r3, point5, b9)"
CLASSES = " g = GlobalAveragePool(y) h = Flatten(g) logits = Gemm(h, head, fb) p = Softmax(logits)"
RELU, LINEAR = ("r1 = Relu(s1) ", "r2 = Relu(s2) ", "r3 = Relu(s3) "), ("", "", "")
SHAPES = {
    **{f"b{i}": (16,) for i in ("", *range(2, 10))},
    **{f"w{i}": (16, 16, 3, 3) for i in range(2, 5)},
    **{f"point{i}": (16, 16, 1, 1) for i in ("", *range(2, 6))},
    "w": (16, 3, 3, 3),
    "head": (16, 5),
    "fb": (5,),
}
EXECUTED = """
import json, sys
import numpy as np, openvino
core = openvino.Core()
model = core.read_model(sys.argv[1])
model.reshape([int(size) for size in sys.argv[2].split(",")])
ran = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).get_runtime_model()
told = lambda op, key: getattr(op.get_rt_info()[key], "value", op.get_rt_info()[key])
print(json.dumps([[told(op, "layerType"), told(op, "originalLayersNames").split(",")] for op in ran.get_ordered_ops()]))
"""


def residual(linear: bool, tail: str = "", outputs: str = graphs.FEATURES) -> onnx.ModelProto:
    """A stem, a block whose sum joins two convolutions, two whose sum joins one and what it read, and a layer behind the last."""
    rng = np.random.default_rng(3)
    weights = {name: 1.4 * graphs.random_weights(shape, rng) for name, shape in SHAPES.items()}
    ends = LINEAR if linear else RELU
    body = STEM + SMALLER + ends[0] + SAME + ends[1] + AGAIN + ends[2] + HEAD
    if linear:
        for i in (1, 2, 3):
            body = body.replace(f"r{i}", f"s{i}")
    return graphs.net(body + tail, outputs, inputs="float[N, 3, 16, 16] x", **weights)


@pytest.fixture(params=["relu behind the sum", "no relu"], ids=lambda text: text.replace(" ", "_"))
def teacher(request) -> onnx.ModelProto:
    return residual(request.param == "no relu")


@pytest.fixture
def student(teacher) -> onnx.ModelProto:
    return graphs.student_of(teacher, target="openvino-novnni")


def guards(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "LeakyRelu"]


def operands(model: onnx.ModelProto) -> list[set[str]]:
    """What makes the operands of each sum."""
    made_by = producers(model)
    sums = [node for node in model.graph.node if node.op_type == "Add" and all(name in made_by for name in node.input)]
    return [{made_by[name].op_type for name in node.input} for node in sums]


def executed(model: onnx.ModelProto, images: np.ndarray, folder) -> list[tuple[str, list[str]]]:
    """Type and original nodes of each node that OpenVINO runs."""
    save(model, str(folder / "model.onnx"))
    python = find_runtime("openvino").command[0]
    command = [python, "-c", EXECUTED, str(folder / "model.onnx"), ",".join(map(str, images.shape))]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def steps_off(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """Steps between what OpenVINO and the reference evaluator make of the model's output, which is quantized."""
    (made,) = (output.name for output in model.graph.output)
    step = next(float(array(initializers(model)[q.scale])) for q in qdq.find(model) if q.result == made)
    found, wanted = (answers(find_runtime(name), model, images).outputs[made] for name in ("openvino", "reference"))
    return np.abs(found - wanted) / step


@pytest.mark.parametrize("quantized_for", ["openvino-novnni", "ort-x86-novnni"])
def test_openvino_fuses_every_sum_and_computes_what_the_standard_says(quantized_for, teacher, tmp_path):
    shipped = export(graphs.student_of(teacher, target=quantized_for), target_of("openvino-novnni"))
    images = graphs.random_images(shipped, 4)
    ran = executed(shipped, images, tmp_path)
    sums = [made.name for value, made in producers(shipped).items() if value in ("s1", "s2", "s3")]
    assert len(sums) == 3
    homes = {name: kind for kind, names in ran for name in names if name in sums}
    assert homes == dict.fromkeys(sums, "Convolution")
    assert (steps_off(shipped, images) > 0.5).mean() < 1e-3  # ties alone; a tenth and more without the guards


def test_verify_traces_every_difference_from_openvino_to_a_tie():
    """Also where an answer moves because watching a sum's operands parts what was fused."""
    teacher = residual(False, CLASSES, "float[N, 5] p")
    student = graphs.student_of(cut(teacher), target="openvino-novnni")
    images = ArrayImages(graphs.random_images(student, 300), preprocess=Preprocess(layout="NCHW"))
    found = verify(deployable(student, teacher, "openvino-novnni"), [find_runtime("openvino")], images, simulation=student)
    assert found.beyond_a_step <= found.traced and len(found.runners) == 2
    for runner in found.runners:
        assert not runner.untraceable and all(one.explained for one in runner.departures)


def test_a_model_that_ends_at_a_value_gives_that_alone(student):
    ended, images = ending_at(student, "e2/quantized"), graphs.random_images(student, 4)
    assert [output.name for output in ended.graph.output] == ["e2/quantized"] and len(ended.graph.node) < len(
        student.graph.node
    )
    whole = with_output(student, "e2/quantized")
    assert np.array_equal(graphs.simulated(ended, images)[0], graphs.simulated(whole, images)[-1])


def test_without_the_guards_openvino_does_not(student):
    """What the guards are there for: should OpenVINO stop dropping the quantizer, they can go."""
    shipped = export(student, target_of("ort-x86-novnni"))
    assert guards(shipped) == [] and operands(shipped)[1:] == [{"DequantizeLinear"}] * 2
    assert (steps_off(shipped, graphs.random_images(shipped, 4)) > 0.5).mean() > 0.1


def test_of_two_convolutions_that_are_summed_one_is_in_floats(student):
    assert operands(student) == [{"Conv", "DequantizeLinear"}, {"DequantizeLinear"}, {"DequantizeLinear"}]


def test_a_guard_and_the_bias_stand_before_each_quantizer_of_a_convolution_that_is_only_summed_and_nowhere_else(student):
    shipped = export(student, target_of("openvino-novnni"))
    made_by, readers = producers(shipped), consumers(shipped)
    assert [node.input[0] for node in guards(shipped)] == ["e2", "e3"]
    assert all(node.attribute[0].f == 1.0 for node in guards(shipped))
    constants = initializers(shipped)
    for node, bias in zip(guards(shipped), ("b6", "b8")):
        assert len(made_by[node.input[0]].input) == 2
        (behind,) = readers[node.output[0]]
        assert behind.op_type == "Add" and constants[behind.input[1]].dims == [16, 1, 1]
        assert np.allclose(array(constants[behind.input[1]]).ravel(), array(initializers(student)[bias]), atol=1e-3)
        assert [n.op_type for n in readers[behind.output[0]]] == ["QuantizeLinear"]
    assert sum(node.op_type == "Add" for node in shipped.graph.node) == 3 + 2


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
    assert [n.op_type for n in consumers(made)[guards(made)[0].output[0]]] == ["QuantizeLinear"]


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
    assert guards(export(graphs.student_of(graphs.net(body), target="openvino"), target_of("openvino"))) == []


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


def test_below_8_bits_a_sum_takes_floats_and_needs_no_guard():
    student = graphs.student_of(residual(False), target="openvino", activation_bits=4)
    assert operands(student) == [{"Conv", "DequantizeLinear"}] * 3
    assert guards(export(student, target_of("openvino"))) == []
