"""wide_sums.py: OpenVINO runs a student's float sums inside its convolutions, and to everyone else the file means the same."""

from __future__ import annotations

import dataclasses

import graphs
import numpy as np
import onnx
import pytest
from residual import CLASSES, operands, residual, run_in, steps_off

from onnx_distill import qdq, runtime
from onnx_distill.cut import cut
from onnx_distill.data import ArrayImages, Preprocess
from onnx_distill.errors import InputError
from onnx_distill.evaluate import with_output
from onnx_distill.export import export
from onnx_distill.kernels.wide_sums import rounding, without_wide_sums
from onnx_distill.lookup import array, initializers, opset, producers
from onnx_distill.ready.adopt import adopt
from onnx_distill.ready.deployable import deployable
from onnx_distill.targets import target_of
from onnx_distill.verify import find_runtime, verify
from onnx_distill.verify.trace import TIED, WIDE

TARGET = target_of("openvino-novnni")
FLOAT = dataclasses.replace(TARGET, wide_sums=False)  # the same file with float operands left as they are


@pytest.fixture(params=["relu behind the sum", "no relu"], ids=lambda text: text.replace(" ", "_"))
def teacher(request) -> onnx.ModelProto:
    return residual(request.param == "no relu")


@pytest.fixture
def student(teacher) -> onnx.ModelProto:
    return graphs.student_of(teacher, target=TARGET.name)


def answered(model: onnx.ModelProto, images: np.ndarray, value: str) -> np.ndarray:
    return runtime.run(runtime.open_session(with_output(model, value), optimized=False), images)[-1]


def test_openvino_fuses_every_sum_and_computes_the_students_sum_of_floats(student, tmp_path):
    shipped = export(student, TARGET)
    images = graphs.random_images(shipped, 4)
    assert run_in(shipped, images, tmp_path) == dict.fromkeys(("s1", "s2", "s3"), "Convolution")
    assert (steps_off(shipped, images, export(student, FLOAT)) > 0.5).mean() < 5e-3  # ties, and what they move behind them


def test_without_the_16_bits_openvino_runs_sums_of_their_own(student, tmp_path):
    """What they are there for: should OpenVINO fuse sums of floats, they can go."""
    images = graphs.random_images(student, 4)
    assert set(run_in(export(student, FLOAT), images, tmp_path).values()) != {"Convolution"}


def test_of_a_sum_the_first_convolution_is_in_floats(student):
    assert operands(student) == [{"Conv", "DequantizeLinear"}] * 3


def test_a_quantizer_of_16_bits_stands_behind_each_convolution_that_is_summed_and_nowhere_else(student):
    shipped = export(student, TARGET)
    assert [quantize.input[0] for quantize, _ in qdq.wide_pairs(shipped)] == ["e1", "e2", "e3"]
    assert operands(shipped) == [{"DequantizeLinear"}] * 3 and opset(shipped) == 21
    onnx.checker.check_model(shipped, full_check=True)


def test_everyone_else_reads_the_students_sums_within_a_small_part_of_a_step(student):
    """The convolution's own value, which nothing cuts off, before the sum; and the sum's integers."""
    shipped, images = export(student, TARGET), 30 * graphs.random_images(student, 16)
    part = rounding(shipped)
    assert [name[1:] for name in part] == ["1/quantized", "2/quantized", "3/quantized"]
    for moved in part.values():
        assert 0 < moved < 1 / 128
    first = next(iter(part))
    ours, theirs = (answered(m, images, first).astype(int) for m in (export(student, FLOAT), shipped))
    assert len(np.unique(ours)) > 200 and np.abs(ours - theirs).max() <= 1
    assert (ours != theirs).mean() < 4 * part[first]


def test_its_range_cuts_off_nothing_that_the_sum_keeps(student):
    """A convolution far beyond what it was calibrated on: the sum ends at the same bound, or is brought back by its operand."""
    shipped = export(student, TARGET)
    images = np.concatenate(
        [scale * graphs.random_images(student, 8, seed=seed) for seed, scale in enumerate((1, 10, 1000))]
    )
    for value in ("s2", "s3"):
        wide = [dequantize for quantize, dequantize in qdq.wide_pairs(shipped) if quantize.input[0] == f"e{value[1]}"]
        behind = next(q for q in qdq.find(shipped) if q.source in (value, f"r{value[1]}"))
        step = float(array(initializers(shipped)[behind.scale]))
        conv, kept = answered(shipped, images, f"e{value[1]}") * 2, answered(shipped, images, wide[0].output[0])
        beside = next(n for n in producers(shipped)[value].input if n != wide[0].output[0])
        other = answered(shipped, images, beside)
        low = step * (behind.integers.qmin - int(array(initializers(shipped)[behind.zero_point])))
        high = low + step * 255
        exact, found = (np.clip(each + other, low, high) for each in (conv, kept))
        assert np.abs(exact - found).max() < step / 100


