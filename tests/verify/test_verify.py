"""verify: agreement of runtimes with the simulation, exact values, ties told apart from faults, environments."""

from __future__ import annotations

import ast
import json
import subprocess
import sys

import graphs
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper, parser

from onnx_distill import qdq
from onnx_distill.cli import main
from onnx_distill.cut import cut
from onnx_distill.data import open_images
from onnx_distill.errors import InputError
from onnx_distill.kernels import machine
from onnx_distill.lookup import array, initializers
from onnx_distill.ready.deployable import deployable
from onnx_distill.verify import agree, environments, find_runtime, render, trace, verify

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
HERE = ("wheel", "reference")  # what needs no environment of its own


@pytest.fixture
def pair():
    """bits -> a QDQ student of a small classifier and its exported form, which ends in Softmax.

    For machines without VNNI unless told otherwise: its sums saturate nowhere, so that stock runtimes are exact on any machine.
    """

    def pair(bits: int, target: str = "ort-x86-novnni") -> tuple[onnx.ModelProto, onnx.ModelProto]:
        teacher = graphs.net(BODY, "float[N, 5] p", head=HEAD)
        student = graphs.student_of(cut(teacher), weight_bits=bits, activation_bits=bits, target=target)
        return student, deployable(student, teacher, target)

    return pair


@pytest.fixture
def images(tmp_path):
    """120 random images as the data module hands them out, and the file that holds them."""
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(1).standard_normal((120, 3, 8, 8)).astype(np.float32))
    return open_images(path), path


@pytest.fixture
def verify_command(tmp_path, images):
    """(exported model, further arguments) -> the command's result on the images."""

    def call(exported: onnx.ModelProto, *arguments: str):
        onnx.save(exported, str(tmp_path / "student.onnx"))
        options = ["--data", str(images[1]), "--runtimes", ",".join(HERE), *arguments]
        return CliRunner().invoke(main, ["verify", str(tmp_path / "student.onnx"), *options])

    return call


def _known(exported: onnx.ModelProto, pixels: np.ndarray) -> dict[str, np.ndarray]:
    names = list(trace.activations(exported))
    made = agree.simulate(agree.exposed(exported, names), pixels)
    return {"x": pixels, **{name: made[name] for name in names}}


def _with_values(model: onnx.ModelProto, name: str, change) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    tensor = initializers(made)[name]
    tensor.CopyFrom(numpy_helper.from_array(change(array(tensor)).astype(array(tensor).dtype), name))
    return made


def _integers(model: onnx.ModelProto, weight: str) -> str:
    return next(name for name in initializers(model) if name.startswith(weight) and name.endswith("integers"))


@pytest.mark.parametrize("bits", [8, 4])
def test_an_exported_student_answers_as_its_simulation_under_each_runtime(pair, images, bits):
    student, exported = pair(bits)
    found = verify(exported, [find_runtime(name) for name in HERE], images[0], simulation=student)
    assert [runner.name for runner in found.runners] == ["simulation", *HERE]
    assert len(found.pairs) == 3 and {p.agreement for p in found.pairs} == {1.0} and found.passed
    assert found.runners[1].float_nodes == 0
    assert all(one.explained for runner in found.runners for one in runner.departures)


@pytest.mark.parametrize(
    "target, runtimes",
    [("openvino-novnni", ["simulation", "openvino"]), ("ort-x86-novnni", ["simulation", "wheel", "onnxruntime"])],
)
def test_a_file_is_asked_under_the_runtimes_that_it_is_made_for_unless_told_otherwise(
    target, runtimes, pair, images, tmp_path
):
    onnx.save(pair(8, target)[1], str(tmp_path / "student.onnx"))
    words = ["verify", str(tmp_path / "student.onnx"), "--data", str(images[1]), "--json"]
    found = json.loads(CliRunner().invoke(main, words, catch_exceptions=False).stdout)
    assert [runner["name"] for runner in found["runners"]] == runtimes and found["passed"]


def test_a_model_that_ends_at_a_value_gives_that_alone(pair, images):
    exported, pixels = pair(8)[1], images[0].read(np.arange(4))
    ended, whole = agree.ending_at(exported, "r/quantized"), agree.with_output(exported, "r/quantized")
    assert [output.name for output in ended.graph.output] == ["r/quantized"]
    assert len(ended.graph.node) < len(exported.graph.node)
    assert np.array_equal(*(agree.simulate(model, pixels)["r/quantized"] for model in (ended, whole)))


@pytest.mark.parametrize("bits", [8, 4])
def test_the_exported_nodes_as_they_stand_are_the_simulation(pair, images, bits):
    student, exported = pair(bits)
    pixels = images[0].read(np.arange(120))
    ours, theirs = (agree.simulate(agree.with_output(m, "logits"), pixels)["logits"] for m in (student, exported))
    assert np.array_equal(ours, theirs)


