"""Where a run of a student departs from exact arithmetic: every quantized value against clamp(round_half_even(exact)).

The exact value is computed in float64 from the very integers that its operator read in that run, so that a departure is
that operator's own and no earlier one's. Two runs that never depart from the exact integers cannot differ, so the departures of
both are the whole cause of a difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from onnx_distill import numerics, qdq
from onnx_distill.kernels.wide_sums import rounding, without_wide_sums
from onnx_distill.lookup import array, attribute, consumers, image_input, initializers, producers
from onnx_distill.qdq import Quantizer
from onnx_distill.verify.saturated import saturated_elements

BATCH = 50  # images at a time; the exact values are float64, and im2col makes nine of each
TIE = 1e-4  # steps: float32 keeps 24 bits, so a sum that passes through a few thousand steps is off by so much
TIED, WIDE, SATURATES = "rounding tie", "16-bit rounding", "saturates: VPMADDUBSW"
MOVING = ("Transpose", "Clip", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "MaxPool", "Identity")  # integers pass through


@dataclass(frozen=True)
class Departure:
    """A quantized value at which a run departs from exact rounding.

    operator: what computes it, in the graph that the runtime ran where that is known. count: elements whose integer is not the
    exact one. largest: integers between the two, at most. tie_distance: steps between the exact value of such an element and the
    nearest one that rounds to what was found, at most. widened: steps of that which the rounding of a quantizer of 16 bits in front of a
    sum may be (kernels/wide_sums.py). saturates: all others are of channels whose 8-bit products
    the machine may have added in 16 bits (saturated.py).
    """

    value: str
    operator: str
    count: int
    largest: int
    tie_distance: float
    saturates: bool = False
    widened: float = 0.0

    @property
    def explained(self) -> bool:
        """True where the cause is known: a tie, so near to the rounding found that float32 decides either way, or 16 bits do, or
        saturation."""
        return self.tie_distance <= TIE + self.widened or self.saturates

    @property
    def kind(self) -> str:
        if self.tie_distance <= TIE + self.widened:
            return TIED if self.tie_distance <= TIE else WIDE
        return SATURATES if self.saturates else "UNEXPLAINED"


def departures(
    model: onnx.ModelProto,
    images: np.ndarray,
    integers: dict[str, np.ndarray],
    optimized: onnx.ModelProto | None = None,
    saturable: dict[str, np.ndarray] | None = None,
) -> list[Departure]:
    """Every value at which a run of an exported model departs from exact rounding, in graph order.

    integers: every quantized activation's in that run, by name; optimized: the graph that the runtime ran; saturable: result of
    a layer -> its channels whose sums that run may have saturated. Sums are exact without the quantizers of 16 bits in front of them.
    """
    moved, model = rounding(model), without_wide_sums(model)
    known = {image_input(model).name: images, **integers}
    found = [
        departure(model, name, q, known, optimized, saturable or {}, moved.get(name, 0.0))
        for name, q in activations(model).items()
    ]
    return [one for one in found if one.count]


def first_differences(a: dict[str, np.ndarray], b: dict[str, np.ndarray], values: list[str]) -> dict[str, int]:
    """Value -> images in which it is the first, in the order of `values`, that differs; those with none are left out."""
    seen, first = np.zeros(len(a[values[0]]), bool), {}
    for value in values:
        new = (a[value] != b[value]).reshape(len(seen), -1).any(axis=1) & ~seen
        if new.any():
            first[value] = int(new.sum())
        seen |= new
    return first


def activations(model: onnx.ModelProto) -> dict[str, Quantizer]:
    """Name of the integers -> their quantizer, for every quantized activation in graph order."""
    constants, made_by = initializers(model), producers(model)
    found = [q for q in qdq.find(model) if not q.stored and q.source not in constants]
    return {made_by[q.result].input[0]: q for q in found}


def departure(
    model: onnx.ModelProto,
    integers: str,
    q: Quantizer,
    known: dict[str, np.ndarray],
    optimized: onnx.ModelProto | None = None,
    saturable: dict[str, np.ndarray] | None = None,
    widened: float = 0.0,
) -> Departure:
    """How one value of a run departs from clamp(round_half_even(exact)); known: all integers of that run, and the image.

    The model has no quantizers of 16 bits; widened: see Departure."""
    zero_point = array(initializers(model)[q.zero_point]).astype(np.int64) if q.zero_point else 0
    low, high = q.integers.qmin - zero_point, q.integers.qmax - zero_point
    count, largest, furthest, unsaturated = 0, 0.0, 0.0, 0
    may_saturate = saturated_elements(model, q.source, saturable or {})
    for i in range(0, len(known[integers]), BATCH):
        part = {name: value[i : i + BATCH] for name, value in known.items()}
        exact = np.clip(exact_steps(model, q, part), low, high)
        found = part[integers].astype(np.int64) - zero_point
        off = found != np.rint(exact)
        count += int(off.sum())
        largest = max(largest, float(np.abs(found - np.rint(exact)).max(initial=0.0)))
        distance = np.where(off, np.abs(exact - found) - 0.5, 0)
        furthest = max(furthest, float(distance.max(initial=0.0)))
        unsaturated += int(((distance > TIE + widened) & ~may_saturate(distance.ndim)).sum())
    saturates = furthest > TIE + widened and not unsaturated
    operator = made_as(optimized or model, integers)
    return Departure(integers, operator, count, int(largest), furthest, saturates, widened)


def made_as(graph: onnx.ModelProto, value: str) -> str:
    """The operator that computes a value's integers in this graph."""
    made_by = producers(graph)
    node = made_by.get(value)
    while node is not None and node.op_type in MOVING:
        node = made_by.get(node.input[0])
    return node.op_type if node is not None else "none"


