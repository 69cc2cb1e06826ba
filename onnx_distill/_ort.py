"""onnxruntime.training 1.19.2, and everything odd about it. The only file that touches it.

* Importing `onnxruntime.training` fails without PyTorch, because its __init__ imports `optim`; what is needed here does
  not. A bare module with that name and path, put in place first, lets the rest be imported (1.19.2, `_training_package`).
* It prints a line per graph transformer while artifacts are built, through a logger whose level is only reachable by
  `set_default_logger_severity` and the SessionOptions made inside `_training_graph_utils` (1.19.2, `_quiet`).
* With onnx 1.18 and newer, models are stamped with an IR version that 1.19.2 does not load: IR is capped at 10.
* `build_gradient_graph` strips the trainable initializers from the model that it is given: it gets a copy.
* Transformers for quantized inference copy a DequantizeLinear for each of its readers, five times in a training graph:
  switched off with session.disable_quant_qdq (1.19.2; 17 % of a step).
* Memory patterns, which place a step's values in one buffer, take 1.6 times the memory of the arena alone and are no
  faster: off (1.19.2; MobileNetV2 at 224, batch 8: 1,189 against 720 MB, 137 against 138 ms).
* The checkpoint is written in C++, where a full disk is a RuntimeError: made the OSError that it is (1.19.2, `_disk_errors`).
* A parameter written before a Module exists is a segmentation fault: `open_module` returns both together.
* A Module adds each gradient to a buffer of its own, a pass over all of them; a plain InferenceSession runs the same graph
  with gradients as outputs, for the kernels of training are registered with the others: `open_training`, for steps (1.19.2).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import sys
import types
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np
import onnx
import onnxruntime

from onnx_distill.errors import InputError
from onnx_distill.gradient_outputs import with_gradient_outputs
from onnx_distill.runtime import FAILURES

NEWEST_IR = 10
_ERRORS_ONLY = 3


def _training_package() -> None:
    folder = os.path.join(os.path.dirname(onnxruntime.__file__), "training")
    if not os.path.isdir(folder):
        raise InputError(
            f"onnxruntime {onnxruntime.__version__} without training is installed; it shadows the training wheel. "
            "Run: pip uninstall onnxruntime && pip install --force-reinstall onnxruntime-training-cpu==1.19.2"
        )
    if "onnxruntime.training" not in sys.modules:
        package = types.ModuleType("onnxruntime.training")
        package.__path__ = [folder]
        sys.modules["onnxruntime.training"] = package


def _training(name: str):
    _training_package()
    return importlib.import_module(f"onnxruntime.training.{name}")


@contextlib.contextmanager
def _quiet():
    onnxruntime.set_default_logger_severity(_ERRORS_ONLY)
    utils = _training("onnxblock._training_graph_utils")
    original = utils.SessionOptions

    def quiet_options():
        options = original()
        options.log_severity_level = _ERRORS_ONLY
        return options

    utils.SessionOptions = quiet_options
    try:
        yield
    finally:
        utils.SessionOptions = original


@contextlib.contextmanager
def errors_of(what: str):
    """What the runtime raises becomes one line: `what` cannot be done, and its reason. Failures of the disk stay what they are.

    IndexError is a std::out_of_range; ValidationError and InferenceError are of onnx, which checks what the runtime made.
    """
    try:
        yield
    except (*FAILURES, IndexError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:  # type: ignore[misc]
        reason = " ".join(str(error).split())[-300:]
        raise InputError(
            f"the training runtime cannot {what}: {reason}. See `onnx-distill inspect` for operators to avoid."
        ) from error


@contextlib.contextmanager
def _disk_errors():
    try:
        yield
    except RuntimeError as error:
        reason = re.search(r"Failed to save checkpoint.* error:(.*) errno:(\d+)", str(error), re.DOTALL)
        if reason is None:
            raise
        raise OSError(int(reason[2]), reason[1]) from None


GradientNode = tuple  # (operator, inputs, outputs, attributes), see register_gradient
_registered: set[str] = set()


def register_gradient(domain: str, operator: str, nodes: Sequence[GradientNode], stopped: Sequence[int] = ()) -> None:
    """Give the runtime the gradient of an operator as nodes; process-wide, the first registration of a name stays.

    In the nodes, I(k), O(k) and GO(k) are the k-th input, output and output gradient, GI(k) the gradient to make; other
    names are inner values. Attributes: {"to": (2, "int")}, {"value": (0.0, "float")} (a scalar tensor for Constant).
    stopped: inputs that no gradient flows to.
    """
    key = f"{domain}::{operator}"
    if key in _registered:
        return
    from onnxruntime.capi import _pybind_state as C

    _training_package()
    C.register_gradient_definition(key, [_definition(C, *node) for node in nodes])
    if stopped:
        C.register_custom_stop_gradient_edges(key, set(stopped))
    _registered.add(key)


def _definition(C, operator: str, inputs: list, outputs: list, attributes: dict | None = None):
    node = C.GradientNodeDefinition()
    domain, _, node.op_type = operator.rpartition("::")
    node.domain, node.inputs, node.outputs = domain, inputs, outputs
    made = []
    for name, (value, dtype) in (attributes or {}).items():
        entry = C.GradientNodeAttributeDefinition()
        entry.name, entry.value_json, entry.dtype = name, json.dumps(value), dtype
        entry.is_tensor = operator == "Constant"
        made.append(entry)
    node.attributes = made
    return node


def generate_artifacts(
    model: onnx.ModelProto,
    trainable: Sequence[str],
    loss: Callable[[onnx.GraphProto, str], str],
    folder: Path,
    extra_outputs: Sequence[str],
) -> None:
    """Write training_model.onnx, eval_model.onnx and checkpoint to the folder.

    loss: adds the loss's nodes to a graph behind the value named, and returns the name of the scalar loss.
    """
    onnxblock: Any = _training("onnxblock")

    class Loss(onnxblock.Block):
        def build(self, logits: str) -> str:
            return loss(self.base.graph, logits)

    given = onnx.ModelProto()
    given.CopyFrom(model)
    given.ir_version = min(given.ir_version, NEWEST_IR)
    with _quiet(), errors_of("make a gradient of the model"), _disk_errors():
        _training("artifacts").generate_artifacts(
            given,
            requires_grad=list(trainable),
            loss=Loss(),
            artifact_directory=str(folder),
            additional_output_names=list(extra_outputs),
        )


def open_module(folder: Path, threads: int):
    """(Module, CheckpointState) of the artifacts in the folder, on the CPU."""
    api = _training("api")
    with errors_of("load the model with its gradient"):
        state = _checkpoint(folder)
        module = api.Module(
            str(folder / "training_model.onnx"), state, device="cpu", session_options=_options(threads, profile=None)
        )
        return module, state


def open_training(folder: Path, threads: int, profile: Path | None = None):
    """(InferenceSession, parameter -> its first values, parameter -> the output that is its gradient) of the artifacts.

    The parameters are inputs of the session. profile: a folder for the runtime's profile, a JSON file that is complete when
    nothing holds the session any more.
    """
    with errors_of("load the model with its gradient"):
        model, gradients = with_gradient_outputs(onnx.load(str(folder / "training_model.onnx")))
        options = _options(threads, profile)
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED  # the model's own order, see lower/order.py
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session, {name: np.array(parameter.data) for name, parameter in _checkpoint(folder).parameters}, gradients


def _checkpoint(folder: Path):
    return _training("api").CheckpointState.load_checkpoint(str(folder / "checkpoint"))


def _options(threads: int, profile: Path | None) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry(
        "session.force_spinning_stop", "1"
    )  # its threads are idle while teacher and optimiser work
    options.enable_mem_pattern = False  # its plan holds every value of the step at once (1.19.2)
    if threads:
        options.intra_op_num_threads = threads
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile / "step")
    return options
