"""What this machine's integer kernels do with 8-bit weights, and so which row of targets.py is its own. Found by running one."""

from __future__ import annotations

import functools
import platform

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from onnx_distill import runtime

ARM = ("aarch64", "arm64")
AUTO = "auto"
ROWS, INNER = 8, 64  # enough for the kernels that large layers use


@functools.lru_cache
def sums_saturate() -> bool:
    """True where onnxruntime, as its users open it, adds two products of 8 bits in 16: x86-64 without VNNI.

    The largest activations times the largest weights: 64 * 255 * 127, or what is left of it where 2 * 255 * 127 does not fit.
    """
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    ends = [
        helper.make_tensor_value_info("x", TensorProto.UINT8, [ROWS, INNER]),
        helper.make_tensor_value_info("y", TensorProto.INT32, [ROWS, ROWS]),
    ]
    weights = numpy_helper.from_array(np.full((INNER, ROWS), 127, np.int8), "w")
    graph = helper.make_graph([node], "probe", ends[:1], ends[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    sums = runtime.open_session(model, threads=1, exact=False).run(None, {"x": np.full((ROWS, INNER), 255, np.uint8)})[0]
    return bool((sums != INNER * 255 * 127).any())


def own_target() -> str:
    """The row of targets.py for onnxruntime on this machine."""
    if sums_saturate():
        return "ort-x86-novnni"
    return "ort-arm" if platform.machine().lower() in ARM else "ort-x86"
