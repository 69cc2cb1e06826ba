"""Simulation against deployment, by scripts/deploy_check.py: agreement, exact values, ties told apart from faults."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import deploy_check
import deploy_trace
import graphs
import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnx_distill import pipeline, qdq
from onnx_distill.cut import cut
from onnx_distill.errors import InputError
from onnx_distill.model import array, initializers

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
BODY = """
    a = Conv<pads = [1, 1, 1, 1]>(x, w, b)
    r = Relu(a)
    c = Conv<group = 4, pads = [1, 1, 1, 1]>(r, depthwise, b2)
    s = Add(r, c)
    g = GlobalAveragePool(s)
    h = Flatten(g)
    logits = Gemm(h, head, fb)
    p = Softmax(logits)
"""
HEAD = np.random.default_rng(5).standard_normal((4, 5)).astype(np.float32)


@pytest.fixture
def pair():
    """(bits) -> a QDQ student of a small classifier and its exported form, which ends in Softmax."""

    def pair(bits: int) -> tuple[onnx.ModelProto, onnx.ModelProto]:
        teacher = graphs.net(BODY, "float[N, 5] p", head=HEAD)
        student = graphs.student_of(cut(teacher), weight_bits=bits, activation_bits=bits)
        return student, pipeline.deployable(student, teacher)

    return pair


@pytest.fixture
def folder(tmp_path):
    """(student, exported) -> a folder with both, and a file of images."""

    def folder(student: onnx.ModelProto, exported: onnx.ModelProto) -> tuple[Path, Path]:
        onnx.save(student, str(tmp_path / deploy_check.SIMULATED))
        onnx.save(exported, str(tmp_path / deploy_check.EXPORTED))
        np.save(tmp_path / "images.npy", graphs.random_images(exported, 120))
        return tmp_path, tmp_path / "images.npy"

    return folder


def _known(exported: onnx.ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
    made = deploy_check.simulated(deploy_check._exposed(exported, list(deploy_trace.activations(exported))), images)
    return {"x": images, **{name: made[name] for name in deploy_trace.activations(exported)}}


def _with_values(model: onnx.ModelProto, name: str, change) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    tensor = initializers(made)[name]
    tensor.CopyFrom(numpy_helper.from_array(change(array(tensor)).astype(array(tensor).dtype), name))
    return made


@pytest.mark.parametrize("bits", [8, 4])
def test_an_exported_student_answers_as_its_simulation(pair, folder, bits):
    (found,) = deploy_check.compare(*folder(*pair(bits)), [sys.executable])
    assert (found.count, found.agreement, found.float_nodes) == (120, 1.0, 0)
    assert found.passed and {cause.kind for cause in found.causes} <= {"rounding tie"}


def test_the_exact_value_of_a_dense_layer_is_its_accumulator_times_the_scales(pair):
    _, exported = pair(8)
    known, constants = _known(exported, graphs.random_images(exported)), initializers(exported)
    names = list(deploy_trace.activations(exported))
    q = deploy_trace.activations(exported)[names[-1]]
    gemm = next(node for node in exported.graph.node if node.op_type == "Gemm")
    dequantizers = {node.output[0]: node.input for node in exported.graph.node if node.op_type == "DequantizeLinear"}
    x, w, b = (dequantizers[name] for name in gemm.input)
    integers = known[x[0]].astype(np.int64) - int(array(constants[x[2]]))
    accumulator = integers @ array(constants[w[0]]).astype(np.int64) + array(constants[b[0]])
    scales = [array(constants[name]).astype(np.float64) for name in (x[1], w[1], q.scale)]
    exact = deploy_trace.exact_steps(exported, q, known)
    assert np.abs(exact - accumulator * (scales[0] * scales[1] / scales[2])).max() < 1e-9


def test_rounding_the_exact_value_is_no_departure(pair):
    _, exported = pair(4)
    known = _known(exported, graphs.random_images(exported, 60))
    for name, q in deploy_trace.activations(exported).items():
        assert deploy_trace.departures(exported, name, q, known).tie_distance < deploy_trace.TIE


@pytest.mark.parametrize("found, count, distance", [(1, 0, 0.0), (2, 1, 1.9e-7), (3, 1, 1.0), (7, 1, 5.0)])
def test_a_departure_is_as_far_as_the_found_rounding(found, count, distance):
    """52 * 3/104 is 1.5; these scales, of a 3-bit student, make it 1.4999998, which sums in float32 make 1.5, so 2."""
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]> net (float[N] x) => (float[N] y)
        <float sx = {0.47074714}, float sw = {0.040850293}, float sy = {0.6666456}, uint8 z = {0}, int8 w = {1}> {
            xq = QuantizeLinear(x, sx, z) xd = DequantizeLinear(xq, sx, z) wd = DequantizeLinear(w, sw)
            m = Mul(xd, wd) yq = QuantizeLinear(m, sy, z) y = DequantizeLinear(yq, sy, z)
        }""")
    q = qdq.find(model)[-1]
    known = {"x": np.float32([52 * 0.47074714]), "xq": np.uint8([52]), "yq": np.uint8([found])}
    departures = deploy_trace.departures(model, "yq", q, known)
    assert departures.count == count and departures.tie_distance == pytest.approx(distance, abs=3e-7)


