"""Where a run of a student departs from exact arithmetic: every quantized value against clamp(round_half_even(exact)).

The exact value is computed in float64 from the very integers that its operator read in that run, so that a departure is
that operator's own and no earlier one's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from onnx_distill import model as models
from onnx_distill import numerics, qdq
from onnx_distill.model import array, consumers, initializers, producers
from onnx_distill.qdq import Quantizer

BATCH = 50  # images at a time; the exact values are float64, and im2col makes nine of each
TIE = 1e-4  # steps: float32 keeps 24 bits, so a sum that passes through a few thousand steps is off by so much
MOVING = ("Transpose", "Clip", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "MaxPool", "Identity")  # integers pass through


@dataclass(frozen=True)
class Cause:
    """One quantized value at which a run departs from exact rounding.

    operator: what computes it in the exported run. first: images in which it is the first value that differs.
    simulated, exported: elements whose integer is not the exact one, in each run. tie_distance: steps between the exact
    value of such an element and the nearest one that rounds to what was found, at most.
    """

    value: str
    operator: str
    first: int
    simulated: int
    exported: int
    tie_distance: float

    @property
    def kind(self) -> str:
        return "rounding tie" if self.explained else "UNEXPLAINED"

    @property
    def explained(self) -> bool:
        """True where the exact value lies so near to the rounding that was found that float32 decides either way."""
        return self.tie_distance <= TIE


def causes(
    exported: onnx.ModelProto,
    images: np.ndarray,
    simulated: dict[str, np.ndarray],
    deployed: dict[str, np.ndarray],
    optimized: onnx.ModelProto,
) -> list[Cause]:
    """Every value at which one of two runs departs, or which is an image's first to differ between them; in graph order.

    simulated, deployed: every activation's integers in the two runs, by name; optimized: the graph that the second was.
    """
    watched = activations(exported)
    image = models.image_input(exported).name
    known = [{image: images, **{name: run[name] for name in watched}} for run in (simulated, deployed)]
    first = _first_difference(*known, list(watched))
    found = []
    for name, quantizer in watched.items():
        a, b = (departures(exported, name, quantizer, run) for run in known)
        if first[name] or a.count or b.count:
            operator = fused_operator(optimized, name)
            found.append(Cause(name, operator, first[name], a.count, b.count, max(a.tie_distance, b.tie_distance)))
    return found


def _first_difference(a: dict[str, np.ndarray], b: dict[str, np.ndarray], names: list[str]) -> dict[str, int]:
    """Value -> images in which it is the first, in the order of `names`, that differs."""
    seen, first = np.zeros(len(a[names[0]]), bool), {}
    for name in names:
        new = (a[name] != b[name]).reshape(len(seen), -1).any(axis=1) & ~seen
        first[name] = int(new.sum())
        seen |= new
    return first


def fused_operator(optimized: onnx.ModelProto, value: str) -> str:
    """The operator that computes a value's integers in the graph that the runtime made."""
    made_by = producers(optimized)
    node = made_by.get(value)
    while node is not None and node.op_type in MOVING:
        node = made_by.get(node.input[0])
    return node.op_type if node is not None else "none"


def activations(model: onnx.ModelProto) -> dict[str, Quantizer]:
    """Name of the integers -> their quantizer, for every quantized activation in graph order."""
    constants, made_by = initializers(model), producers(model)
    found = [q for q in qdq.find(model) if not q.stored and q.source not in constants]
    return {made_by[q.result].input[0]: q for q in found}


def exact_steps(model: onnx.ModelProto, quantizer: Quantizer, known: dict[str, np.ndarray]) -> np.ndarray:
    """The quantizer's input in its own steps, before rounding and zero point; float64.

    known: the image and every activation's integers, by name. The operators up to the next DequantizeLinear run in float64;
    an int32 bias counts in steps of input scale times weight scale, not of their product in float32.
    """
    made_by, wanted, feeds, stack = producers(model), set(), {}, [quantizer.source]
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
    real = _evaluate(model, nodes, feeds, quantizer.source) if nodes else feeds[quantizer.source]
    return real / _double(numerics.broadcastable(known[quantizer.scale], real.ndim, quantizer.axis))


def _dequantized(model: onnx.ModelProto, node: onnx.NodeProto, known: dict[str, np.ndarray]) -> np.ndarray:
    integers, scale = known[node.input[0]], _double(known[node.input[1]])
    if integers.dtype == np.int32:
        made_by, reader = producers(model), consumers(model)[node.output[0]][0]
        sides = [known[made_by[name].input[1]] for name in reader.input[:2]]
        return integers * (_double(sides[0]) * _double(sides[1]))
    zero_point = known[node.input[2]].astype(np.int64) if len(node.input) > 2 else np.int64(0)
    if scale.size > 1:
        shape = [1] * integers.ndim
        shape[models.attribute(node, "axis", 1)] = -1
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
    return ReferenceEvaluator(made).run(None, feeds)[0]


@dataclass(frozen=True)
class Departures:
    """Elements of a value whose integer is not the exact one: how many, and the largest tie distance."""

    count: int
    tie_distance: float


def departures(model: onnx.ModelProto, integers: str, quantizer: Quantizer, known: dict[str, np.ndarray]) -> Departures:
    """How one value of a run departs from clamp(round_half_even(exact)); known: all integers of that run, and the image."""
    zero_point = array(initializers(model)[quantizer.zero_point]).astype(np.int64) if quantizer.zero_point else 0
    low, high = quantizer.integers.qmin - zero_point, quantizer.integers.qmax - zero_point
    count, furthest = 0, 0.0
    for i in range(0, len(known[integers]), BATCH):
        part = {name: value[i : i + BATCH] for name, value in known.items()}
        exact = np.clip(exact_steps(model, quantizer, part), low, high)
        found = part[integers].astype(np.int64) - zero_point
        off = found != np.rint(exact)
        count += int(off.sum())
        furthest = max(furthest, float((np.abs(exact - found)[off] - 0.5).max(initial=0.0)))
    return Departures(count, furthest)