def test_a_planted_fault_is_unexplained_and_named_first(pair, images):
    student, exported = pair(8)
    broken = _with_values(exported, _integers(exported, "depthwise"), lambda w: -w)
    found = verify(broken, [find_runtime("wheel")], images[0], simulation=student, bound=0)
    wrong = [(r.name, one.value, one.operator) for r in found.runners for one in r.departures if not one.explained]
    assert wrong == [("simulation", "c/quantized", "QuantizeLinear")]  # exact for the broken file is what the wheel did
    assert found.pairs[0].first_differences == {"c/quantized": 20} and found.traced == 20


def test_sums_that_saturate_on_this_machine_are_named_as_the_cause_with_the_target_to_take(pair, images):
    """Full-range weights: with VNNI there is nothing to tell. The reference widens before it adds, on any machine."""
    student, exported = pair(8, "ort-x86")
    extreme = _with_values(exported, _integers(exported, "w/"), lambda w: np.where(w > 0, 127, 0))
    found = verify(extreme, [find_runtime(name) for name in HERE], images[0], bound=0)
    simulation, wheel, reference = ([one.kind for one in runner.departures] for runner in found.runners)
    assert set(simulation) | set(reference) <= {trace.TIED}
    assert (trace.SATURATES in wheel) == machine.sums_saturate() and "UNEXPLAINED" not in wheel
    assert ("--target ort-x86-novnni" in render(found)) == machine.sums_saturate()


def test_only_channels_that_can_saturate_explain_a_departure(pair):
    _, exported = pair(8, "ort-x86")
    known = _known(exported, graphs.random_images(exported))
    name, q = list(trace.activations(exported).items())[1]  # what the first layer gives
    found = {**known, name: known[name].copy()}
    found[name][:, 2] ^= 64
    for channels, kind in (([0, 0, 1, 0], trace.SATURATES), ([1, 1, 0, 1], "UNEXPLAINED")):
        layer = {"a": np.array(channels, bool)}
        assert trace.departure(exported, name, q, found, saturable=layer).kind == kind


def test_too_little_agreement_fails_with_exit_code_1(pair, verify_command, tmp_path):
    student, exported = pair(8)
    onnx.save(student, str(tmp_path / "trained.onnx"))
    broken = _with_values(exported, _integers(exported, "head"), lambda w: -w)
    result = verify_command(broken, "--simulation", str(tmp_path / "trained.onnx"))
    assert result.exit_code == 1 and "at least 99.9 % wanted: TOO LOW" in result.stdout


def test_agreement_is_told_in_json_with_the_teachers(pair, verify_command, tmp_path):
    onnx.save(graphs.net(BODY, "float[N, 5] p", head=HEAD), str(tmp_path / "teacher.onnx"))
    result = verify_command(pair(8)[1], "--json", "--teacher", str(tmp_path / "teacher.onnx"), "--samples", "50")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["images"], found["passed"]) == (0, 50, True)
    assert [r["name"] for r in found["runners"]] == ["simulation", *HERE]
    assert all(r["teacher_agreement"] > 0.8 and r["top1"] is None for r in found["runners"])


def test_a_float_model_is_refused(verify_command):
    result = verify_command(graphs.net(BODY, "float[N, 5] p", head=HEAD))
    assert result.exit_code == 2 and "the student has no quantizers; wanted an exported QDQ model" in result.stderr


@pytest.mark.parametrize("bits, bound", [(8, 0.999), (4, 0.999), (3, 0.995)])
def test_the_bound_is_lower_below_4_bits(pair, bits, bound):
    assert agree.default_bound(qdq.find(pair(bits)[0])) == bound


def test_a_fixed_batch_is_fed_in_batches_of_its_size(pair, images):
    student, exported = pair(8)
    fixed = onnx.ModelProto()
    fixed.CopyFrom(exported)
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 7
    found = environments.answers(find_runtime("wheel"), fixed, images[0].read(np.arange(120)))
    free = environments.answers(find_runtime("wheel"), exported, images[0].read(np.arange(120)))
    assert np.array_equal(found.outputs["p"], free.outputs["p"]) and len(found.outputs["p"]) == 120