def test_a_planted_fault_is_unexplained_and_named(pair, folder, capsys):
    student, exported = pair(8)
    name = next(name for name in initializers(exported) if name.startswith("depthwise") and name.endswith("integers"))
    place, images = folder(student, _with_values(exported, name, lambda w: -w))
    assert (
        deploy_check.main(
            ["--student", str(place), "--data", str(images), "--python", sys.executable, "--json", "--bound", "0"]
        )
        == 1
    )
    causes = json.loads(capsys.readouterr().out)[0]["causes"]
    wrong = [cause for cause in causes if cause["kind"] == "UNEXPLAINED"]
    assert [(cause["value"], cause["operator"]) for cause in wrong] == [("c/quantized", "QLinearConv")]
    assert wrong[0]["first"] == 100 and wrong[0]["simulated"] > 1000 and wrong[0]["exported"] == 0


def test_too_little_agreement_is_told_and_fails(pair, folder, capsys):
    student, exported = pair(8)
    name = next(name for name in initializers(exported) if name.startswith("head") and name.endswith("integers"))
    place, images = folder(student, _with_values(exported, name, lambda w: -w))
    assert deploy_check.main(["--student", str(place), "--data", str(images), "--python", sys.executable]) == 1
    assert "at least 99.9 % wanted: TOO LOW" in capsys.readouterr().out


@pytest.mark.parametrize("bits, bound", [(8, 0.999), (4, 0.999), (3, 0.995)])
def test_the_bound_is_lower_below_4_bits(pair, bits, bound):
    assert deploy_check._bound(pair(bits)[0]) == bound


def test_a_student_left_in_floats_is_told(pair):
    _, exported = pair(8)
    assert deploy_check.float_nodes(exported) == 3
    made = deploy_check.deployed(sys.executable, exported, graphs.random_images(exported))
    assert deploy_check.float_nodes(made.optimized) == 0


def test_exposing_the_integers_changes_no_fusion(pair):
    _, exported = pair(4)
    names, images = list(deploy_trace.activations(exported)), graphs.random_images(exported)
    watched = deploy_check.deployed(sys.executable, deploy_check._exposed(exported, names), images).optimized
    alone = deploy_check.deployed(sys.executable, exported, images).optimized
    assert [node.op_type for node in watched.graph.node] == [node.op_type for node in alone.graph.node]
    first = [deploy_trace.fused_operator(watched, name) for name in names[:5]]
    assert first == ["QuantizeLinear", "QLinearConv", "QLinearConv", "QLinearAdd", "QLinearGlobalAveragePool"]


def test_differences_count_in_steps_of_the_last_quantizer(pair):
    _, exported = pair(8)
    assert deploy_check.logits_step(exported) == float(array(initializers(exported)["logits/scale"]))


def test_without_students_there_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert deploy_check.main(["--runs", str(tmp_path)]) == 2
    assert "holds trained.qdq.onnx and student.int8.onnx; make them with `make results`" in capsys.readouterr().err


def test_a_missing_python_is_told(pair, tmp_path):
    _, exported = pair(8)
    with pytest.raises(InputError, match=r"cannot run .*nowhere: .*Make it with `make deploy-check`, or give --python"):
        deploy_check.deployed(str(tmp_path / "nowhere"), exported, graphs.random_images(exported))


def test_a_model_that_the_other_runtime_refuses_is_told(pair):
    _, exported = pair(8)
    with pytest.raises(InputError, match=r"stock_predict.py failed: .*"):
        deploy_check.deployed(sys.executable, exported, np.zeros((1, 2, 8, 8), np.float32))


def test_stock_predict_needs_numpy_and_onnxruntime_only():
    tree = ast.parse((SCRIPTS / "stock_predict.py").read_text())
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert found == {"__future__", "sys", "numpy", "onnxruntime"}


def test_stock_predict_without_arguments_says_what_it_wants():
    done = subprocess.run([sys.executable, str(SCRIPTS / "stock_predict.py")], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr.startswith("Example: python scripts/stock_predict.py")
