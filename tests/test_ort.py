"""What _ort.py leans on in onnxruntime.training 1.19.2: these fail when it stops being true."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from onnx_distill import _ort
from onnx_distill.errors import InputError

SCALE = """<ir_version: 8, opset_import: ["": 17, "test_ort": 1]>
g (float[n,2] x) => (float[n,1] y) <float[2,1] w = {3, 4}, float s = {2}> { h = MatMul(x, w)  y = test_ort.NAME(h, s) }
<domain: "test_ort", opset_import: ["": 17]> NAME (h, s) => (y) { y = Mul(h, s) }"""


def add_mean(graph: onnx.GraphProto, name: str) -> str:
    graph.node.append(onnx.helper.make_node("ReduceMean", [name], ["test_ort/loss"], "test_ort/mean", keepdims=0))
    return "test_ort/loss"


def trained(model: onnx.ModelProto, folder: Path, trainable=("w",)):
    """(Module, CheckpointState) of a model with output [n, 1] whose mean is the loss."""
    _ort.generate_artifacts(model, trainable, add_mean, folder, [])
    return _ort.open_module(folder, 1)


def linear(operator: str = "") -> onnx.ModelProto:
    if operator:
        return onnx.parser.parse_model(SCALE.replace("NAME", operator))
    return onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[n,2] x) => (float[n,1] y) <float[2,1] w = {3, 4}> { y = MatMul(x, w) }'
    )


def test_the_version_is_the_one_that_was_read():
    assert onnxruntime.__version__ == "1.19.2"


@pytest.mark.parametrize("ir", [8, _ort.NEWEST_IR, _ort.NEWEST_IR + 1, 13])
def test_models_of_any_ir_version_can_be_trained(ir, tmp_path):
    model = linear()
    model.ir_version = ir
    module, state = trained(model, tmp_path)
    assert module(np.ones((3, 2), np.float32)) == pytest.approx(7)
    assert np.array_equal(state.parameters["w"].grad, [[1], [1]])
    assert onnx.load(str(tmp_path / "training_model.onnx")).ir_version <= _ort.NEWEST_IR


def test_the_runtime_does_not_load_a_newer_ir():
    model = linear()
    model.ir_version = _ort.NEWEST_IR + 1
    with pytest.raises(Exception, match="Unsupported model IR version"):
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_the_given_model_keeps_its_trainable_initializers(tmp_path):
    model = linear()
    before = model.SerializeToString(deterministic=True)
    trained(model, tmp_path)
    assert model.SerializeToString(deterministic=True) == before


def test_parameters_and_gradients_are_live_views(tmp_path):
    module, state = trained(linear(), tmp_path)
    w = state.parameters["w"].data
    assert module(np.ones((1, 2), np.float32)) == pytest.approx(7)
    gradient = state.parameters["w"].grad
    w[...] = 10
    module.lazy_reset_grad()
    assert module(np.full((1, 2), 2, np.float32)) == pytest.approx(40)
    assert np.array_equal(gradient, [[2], [2]])


def test_gradients_accumulate_until_they_are_reset(tmp_path):
    module, state = trained(linear(), tmp_path)
    for _ in range(2):
        module(np.ones((1, 2), np.float32))
    assert np.array_equal(state.parameters["w"].grad, [[2], [2]])


# ---- gradients from Python


def test_a_registered_gradient_is_used(tmp_path):
    """A wrong one on purpose: d h is dy times 5, where the function would give 2."""
    _ort.register_gradient(
        "test_ort",
        "Wrong",
        [("Constant", [], ["five"], {"value": (5.0, "float")}), ("Mul", ["GO(0)", "five"], ["GI(0)"])],
        (1,),
    )
    module, state = trained(linear("Wrong"), tmp_path)
    assert module(np.ones((1, 2), np.float32)) == pytest.approx(14)
    assert np.array_equal(state.parameters["w"].grad, [[5], [5]])


def test_the_first_registration_of_a_name_stays(tmp_path):
    for factor in (7.0, 9.0):
        nodes = [("Constant", [], ["f"], {"value": (factor, "float")}), ("Mul", ["GO(0)", "f"], ["GI(0)"])]
        _ort.register_gradient("test_ort", "Twice", nodes, (1,))
    module, state = trained(linear("Twice"), tmp_path)
    module(np.ones((1, 2), np.float32))
    assert np.array_equal(state.parameters["w"].grad, [[7], [7]])


def test_a_gradient_for_an_input_after_the_first_is_given(tmp_path):
    nodes = [
        ("Mul", ["GO(0)", "I(1)"], ["GI(0)"]),
        ("Mul", ["GO(0)", "I(0)"], ["t"]),
        ("ReduceSum", ["t"], ["GI(1)"], {"keepdims": (0, "int")}),
    ]
    _ort.register_gradient("test_ort", "Both", nodes)
    module, state = trained(linear("Both"), tmp_path, ("w", "s"))
    module(np.ones((2, 2), np.float32))
    assert np.array_equal(state.parameters["w"].grad, [[2], [2]]) and state.parameters["s"].grad == pytest.approx(7)


def test_an_operator_whose_first_input_needs_no_gradient_cannot_be_trained(tmp_path):
    """Why the step of the image's quantizer is never learned."""
    nodes = [
        ("Mul", ["GO(0)", "I(1)"], ["GI(0)"]),
        ("Mul", ["GO(0)", "I(0)"], ["t"]),
        ("ReduceSum", ["t"], ["GI(1)"], {"keepdims": (0, "int")}),
    ]
    _ort.register_gradient("test_ort", "First", nodes)
    with pytest.raises(InputError, match="cannot make a gradient of the model: .*is not a valid intermediate output"):
        trained(linear("First"), tmp_path, ("s",))


