"""The unit in which each parameter is learned: how far it has to move to move what its layer computes by about a rounding error.

    weight           s_w                                     its own quantization step, one a channel
    bias             s_w * range(x) / 6 * sqrt(fan-in)       a rounding error of each of the weights beside it, gathered at the output
    step             STEP / levels                           relative; the ends of the range then move by about STEP of a step
    kept in floats   rms(values) / FLOAT_STEPS               as if its values were rounded to so many steps

s_w has one entry a channel, range(x) is that of the layer's quantized input, whose typical value is about a sixth of it, levels
are qmax - qmin. One learning rate then means the same in every layer, at every width of integers, in every network: scaling a layer
by c and the next one by 1/c scales values, gradients (by 1/c and c) and units alike, so that Adam's updates are the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import onnx

from onnx_distill import numerics, qdq
from onnx_distill.lookup import array, initializers
from onnx_distill.qdq import Quantizer
from onnx_distill.quantization.bias import biased_sides

TYPICAL = 6.0  # a layer's input is about this much smaller than its range: rms of a Relu's output below 8 bits of clipping
STEP = 1.5  # rates of steps were chosen at 4 bits, where this is 0.1 a level
FLOAT_STEPS = 64  # values without a quantizer
SMALLEST = 1e-12  # units of constants that are 0


def natural_units(student: onnx.ModelProto, values: Iterable[str], steps: Iterable[str]) -> dict[str, np.ndarray]:
    """Parameter -> float32 unit that broadcasts against it: in its own size, that of a step relative to the step.

    values: names of the weights and biases of a QDQ model that are learned; steps: of the scales.
    """
    constants, found = initializers(student), qdq.find(student)
    by_source, by_scale = {q.source: q for q in found}, {q.scale: q for q in reversed(found)}
    biases = _bias_units(student, found, constants)
    units: dict[str, np.ndarray] = {}
    for name in values:
        tensor, q = array(constants[name]), by_source.get(name)
        if q is not None:
            units[name] = numerics.broadcastable(array(constants[q.scale]), tensor.ndim, q.axis)
        else:
            units[name] = biases.get(name, _float_unit(tensor))
    for name in steps:
        integers = by_scale[name].integers
        units[name] = np.array(STEP / (integers.qmax - integers.qmin), np.float32)
    return {name: np.maximum(np.asarray(unit, np.float32), np.float32(SMALLEST)) for name, unit in units.items()}


def _bias_units(student: onnx.ModelProto, found: list[Quantizer], constants: dict) -> dict[str, np.ndarray]:
    by_result, units = {q.result: q for q in found}, {}
    for node in student.graph.node:
        sides = biased_sides(node, by_result, constants)
        if sides is not None:
            units[node.input[2]] = _bias_unit(*sides, constants)
    return units


def _bias_unit(activation: Quantizer, weight: Quantizer, constants: dict) -> np.ndarray:
    weights, step = constants[weight.source], array(constants[weight.scale]).astype(np.float32)
    span = float(array(constants[activation.scale])) * (activation.integers.qmax - activation.integers.qmin)
    outputs = weights.dims[weight.axis] if weight.axis is not None else 1
    return step * np.float32(span / TYPICAL * math.sqrt(math.prod(weights.dims) / outputs))


def _float_unit(values: np.ndarray) -> np.ndarray:
    return np.array(math.sqrt(float(np.square(values, dtype=np.float64).mean())) / FLOAT_STEPS, np.float32)
