"""The window that a Conv or a pool slides over the image: its size, strides, dilations and pads, whether written out or not."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from onnx_distill.lookup import attribute
from onnx_distill.normalize.graph import Graph


@dataclass(frozen=True)
class Window:
    """One entry an axis of space. begin, end: explicit pads; of `auto_pad`, which wants the image's size, they know nothing."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @classmethod
    def of(cls, node: onnx.NodeProto, graph: Graph) -> Window | None:
        """Of a Conv, ConvTranspose or pool; None where the weight's shape is not known."""
        kernel = attribute(node, "kernel_shape") or graph.sizes(node.input[1])
        if kernel is None:
            return None
        rank = len(kernel)
        strides, dilations = (tuple(attribute(node, name, [1] * rank)) for name in ("strides", "dilations"))
        pads = tuple(attribute(node, "pads", [0] * 2 * rank))
        return cls(tuple(kernel), strides, dilations, pads[:rank], pads[rank:])

    @property
    def extent(self) -> tuple[int, ...]:
        """Pixels from the window's first to its last."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations))

    @property
    def is_unpadded(self) -> bool:
        return not any(self.begin + self.end)


def auto_pad(node: onnx.NodeProto) -> str:
    """NOTSET, VALID, SAME_UPPER or SAME_LOWER."""
    return attribute(node, "auto_pad", b"NOTSET").decode() or "NOTSET"
