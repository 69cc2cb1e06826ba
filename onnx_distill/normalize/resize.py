"""A Resize to sizes that a graph computes, or that have a fixed batch in them, becomes one by scales: its gradient goes by constants.

    Resize(x, sizes = [batch, channels, h, w])  =  Resize(x, scales = [1, 1, h / height, w / width])

The runtime rounds scale * size down: where float32 loses a pixel in that, the next larger scale is taken, if it makes the same of an
image. Called where sizes are known at two batch sizes (shapes.py, batch.py). Must not fire where batch or channels are resized, nor
for a part of the axes, or an aspect that is kept.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np
import onnx

from onnx_distill import runtime
from onnx_distill.lookup import attribute
from onnx_distill.normalize.graph import Graph

CROPS = b"tf_crop_and_resize"
CLOSE = 1e-5  # of standard normal pixels; another pixel than the one meant is off by about 1


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
    mode = attribute(node, "coordinate_transformation_mode", b"half_pixel")
    if attribute(node, "axes") or mode == CROPS or attribute(node, "keep_aspect_ratio_policy", b"stretch") != b"stretch":
        return None
    scales = _scales(node, read, made, graph)
    if scales is None:
        return None
    constant = graph.add_constant(scales, f"{node.output[0]}/scales")
    return graph.changed(node, [node.input[0], "", constant])


def _scales(node: onnx.NodeProto, read: Sequence[int], made: Sequence[int], graph: Graph) -> np.ndarray | None:
    """float32, one for each axis; None where the runtime makes something else of them than of the sizes."""
    before = np.array(read, np.float32)
    scales = np.array(made, np.float32) / before
    loses = (scales * before).astype(np.int64) != made
    if not loses.any():
        return scales
    scales[loses] = np.nextafter(scales[loses], np.float32(np.inf))
    image = np.random.default_rng(0).standard_normal((1, 1, *read[2:])).astype(np.float32)
    by_sizes = _resized(node, image, sizes=np.array([1, 1, *made[2:]]), graph=graph)
    by_scale = _resized(node, image, scales=np.array([1, 1, *scales[2:]], np.float32), graph=graph)
    return scales if by_sizes.shape == by_scale.shape and np.allclose(by_sizes, by_scale, atol=CLOSE) else None


def _resized(node: onnx.NodeProto, image: np.ndarray, graph: Graph, **given: np.ndarray) -> np.ndarray:
    """What the runtime makes of an image by the scales or sizes that are given."""
    ((name, values),) = given.items()
    alone = graph.changed(node, ["image", "", name] if name == "scales" else ["image", "", "", name])
    alone.output[:] = ["made"]
    info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("image", "made")]
    constant = onnx.numpy_helper.from_array(values, name)
    inner = onnx.helper.make_graph([alone], "one", info[:1], info[1:], [constant])
    model = onnx.helper.make_model(inner, opset_imports=list(graph.model.opset_import), ir_version=8)
    return runtime.open_session(model, 1, optimized=False).run(None, {"image": image})[0]