# ---- quiet, and without PyTorch

QUIET = """
import pathlib, sys, numpy, onnx
from onnx_distill import _ort, artifacts, config
from onnx_distill.training import step
folder = pathlib.Path(sys.argv[1])
made = artifacts.build(onnx.load(str(folder / "student.onnx")), config.DistillConfig(), "all", folder, 4)
ready = step.Step(made, threads=1)
ready.run(numpy.zeros((4, 1, 4, 4), "float32"), numpy.zeros((4, 3), "float32"), numpy.zeros(4, "int64"))
"""


def in_a_fresh_process(code: str, *arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)


def test_nothing_is_printed_while_building_and_running(tiny_student, tmp_path):
    onnx.save(tiny_student(), str(tmp_path / "student.onnx"))
    done = in_a_fresh_process(QUIET, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_works_where_torch_cannot_be_imported(tiny_student, tmp_path):
    onnx.save(tiny_student(), str(tmp_path / "student.onnx"))
    done = in_a_fresh_process("import sys; sys.modules['torch'] = None" + QUIET, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_runtime_without_training_is_an_input_error(tmp_path):
    code = """
import onnxruntime
onnxruntime.__file__ = __import__("sys").argv[1] + "/__init__.py"
from onnx_distill import _ort, errors
try:
    _ort.open_module(None, 1)
except errors.InputError as error:
    print(error)
"""
    assert "without training is installed; it shadows the training wheel" in in_a_fresh_process(code, tmp_path).stdout


def test_the_package_imports_no_torch_of_its_own():
    """Where PyTorch is installed, the training wheel's `import onnxruntime` itself imports it (1.19.2)."""
    code = """
import sys, onnxruntime
loaded = set(sys.modules)
import onnx_distill.cli, onnx_distill._ort
onnx_distill._ort._training("artifacts"), onnx_distill._ort._training("api")
print([name for name in set(sys.modules) - loaded if name.split(".")[0] == "torch"])
"""
    assert in_a_fresh_process(code).stdout == "[]\n"


# ---- what the module is opened with


def test_threads_are_those_asked_for(tmp_path):
    """One thread and two give the same here; what is checked is that both open and run."""
    _ort.generate_artifacts(linear(), ["w"], add_mean, tmp_path, [])
    found = [_ort.open_module(tmp_path, threads)[0](np.ones((64, 2), np.float32)) for threads in (0, 1, 2)]
    assert found == pytest.approx([7, 7, 7])


def test_a_full_disk_is_an_os_error(tmp_path):
    (tmp_path / "checkpoint").symlink_to("/dev/full")
    model = linear()
    wide = np.zeros(
        (2, 100_000), np.float32
    )  # more than fits the buffer of the C++ stream, which forgets errors when closed
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(wide, "w"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = wide.shape[1]
    with pytest.raises(OSError, match="No space left on device") as caught:
        trained(model, tmp_path)
    assert caught.value.errno == errno.ENOSPC
