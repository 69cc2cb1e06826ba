"""Steps of sums with a constant, moved a little so that no integer of the operand is a tie of rounding.

    y = round((q_u - z_u) * s_u / s + k / s)          Add(u, k), with k a constant: a tie where the exact sum is an integer + 1/2

HardSwish's gate, Clip(u + c, 0, 2 c) in 255 steps, has c at 127.5 of them, so that every u of 0 is a tie: float32 rounds it up in
one runtime and down in another. There the product u * gate is 0 either way, so no answer hung on it; but these were 3,000 integers
an image of a MobileNetV3, nearly all that `verify` traced, and hid the few that matter. As k is the same everywhere, all that can
come of an 8-bit u are 256 sums, and a step that is 0.002 % larger mostly has none of them at a tie.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_distill import numerics, qdq
from onnx_distill.lookup import array, initializers, producers
from onnx_distill.placement.table import ABSORBED, PLACEMENT
from onnx_distill.qdq import Quantizer

CLEAR = 1e-3  # steps: float32 is off by 1e-5 in a sum of 255, and verify calls 1e-4 a tie
SMALLEST_CHANGE, CHANGES = 2e-5, 50  # relative; at most 0.1 %, a quarter of a step at the end of 255


def avoid_ties(model: onnx.ModelProto) -> None:
    """Change, in place, the steps of sums with a constant so that every sum is CLEAR of a tie: to the nearest step for which
    that is so, else to the clearest. Steps that are so already stay."""
    made_by, constants = producers(model), initializers(model)
    by_result = {q.result: q for q in qdq.find(model)}
    for q in by_result.values():
        operands = _operands(q, made_by, by_result, constants)
        if operands is not None:
            moved = _moved(_sums(*operands, constants), q, constants)
            constants[q.scale].CopyFrom(numpy_helper.from_array(moved, q.scale))


def clearance(sums: np.ndarray, step: float, low: int, high: int) -> float:
    """Steps from a tie to the sum that is nearest to one (at most 0.5), of the real sums within low..high steps; the rest is clipped."""
    steps = sums / np.float64(step)
    steps = steps[(low < steps) & (steps < high)]
    return float(np.abs(steps - np.floor(steps) - 0.5).min(initial=0.5))


def _operands(q: Quantizer, made_by: dict, by_result: dict, constants: dict) -> tuple[Quantizer, Quantizer] | None:
    """The quantizers of activation and constant where q quantizes their sum, or a Relu or Clip of it; else None."""
    node = made_by.get(q.source)
    while node is not None and PLACEMENT.get(node.op_type) == ABSORBED:
        node = made_by.get(node.input[0])
    if node is None or node.op_type != "Add":
        return None
    sides = [by_result[name] for name in node.input if name in by_result]
    free, fixed = ([q for q in sides if (q.source in constants) == wanted] for wanted in (False, True))
    return (free[0], fixed[0]) if free and fixed else None


def _sums(activation: Quantizer, constant: Quantizer, constants: dict) -> np.ndarray:
    """Every real sum that the operator can be asked for, float64."""
    integers = np.arange(activation.integers.qmin, activation.integers.qmax + 1)
    return np.add.outer(
        _real(integers, activation, constants), _real(_integers(constant, constants), constant, constants)
    ).ravel()


def _integers(q: Quantizer, constants: dict) -> np.ndarray:
    values = array(constants[q.source])
    scale, zero_point = (array(constants[name]) for name in (q.scale, q.zero_point))
    return np.unique(numerics.quantize(values, scale, zero_point, q.integers.qmin, q.integers.qmax))


def _real(integers: np.ndarray, q: Quantizer, constants: dict) -> np.ndarray:
    scale, zero_point = float(array(constants[q.scale])), int(array(constants[q.zero_point]))
    return (integers.astype(np.float64) - zero_point) * scale


def _moved(sums: np.ndarray, q: Quantizer, constants: dict) -> np.ndarray:
    """The step of q, float32."""
    step, zero_point = array(constants[q.scale]), int(array(constants[q.zero_point]))
    ends = q.integers.qmin - zero_point, q.integers.qmax - zero_point
    changes = sorted(np.arange(-CHANGES, CHANGES + 1), key=lambda i: (abs(i), i < 0))
    tried = [np.float32(step * (1 + i * SMALLEST_CHANGE)) for i in changes]
    clear = [clearance(sums, float(each), *ends) for each in tried]
    good = next((i for i, found in enumerate(clear) if found >= CLEAR), int(np.argmax(clear)))
    return np.asarray(tried[good], np.float32)
