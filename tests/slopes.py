"""A gradient beside the slope of the outputs: the runtime's, given by our rules, and a central difference in float64.

    loss = sum(R * y), R fixed; slope(d) = (loss(p + e d) - loss(p - e d)) / 2e = gradient . d for a random direction d

Outputs are those of onnx's reference evaluator, in float64: nothing of the runtime's, and exact enough for a step of 1e-6.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from onnx_distill import _ort
from onnx_distill.gradients import differentiable

STEP = 1e-6


class LRN(OpRun):
    """onnx's own normalizes as many channels as the batch has images (1.23)."""

    def _run(self, x, alpha=None, beta=None, bias=None, size=None):
        squares = np.pad(x * x, [(0, 0), ((size - 1) // 2, size // 2), *[(0, 0)] * (x.ndim - 2)])
        windows = sum(squares[:, k : k + x.shape[1]] for k in range(size))
        return (x / (bias + alpha / size * windows) ** beta,)


class Erf(OpRun):
    """onnx's own computes in float32."""

    def _run(self, x):
        return (np.vectorize(math.erf)(x).astype(x.dtype),)


class Gelu(OpRun):
    op_domain = ""

    def _run(self, x, approximate=None):
        if approximate == "tanh":
            return (x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),)
        return (x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),)


def slope_error(model: onnx.ModelProto, parameter: str, gradient: np.ndarray, x: np.ndarray, r: np.ndarray) -> float:
    """|slope - gradient . d| over the size of gradient * d."""
    direction = np.random.default_rng(7).standard_normal(gradient.shape)
    ends = [_loss(model, {parameter: sign * STEP * direction}, x, r) for sign in (1, -1)]
    products = gradient.astype(np.float64) * direction
    size = max(float(np.sqrt((products**2).sum())), abs(ends[0] - ends[1]) / (2 * STEP), 1e-12)
    return abs((ends[0] - ends[1]) / (2 * STEP) - products.sum()) / size


def _loss(model: onnx.ModelProto, moved: dict[str, np.ndarray], x: np.ndarray, r: np.ndarray) -> float:
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for tensor in wide.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor).astype(np.float64) + moved.get(tensor.name, 0)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in [*wide.graph.input, *wide.graph.output]:
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    y = ReferenceEvaluator(wide, new_ops=[LRN, Erf, Gelu]).run(None, {wide.graph.input[0].name: x.astype(np.float64)})[0]
    return float((y * r).sum())


def gradients(model: onnx.ModelProto, parameters: list[str], x: np.ndarray, r: np.ndarray) -> dict[str, np.ndarray]:
    """Of the loss, by the training runtime with our rules."""

    def add_loss(graph, name):
        graph.initializer.append(numpy_helper.from_array(r, "r"))
        graph.node.append(helper.make_node("Mul", [name, "r"], ["product"], "product"))
        graph.node.append(helper.make_node("ReduceSum", ["product"], ["loss"], "loss", keepdims=0))
        return "loss"

    with tempfile.TemporaryDirectory() as folder:
        _ort.generate_artifacts(differentiable(model, parameters), parameters, add_loss, Path(folder), [])
        module, state = _ort.open_module(Path(folder), 1)
        module.lazy_reset_grad()
        module(x)
        return {name: np.array(state.parameters[name].grad) for name in parameters}


def worst_slope_error(model: onnx.ModelProto, parameters: list[str], seed: int = 0) -> float:
    """The largest slope_error of the parameters, on random images of the shape that the model declares."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal([d.dim_value or 2 for d in model.graph.input[0].type.tensor_type.shape.dim]).astype(np.float32)
    y = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: x})[0]
    r = rng.standard_normal(y.shape).astype(np.float32)
    found = gradients(model, parameters, x, r)
    return max(slope_error(model, name, found[name], x, r) for name in parameters)