def test_the_exact_value_of_a_dense_layer_is_its_accumulator_times_the_scales(pair):
    _, exported = pair(8)
    known, constants = _known(exported, graphs.random_images(exported)), initializers(exported)
    names = list(trace.activations(exported))
    q = trace.activations(exported)[names[-1]]
    gemm = next(node for node in exported.graph.node if node.op_type == "Gemm")
    dequantizers = {node.output[0]: node.input for node in exported.graph.node if node.op_type == "DequantizeLinear"}
    x, w, b = (dequantizers[name] for name in gemm.input)
    integers = known[x[0]].astype(np.int64) - int(array(constants[x[2]]))
    accumulator = integers @ array(constants[w[0]]).astype(np.int64) + array(constants[b[0]])
    scales = [array(constants[name]).astype(np.float64) for name in (x[1], w[1], q.scale)]
    exact = trace.exact_steps(exported, q, known)
    assert np.abs(exact - accumulator * (scales[0] * scales[1] / scales[2])).max() < 1e-9


def test_rounding_the_exact_value_is_no_departure(pair):
    _, exported = pair(4)
    known = _known(exported, graphs.random_images(exported, 60))
    for name, q in trace.activations(exported).items():
        assert trace.departure(exported, name, q, known).tie_distance < trace.TIE


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
    one = trace.departure(model, "yq", q, known)
    assert one.count == count and one.tie_distance == pytest.approx(distance, abs=3e-7)
    assert one.largest == (found - 1 if count else 0)


def test_exposing_the_integers_changes_no_fusion(pair):
    _, exported = pair(4)
    names, pixels = list(trace.activations(exported)), graphs.random_images(exported)
    wheel = find_runtime("wheel")
    watched = environments.answers(wheel, agree.exposed(exported, names), pixels).optimized
    alone = environments.answers(wheel, exported, pixels).optimized
    assert [node.op_type for node in watched.graph.node] == [node.op_type for node in alone.graph.node]
    first = [trace.made_as(watched, name) for name in names[:5]]
    assert first == ["QuantizeLinear", "QLinearConv", "QLinearConv", "QLinearAdd", "QLinearGlobalAveragePool"]


def test_float_nodes_are_counted_before_and_after_fusion(pair):
    _, exported = pair(8)
    assert agree.float_nodes(exported) == 3
    made = environments.answers(find_runtime("wheel"), exported, graphs.random_images(exported))
    assert agree.float_nodes(made.optimized) == 0


def test_differences_count_in_steps_of_the_last_quantizer(pair):
    _, exported = pair(8)
    assert agree.logits_step(exported, "logits") == float(array(initializers(exported)["logits/scale"]))


def test_the_logits_are_those_that_the_file_names(images):
    """What feeds the exported Softmax has another name where the teacher's tail begins with a node that rewrites drop."""
    body = BODY.replace("p = Softmax(logits)", "same = Identity(logits) p = Softmax(same)")
    teacher = graphs.net(body, "float[N, 5] p", head=HEAD)
    student = graphs.student_of(cut(teacher, "logits"))
    exported = deployable(student, teacher)
    assert agree.find_logits(exported).value == "same" and agree.logits_value(exported) == "logits"
    assert verify(exported, [find_runtime("wheel")], images[0], simulation=student).passed


@pytest.mark.parametrize(
    "name, message",
    [
        ("onnxruntim", "no runtime 'onnxruntim'; closest: 'onnxruntime'"),
        ("onnxruntime==", "has no version behind =="),
        ("onnxruntime==1.2; rm", "has no version behind =="),
        ("openvino=/nowhere/python", "there is no program /nowhere/python. Give the path of a Python that has openvino"),
        ("tensorflow=python", "no runtime 'tensorflow=python'; wanted any of wheel, reference, onnxruntime"),
    ],
)
def test_a_name_that_is_no_runtime_is_refused(name, message):
    with pytest.raises(InputError) as error:
        find_runtime(name)
    assert message in str(error.value)


def test_another_pythons_runtime_is_named_by_its_path(pair, images):
    _, exported = pair(8)
    found = find_runtime(f"onnxruntime={sys.executable}")
    assert environments.answers(found, exported, images[0].read(np.arange(3))).outputs["p"].shape == (3, 5)


def test_a_model_that_a_runtime_refuses_is_told(pair):
    _, exported = pair(8)
    with pytest.raises(InputError, match=r"wheel cannot run the model: .*(Got invalid dimensions|INVALID_ARGUMENT)"):
        environments.answers(find_runtime("wheel"), exported, np.zeros((1, 2, 8, 8), np.float32))


def test_an_installation_that_fails_is_told_and_tried_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for _ in range(2):
        with pytest.raises(InputError, match=r"pip install .* failed: "):
            find_runtime("onnxruntime==0.0.1")


def test_the_worker_needs_numpy_and_its_runtime_only():
    tree = ast.parse(environments.WORKER.read_text())
    found = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert found == {"__future__", "json", "sys", "typing", "numpy"}


def test_the_worker_without_arguments_says_what_it_wants():
    done = subprocess.run([sys.executable, str(environments.WORKER)], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and done.stderr.startswith(
        "wanted: python worker.py onnxruntime|openvino|reference job.json"
    )
