"""Whether a multiply-accumulate can saturate on x86 without VNNI: a proof on the weights, channel by channel.

VPMADDUBSW multiplies unsigned activations with signed weights and adds each two neighbouring products in 16 bits. Which two stand
beside each other is the kernel's affair, so the bound is taken over any two of a channel: activation maximum times the two
largest weights, and times the two smallest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_distill import numerics, qdq
from onnx_distill.facts.logits import label
from onnx_distill.lookup import array, initializers
from onnx_distill.placement.table import PLACEMENT, WEIGHTED, weight_axis

INT16_MAX = 2**15 - 1


@dataclass(frozen=True)
class Saturating:
    """A layer's channels of which two products may leave int16, and the largest sum of two that any of them can have."""

    node: str
    channels: int
    largest: int


def saturating(model: onnx.ModelProto) -> list[Saturating]:
    """The layers of a QDQ or exported model in which int16 sums can saturate; none: it is proved that no sum can."""
    found = ((node, sums) for node, sums in _largest_sums(model) if (sums > INT16_MAX).any())
    return [Saturating(label(node), int((sums > INT16_MAX).sum()), int(sums.max())) for node, sums in found]


def saturating_channels(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Result of each layer that can saturate -> bool [channels], or [1] for weights without a channel axis."""
    found = {node.output[0]: sums > INT16_MAX for node, sums in _largest_sums(model)}
    return {name: channels for name, channels in found.items() if channels.any()}


def _largest_sums(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, np.ndarray]]:
    """Each layer with quantized operands, and the largest sum of two products that each channel can have; int64."""
    constants, by_result = initializers(model), {q.result: q for q in qdq.find(model)}
    for node in model.graph.node:
        if PLACEMENT.get(node.op_type) != WEIGHTED:
            continue
        activation, weight = (by_result.get(name) for name in node.input[:2])
        if activation is None or weight is None or weight.source not in constants:
            continue
        values = array(constants[weight.source])
        if not weight.stored:
            scale = numerics.broadcastable(array(constants[weight.scale]), values.ndim, weight.axis)
            values = numerics.quantize(values, scale, 0, weight.integers.qmin, weight.integers.qmax)
        axis = weight_axis(node, values.ndim)
        rows = values.astype(np.int64).reshape(1, -1) if axis is None else np.moveaxis(values, axis, 0).astype(np.int64)
        rows = np.sort(rows.reshape(len(rows), -1), axis=1)
        pairs = np.maximum(rows[:, -2:].clip(0).sum(axis=1), -rows[:, :2].clip(None, 0).sum(axis=1))
        yield node, max(activation.integers.qmax, -activation.integers.qmin) * pairs
