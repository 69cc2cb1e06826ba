"""auto_pad and ceil_mode are written out as pads, which is what the gradients of Conv and AveragePool go by.

SAME_UPPER, SAME_LOWER, a ConvTranspose's output_shape and ceil_mode depend on the image: they need its size.

    Conv, pools       SAME: ceil(size / stride) outputs; pads share what is missing, the odd one at the end (UPPER) or the start
    ConvTranspose     SAME: size * stride outputs; pads share what is too much
    ceil_mode         as many pixels behind the end as the last window needs

Must not fire where the size is free; where a pad would be as large as the window (the runtime refuses those of a pool); and where
pixels behind the end would be averaged in (count_include_pad with ceil_mode: the runtime divides by the whole window, ONNX does
not) or the last window would lie behind the image alone (versions of the runtime disagree whether it is there).
"""

from __future__ import annotations

import onnx

from onnx_distill.lookup import attribute
from onnx_distill.normalize.graph import Graph
from onnx_distill.normalize.window import Window, auto_pad

OPS = ("Conv", "ConvTranspose", "AveragePool", "MaxPool", "LpPool")
Pads = tuple  # of (begin, end), each a tuple with an entry an axis


def rewrite(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    mode, window = auto_pad(node), Window.of(node, graph)
    of_size = node.op_type == "ConvTranspose" and attribute(node, "output_shape") is not None
    if window is None or (mode == "NOTSET" and not attribute(node, "ceil_mode", 0) and not of_size):
        return None
    pads = _pads(node, graph, window, mode)
    if pads is None:
        return None
    written = {"auto_pad": None, "ceil_mode": None, "output_shape": None, "pads": [*pads[0], *pads[1]]}
    return [graph.changed(node, **{name: v for name, v in written.items() if v or attribute(node, name) is not None})]


def _pads(node: onnx.NodeProto, graph: Graph, window: Window, mode: str) -> Pads | None:
    sizes = graph.sizes(node.input[0])
    if node.op_type == "ConvTranspose" and mode != "VALID":
        return None if sizes is None else _transposed(node, window, mode, sizes)
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        return None if sizes is None else _allowed(node, window, _same(window, mode, sizes))
    begin, end = ((0,) * len(window.kernel),) * 2 if mode == "VALID" else (window.begin, window.end)
    if not attribute(node, "ceil_mode", 0):
        return begin, end
    return None if sizes is None else _allowed(node, window, _ceiled(node, window, begin, end, sizes))


def _same(window: Window, mode: str, sizes: tuple[int, ...]) -> Pads:
    missing = [
        max((-(-size // stride) - 1) * stride + extent - size, 0)
        for size, stride, extent in zip(sizes, window.strides, window.extent)
    ]
    return _shared(missing, odd_at_end=mode == "SAME_UPPER")


def _shared(totals: list[int], odd_at_end: bool) -> Pads:
    small, large = tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)
    return (small, large) if odd_at_end else (large, small)


def _transposed(node: onnx.NodeProto, window: Window, mode: str, sizes: tuple[int, ...]) -> Pads | None:
    added = attribute(node, "output_padding", [0] * len(sizes))
    full = [s * (size - 1) + a + e for s, size, a, e in zip(window.strides, sizes, added, window.extent)]
    wanted = attribute(node, "output_shape") or [size * stride for size, stride in zip(sizes, window.strides)]
    over = [f - w for f, w in zip(full, wanted[-len(sizes) :])]
    return None if min(over) < 0 else _shared(over, odd_at_end=mode == "SAME_UPPER")


def _ceiled(node: onnx.NodeProto, window: Window, begin, end, sizes: tuple[int, ...]) -> Pads | None:
    reach = []
    for size, extent, stride, before, after in zip(sizes, window.extent, window.strides, begin, end):
        last = -(-(size + before + after - extent) // stride) * stride  # where the last window starts
        if last >= size + before:
            return None
        reach.append(max(last + extent - size - before, after))
    return None if attribute(node, "count_include_pad", 0) and tuple(reach) != end else (begin, tuple(reach))


def _allowed(node: onnx.NodeProto, window: Window, pads: Pads | None) -> Pads | None:
    if pads is None or node.op_type == "Conv":
        return pads
    return pads if all(pad < kernel for side in pads for pad, kernel in zip(side, window.kernel)) else None