def test_taken_out_again_the_file_is_the_same_but_for_the_names_of_scales(student):
    images = graphs.random_images(student, 8)
    plain, again = export(student, FLOAT), without_wide_sums(export(student, TARGET))
    assert [n.op_type for n in plain.graph.node] == [n.op_type for n in again.graph.node]
    assert np.array_equal(answered(plain, images, "y"), answered(again, images, "y"))
    assert without_wide_sums(plain) is plain


def test_verify_traces_every_difference_to_a_tie_or_to_the_16_bits():
    """OpenVINO's, which does not round there, to ties; also where an answer moves because watching a sum's operands parts what was fused."""
    teacher = residual(False, CLASSES, "float[N, 5] p")
    student = graphs.student_of(cut(teacher), target=TARGET.name)
    images = ArrayImages(graphs.random_images(student, 300), preprocess=Preprocess(layout="NCHW"))
    runtimes = [find_runtime(name) for name in ("openvino", "onnxruntime")]
    found = verify(deployable(student, teacher, TARGET.name), runtimes, images, simulation=student, trace=300)
    assert found.beyond_a_step <= found.traced and len(found.runners) == 3
    kinds = {}
    for runner in found.runners:
        assert not runner.untraceable and all(one.explained for one in runner.departures)
        kinds[runner.name] = {one.kind for one in runner.departures}
    assert kinds["openvino"] <= {TIED} and WIDE in kinds["onnxruntime"]


@pytest.mark.parametrize("ratio", [1, 2], ids=["the same scale under two names", "twice the scale"])
@pytest.mark.parametrize("taken_by", ["Relu", "Add"])
def test_other_tools_quantizers_of_16_bits_are_refused_not_passed_over(ratio, taken_by):
    body = (
        "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s2, z) y = " + {"Relu": "Relu(d)", "Add": "Add(d, x)"}[taken_by]
    )
    scale, point = np.float32(0.1), np.uint16(32768)
    model = graphs.net(body, opset=21, ir=10, s=scale, s2=ratio * scale, z=point)
    with pytest.raises(InputError, match="uint16; wanted constant uint8 or int8"):
        qdq.find(model)
    assert without_wide_sums(model) is model


def test_an_exported_file_is_adopted_without_its_16_bits(teacher, student):
    adopted, images = adopt(export(student, TARGET), teacher), graphs.random_images(student, 8)
    assert qdq.wide_pairs(adopted) == []
    assert np.array_equal(graphs.simulated(adopted, images)[0], answered(export(student, FLOAT), images, "y"))


@pytest.mark.parametrize(
    "body",
    [
        "a = Conv<pads = [1, 1, 1, 1]>(x, w, b) y = Conv(a, w2, b2)",
        "a = Conv<pads = [1, 1, 1, 1]>(x, w, b) s = Add(a, half) y = Conv(s, w2, b2)",
        "a = Conv<pads = [1, 1, 1, 1]>(x, w, b) s = Add(a, a) y = Conv(s, w2, b2)",
    ],
    ids=["no sum", "a constant", "twice itself"],
)
def test_no_16_bits_elsewhere(body):
    shipped = export(graphs.student_of(graphs.net(body), target="openvino"), target_of("openvino"))
    assert qdq.wide_pairs(shipped) == [] and opset(shipped) == 17


@pytest.mark.parametrize("value", ["e2", "s2"])
def test_no_16_bits_where_the_user_reads_the_convolution_or_the_sum(value, student):
    shipped = export(with_output(student, value), TARGET)
    assert [quantize.input[0] for quantize, _ in qdq.wide_pairs(shipped)] == ["e1", "e3"]


def test_below_8_bits_a_sum_takes_floats_as_they_are():
    """OpenVINO fuses no sum there."""
    student = graphs.student_of(residual(False), target="openvino", activation_bits=4)
    assert operands(student) == [{"Conv", "DequantizeLinear"}] * 3
    assert qdq.wide_pairs(export(student, target_of("openvino"))) == []