def exact_steps(model: onnx.ModelProto, q: Quantizer, known: dict[str, np.ndarray]) -> np.ndarray:
    """The quantizer's input in its own steps, before rounding and zero point; float64.

    known: the image and every activation's integers, by name. The operators up to the next DequantizeLinear run in float64;
    an int32 bias counts in steps of input scale times weight scale, not of their product in float32.
    """
    made_by, wanted, stack = producers(model), set(), [q.source]
    feeds: dict[str, np.ndarray] = {}
    known = {**{name: array(tensor) for name, tensor in initializers(model).items()}, **known}
    while stack:
        name = stack.pop()
        node = made_by.get(name)
        if node is None or node.op_type == "DequantizeLinear":
            feeds[name] = _double(known[name]) if node is None else _dequantized(model, node, known)
        elif node.output[0] not in wanted:
            wanted.add(node.output[0])
            stack += [value for value in node.input if value]
    nodes = [node for node in model.graph.node if node.output[0] in wanted]
    real = _evaluate(model, nodes, feeds, q.source) if nodes else feeds[q.source]
    return real / _double(numerics.broadcastable(known[q.scale], real.ndim, q.axis))


def _dequantized(model: onnx.ModelProto, node: onnx.NodeProto, known: dict[str, np.ndarray]) -> np.ndarray:
    integers, scale = known[node.input[0]], _double(known[node.input[1]])
    if integers.dtype == np.int32:
        made_by, reader = producers(model), consumers(model)[node.output[0]][0]
        sides = [known[made_by[name].input[1]] for name in reader.input[:2]]
        return integers * (_double(sides[0]) * _double(sides[1]))
    zero_point = known[node.input[2]].astype(np.int64) if len(node.input) > 2 else np.int64(0)
    if scale.size > 1:
        shape: list[int] = [1] * integers.ndim
        shape[attribute(node, "axis", 1)] = -1
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape) if zero_point.size > 1 else zero_point
    return (integers.astype(np.int64) - zero_point) * scale


def _double(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float64) if values.dtype == np.float32 else values


def _evaluate(model: onnx.ModelProto, nodes: list[onnx.NodeProto], feeds: dict[str, np.ndarray], result: str) -> np.ndarray:
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), None)
        for name, value in feeds.items()
    ]
    outputs = [helper.make_tensor_value_info(result, onnx.TensorProto.DOUBLE, None)]
    graph = helper.make_graph(nodes, "exact", inputs, outputs)
    made = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return list(ReferenceEvaluator(made).run(None, feeds))[0]
