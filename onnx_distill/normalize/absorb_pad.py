"""A Pad in front of a Conv, an AveragePool or a MaxPool becomes that node's own pads, where the integer kernels have them for free.

Must not fire where batch or channels are padded, a pad is negative, or the Pad is not one of constants; for

    Conv          another value than 0
    AveragePool   another value than 0; own pads that are not counted; ceil_mode; a pad as large as the window
    MaxPool       another value than minus infinity, or than 0 where the image cannot be negative; a pad as large as the window
"""

from __future__ import annotations

import math

import numpy as np
import onnx

from onnx_distill.lookup import attribute
from onnx_distill.normalize.graph import Graph
from onnx_distill.normalize.pad import full_pads
from onnx_distill.normalize.window import Window, auto_pad

OPS = ("Conv", "AveragePool", "MaxPool")
NEVER_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Exp", "Abs", "Softplus")
LOWEST = -1e37  # exporters write minus infinity as float32's or float16's most negative number too, but then at most this


def rewrite(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    pad, window = graph.producer(node.input[0]), Window.of(node, graph)
    if pad is None or pad.op_type != "Pad" or window is None or auto_pad(node) not in ("NOTSET", "VALID"):
        return None
    pads = full_pads(pad, graph)
    if attribute(pad, "mode", b"constant") != b"constant" or pads is None or pads.min() < 0 or pads[:, :2].any():
        return None
    if not _is_exact(node, pad, graph, window) or graph.is_used(_indices(node)):
        return None
    begin, end = (tuple(own + side[2:]) for own, side in zip((np.array(window.begin), np.array(window.end)), pads))
    if node.op_type != "Conv" and any(p >= k for side in (begin, end) for p, k in zip(side, window.kernel)):
        return None
    counted = {"count_include_pad": 1} if node.op_type == "AveragePool" else {}
    given = [pad.input[0], *node.input[1:]]
    cleared = {"auto_pad": None} if attribute(node, "auto_pad") is not None else {}
    return [graph.changed(node, given, pads=[int(p) for p in begin + end], **counted, **cleared)]


def _indices(node: onnx.NodeProto) -> str:
    return node.output[1] if len(node.output) > 1 else ""


def _is_exact(node: onnx.NodeProto, pad: onnx.NodeProto, graph: Graph, window: Window) -> bool:
    value = graph.scalar(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else 0.0
    if value is None:
        return False
    if node.op_type == "Conv":
        return value == 0
    if node.op_type == "AveragePool":
        counts = window.is_unpadded or bool(attribute(node, "count_include_pad", 0))
        return value == 0 and counts and not attribute(node, "ceil_mode", 0)
    is_plain = set(window.dilations) == {1} and not attribute(node, "ceil_mode", 0)
    return is_plain and (value <= LOWEST or (value == 0 and _is_never_negative(pad.input[0], graph)))


def _is_never_negative(value: str, graph: Graph) -> bool:
    made_by = graph.producer(value)
    if made_by is None:
        return False
    if made_by.op_type == "Clip":
        low = graph.scalar(made_by.input[1]) if len(made_by.input) > 1 and made_by.input[1] else None
        return low is not None and not math.isnan(low) and low >= 0
    return made_by.op_type in NEVER_NEGATIVE
