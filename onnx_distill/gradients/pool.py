"""Gradients of AveragePool and Resize, which the runtime lacks or gets wrong (1.19.2): both are linear, so each is its transpose.

    AveragePool     dx = the sum of dy / (pixels averaged) over every window that a pixel is in: dy spread by the strides with
                    zeros, then AveragePool itself at stride 1, times its window's pixels. Where windows neither overlap nor leave
                    gaps, dy is repeated instead.
    Resize          y = A x B^T with a matrix for each axis, whatever the mode; dx = A^T dy B. The matrices are what the runtime's
                    Resize makes of the unit vectors.

The batch may be free; channels and the image's size must be known. The runtime's own gradient of AveragePool divides by zero
unless the batch is known too, and is wrong where a window's first pixels are padding, for dilations, and in three dimensions.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_distill import runtime
from onnx_distill.errors import InputError
from onnx_distill.gradients.formula import Value
from onnx_distill.gradients.site import Site


def average_pool(site: Site) -> Value:
    """dx is dy, spread by the strides, averaged back. Raises InputError where its image's size is not known or its padding is not written out."""
    kernel = site.attribute("kernel_shape", None)
    sizes, axes = _sizes(site), range(len(kernel))
    if site.attribute("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or site.attribute("ceil_mode", 0):
        raise InputError(
            f"{_label(site)} has auto_pad or ceil_mode; wanted explicit pads. Give --input-shape, so that they are."
        )
    strides, dilations = (site.attribute(name, [1] * len(kernel)) for name in ("strides", "dilations"))
    pads = site.attribute("pads", [0] * 2 * len(kernel))
    extent = [d * (k - 1) + 1 for k, d in zip(kernel, dilations)]
    outputs = [(sizes[a] + pads[a] + pads[len(kernel) + a] - extent[a]) // strides[a] + 1 for a in axes]
    if any(size < 1 for size in outputs):
        raise InputError(f"{_label(site)} has a window larger than its image; wanted larger images.")
    if strides == kernel == extent and not any(pads) and all(sizes[a] == outputs[a] * kernel[a] for a in axes):
        return _repeated(site, site.dy * (1 / np.prod(kernel)), outputs, kernel)
    counted = bool(site.attribute("count_include_pad", 0))
    share = site.dy * _shares(
        site, [_counts(sizes[a], outputs[a], strides[a], kernel[a], dilations[a], pads[a], counted) for a in axes]
    )
    spread = _spread(site, share, outputs, strides)
    before = [extent[a] - 1 - pads[a] for a in axes]
    after = [sizes[a] + extent[a] - 1 - before[a] - outputs[a] * strides[a] for a in axes]
    full = site("Pad", spread, [0, 0, *before, 0, 0, *after])
    further = {"dilations": dilations} if set(dilations) != {1} else {}
    return site("AveragePool", full, kernel_shape=kernel, **further) * float(np.prod(kernel))


def _label(site: Site) -> str:
    return f"{site.node.op_type} {site.node.name or site.node.output[0]!r}"


def _sizes(site: Site) -> list[int]:
    sizes = [size for size in site.shape(0)[2:] if isinstance(size, int)]
    if len(sizes) != len(site.shape(0)) - 2:
        raise InputError(
            f"{_label(site)} reads an image of free size {list(site.shape(0))}; wanted it fixed. Give --input-shape."
        )
    return sizes


def _counts(size: int, outputs: int, stride: int, kernel: int, dilation: int, pad: int, counted: bool) -> np.ndarray:
    """Pixels that each window averages along an axis."""
    if counted:
        return np.full(outputs, kernel)
    places = stride * np.arange(outputs)[:, None] + dilation * np.arange(kernel) - pad
    return ((places >= 0) & (places < size)).sum(axis=1)


def _shares(site: Site, counts: list[np.ndarray]) -> Value | float:
    """1 / (pixels averaged), of shape [outputs]; a number where all are alike."""
    whole = np.ones(())
    for count in counts:
        whole = whole[..., None] * count
    shares = (1 / np.maximum(whole, 1)).astype(np.float32)
    return _constant(site, shares) if np.ptp(shares) else float(shares.flat[0])


def _apart(outputs: list[int]) -> list[int]:
    return [0, 0, *(part for size in outputs for part in (size, 1))]


def _together(outputs: list[int], times: list[int]) -> list[int]:
    return [0, 0, *(size * count for size, count in zip(outputs, times))]


def _repeated(site: Site, value: Value, outputs: list[int], times: list[int]) -> Value:
    wide = site("Expand", site("Reshape", value, _apart(outputs)), [1, 1, *(part for k in times for part in (1, k))])
    return site("Reshape", wide, _together(outputs, times))


def _spread(site: Site, value: Value, outputs: list[int], strides: list[int]) -> Value:
    if set(strides) == {1}:
        return value
    zeros = [0, 0, *[0] * 2 * len(outputs), 0, 0, *(part for stride in strides for part in (0, stride - 1))]
    return site("Reshape", site("Pad", site("Reshape", value, _apart(outputs)), zeros), _together(outputs, strides))


def resize(site: Site) -> Value:
    """dx = A^T dy B of a Resize of the last two axes, or the last alone. Raises InputError for others, and where sizes are not known."""
    rank, sizes = len(site.shape(0)), _sizes(site)
    scales = _scales(site, rank, sizes)
    if site.attribute("coordinate_transformation_mode", b"half_pixel") == b"tf_crop_and_resize" or any(
        scale != 1 for scale, _ in scales[:-2]
    ):
        raise InputError(
            f"{_label(site)} crops or resizes more than height and width; it cannot be trained. Choose other logits."
        )
    dx = site.dy
    for axis in (-1, -2)[: rank - 2]:
        if scales[axis][0] != 1 or scales[axis][1] != sizes[axis]:
            matrix = _matrix(site.node, sizes[axis], *scales[axis])
            dx = site("MatMul", dx, _constant(site, matrix)) if axis == -1 else site("MatMul", _constant(site, matrix.T), dx)
    return dx


def _scales(site: Site, rank: int, sizes: list[int]) -> list[tuple[float, int]]:
    """(scale, size of the output) of every axis; batch and channels are (1, 0) where they stay."""
    axes = [axis % rank for axis in site.attribute("axes", None) or range(rank)]
    scales, wanted = site.constant(2), site.constant(3)
    found = [(1.0, 0), (1.0, 0), *((1.0, size) for size in sizes)]
    given = scales if scales is not None and scales.size else wanted
    if given is None or len(given) != len(axes) or site.attribute("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        raise InputError(
            f"{_label(site)} computes its size in the graph; wanted constant scales or sizes. Give --input-shape."
        )
    for axis, value in zip(axes, given.tolist()):
        size = found[axis][1]
        if given is scales:
            found[axis] = (value, int(np.floor(size * value)))
        elif axis > 1:
            found[axis] = (value / size, value)
    return found


def _matrix(node: onnx.NodeProto, size: int, scale: float, outputs: int) -> np.ndarray:
    """[outputs, size]: what the runtime's Resize makes of the unit vectors."""
    kept = [entry for entry in node.attribute if entry.name not in ("axes", "keep_aspect_ratio_policy")]
    scales = numpy_helper.from_array(np.array([1, 1, scale, 1], np.float32), "scales")
    made = helper.make_node("Resize", ["x", "", "scales"], ["y"])
    made.attribute.extend(kept)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    model = helper.make_model(
        helper.make_graph([made], "unit", [x], [y], [scales]), opset_imports=[helper.make_opsetid("", 19)]
    )
    model.ir_version = 9
    units = np.eye(size, dtype=np.float32)[:, None, :, None]
    return runtime.compute(runtime.open_session(model, 1, optimized=False), {"x": units})[0][:, 0, :, 0].T


def _constant(site: Site, values: np.ndarray) -> Value:
    """In integers of 2^-30: of the constants in a gradient the runtime takes none of floats with an axis (1.19.2)."""
    steps = np.rint(values.astype(np.float64).reshape(-1) * 2.0**30).astype(np.int64)
    return site("Reshape", site("Cast", steps, to=TensorProto.FLOAT) * 2.0**-30, list(values.shape))


POOL_RULES = {"AveragePool": average_pool, "Resize": resize}
