"""Which elements of a quantized value a machine without VNNI may have saturated: those of channels whose weights allow it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from onnx_distill.kernels import machine
from onnx_distill.kernels.saturation import saturating_channels
from onnx_distill.lookup import producers

SATURATING_KINDS = ("onnxruntime", "openvino")  # onnxruntime-web and the reference widen before they add: measured
KEEP_CHANNELS = ("Relu", "Clip", "Add", "Mul", "MaxPool", "Identity", "Sigmoid", "LeakyRelu")
REMEDY = {"openvino": "openvino-novnni", "onnxruntime": "ort-x86-novnni"}  # kind of runtime -> the target of its row


def saturable(model: onnx.ModelProto, kind: str) -> dict[str, np.ndarray]:
    """Result of a layer -> bool [channels] whose sums may saturate where a runtime of that kind runs the model, here."""
    return saturating_channels(model) if kind in SATURATING_KINDS and machine.sums_saturate() else {}


def saturated_elements(model: onnx.ModelProto, value: str, channels: dict[str, np.ndarray]) -> Callable[[int], np.ndarray]:
    """rank -> the elements of a value that may be off, as a bool array that broadcasts against it.

    channels: as saturable gives them. A value may be off where a layer that makes it, behind the last DequantizeLinears, is: in
    the layer's own channels where these are still at axis 1, else anywhere.
    """
    made_by, stack, found = producers(model), [(value, True)], np.zeros(1, bool)
    while stack:
        name, kept = stack.pop()
        node = made_by.get(name)
        if node is None or node.op_type == "DequantizeLinear":
            continue
        if name in channels:
            own = kept and node.op_type in ("Conv", "Gemm")
            found = found | (channels[name] if own else channels[name].any(keepdims=True))
        else:
            stack += [(source, kept and node.op_type in KEEP_CHANNELS) for source in node.input if source]

    def elements(rank: int) -> np.ndarray:
        return found.reshape([-1 if axis == min(1, rank - 1) else 1 for axis in range(rank)])

    return elements
