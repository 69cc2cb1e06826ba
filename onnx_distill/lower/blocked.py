"""The runtime's blocked channel layout (NCHWc): is it there, and how wide is a block on this machine?

A blocked tensor keeps its logical shape [N, C, H, W], its memory is [N, C / block, H, W, block]. Inference sessions use it
when weights are constants; a training model, where they are inputs, must name the kernels itself.
"""

from __future__ import annotations

import functools

import numpy as np
from onnx import TensorProto, helper

from onnx_distill import runtime
from onnx_distill.errors import InputError

DOMAIN = "com.microsoft.nchwc"
CHANNELS = 32  # a multiple of both known blocks, 8 (AVX2, NEON) and 16 (AVX-512)


@functools.lru_cache
def block_size() -> int | None:
    """Channels in a block on this machine, or None where the runtime has no blocked kernels. Found by running a ReorderInput."""
    node = helper.make_node("ReorderInput", ["x"], ["y"], domain=DOMAIN)
    shape = [1, CHANNELS, 1, 2]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([node], "probe", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    values = np.arange(2 * CHANNELS, dtype=np.float32).reshape(shape)
    try:
        session = runtime.open_session(helper.make_model(graph, opset_imports=opsets, ir_version=8), threads=1)
        memory = runtime.run(session, values)[0].ravel()
    except InputError:
        return None
    return next((block for block in (8, 16) if np.array_equal(memory, as_blocked(values, block).ravel())), None)


def as_blocked(values: np.ndarray, block: int) -> np.ndarray:
    """[N, C, H, W] -> [N, C / block, H, W, block], what ReorderInput does."""
    n, c, h, w = values.shape
    return values.reshape(n, c // block, block, h, w).transpose(0, 1, 3, 4, 2)
