"""A Resize to sizes that a graph computes, or that have a fixed batch in them, becomes one by scales: its gradient goes by constants.

    Resize(x, sizes = [batch, channels, h, w])  =  Resize(x, scales = [1, 1, h / height, w / width])

Called where sizes are known at two batch sizes (shapes.py, batch.py). Must not fire where batch or channels are resized, or where the
runtime, which rounds scale * size down, would make another size of it; nor for a part of the axes, or an aspect that is kept.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np
import onnx

from onnx_distill import model as models
from onnx_distill.normalize.graph import Graph

CROPS = b"tf_crop_and_resize"


def by_scales(node: onnx.NodeProto, read: Sequence[int], made: Sequence[int], graph: Graph) -> onnx.NodeProto | None:
    """The node with constant scales for the sizes that it makes of an image; None where it must not fire."""
    if (
        len(node.input) < 4
        or not node.input[3]
        or len(read) != len(made)
        or len(read) < 3
        or tuple(read[:2]) != tuple(made[:2])
    ):
        return None
    mode = models.attribute(node, "coordinate_transformation_mode", b"half_pixel")
    if (
        models.attribute(node, "axes")
        or mode == CROPS
        or models.attribute(node, "keep_aspect_ratio_policy", b"stretch") != b"stretch"
    ):
        return None
    scales = np.array(made, np.float32) / np.array(read, np.float32)
    if not np.array_equal((scales * np.array(read, np.float32)).astype(np.int64), made):
        return None
    constant = graph.add_constant(scales, f"{node.output[0]}/scales")
    return graph.changed(node, [node.input[0], "", constant])
