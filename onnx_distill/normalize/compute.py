"""What the runtime makes of one node whose inputs are all known; how large that will be is known before it is run."""

from __future__ import annotations

import math
from typing import Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_distill import runtime
from onnx_distill.errors import InputError
from onnx_distill.facts.logits import label
from onnx_distill.facts.weightless import SMALL
from onnx_distill.lookup import shape_of


def size_bytes(node: onnx.NodeProto, inputs: dict[str, np.ndarray], imports) -> int | None:
    """Bytes of all outputs together, by onnx's shape inference; None where it cannot tell."""
    model = _alone(node, inputs, imports)
    try:
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError):
        return None
    sizes = [_bytes_of(value) for value in graph.output]
    return None if any(size is None for size in sizes) else sum(size or 0 for size in sizes)


def _bytes_of(value: onnx.ValueInfoProto) -> int | None:
    shape = shape_of(value) if value.type.tensor_type.HasField("shape") else ["?"]
    if not value.type.tensor_type.elem_type or not all(isinstance(size, int) for size in shape):
        return None
    return math.prod(map(int, shape)) * onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).itemsize


def outputs(node: onnx.NodeProto, inputs: dict[str, np.ndarray], imports) -> dict[str, np.ndarray] | None:
    """The values that the node makes, by name; None where the runtime cannot run it.

    Raises InputError for a division of whole numbers that kills the process (runtime 1.19.2).
    """
    check_division(node, [inputs[name] for name in node.input if name])
    model = _alone(node, inputs, imports)
    feeds = {value.name: inputs[value.name] for value in model.graph.input}
    names = [name for name in node.output if name]
    try:
        return dict(zip(names, runtime.open_session(model, 1, optimized=False).run(names, feeds)))
    except Exception:  # onnxruntime raises a family of unrelated types; all mean: it cannot run this node
        return None


def check_division(node: onnx.NodeProto, inputs: Sequence[np.ndarray | None]) -> None:
    """Raises InputError for a division of whole numbers by zero, or one that overflows. inputs: None where one is not known."""
    if node.op_type not in ("Div", "Mod") or inputs[1] is None or inputs[1].dtype.kind not in "iu":
        return
    smallest = inputs[0] is not None and (inputs[0] == np.iinfo(inputs[0].dtype).min).any()
    overflows = inputs[1].dtype.kind == "i" and (inputs[1] == -1).any() and smallest
    if overflows or (inputs[1] == 0).any():
        problem = "overflows" if overflows else "divides whole numbers by zero"
        raise InputError(
            f"{node.op_type} {label(node)!r} {problem}; wanted a result. The model is damaged: export it again."
        )


def _alone(node: onnx.NodeProto, inputs: dict[str, np.ndarray], imports) -> onnx.ModelProto:
    """A model of this node; small values, shapes among them, are its initializers, the others its inputs."""
    model = onnx.ModelProto(ir_version=8, opset_import=imports)
    model.graph.name = "one"
    model.graph.node.append(node)
    for name, array in inputs.items():
        if array.size <= SMALL:
            model.graph.initializer.append(numpy_helper.from_array(array, name))
        else:
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            model.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, array.shape))
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output if name)
    return model
