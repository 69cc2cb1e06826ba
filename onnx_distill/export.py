"""Integers: weights of a QDQ student become int8 and biases int32 initializers, Q/DQ stay where runtimes fuse them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_distill import numerics, qdq
from onnx_distill.edit import fresh_name, prune
from onnx_distill.errors import InputError
from onnx_distill.kernels.sum_guards import guard_sums
from onnx_distill.kernels.wide_sums import widen_sums
from onnx_distill.lookup import array, initializers, names, opset, producers
from onnx_distill.normalize.opset import to_opset
from onnx_distill.qdq import Quantizer
from onnx_distill.quantization.bias import align_biases, biased_sides
from onnx_distill.targets import DEFAULT, TARGETS, Target

INT4_OPSET = 21  # the first whose DequantizeLinear reads 4-bit integers
UNSIGNED = 128  # zero point of signed integers that are stored as unsigned ones


INT4 = numerics.weight_range(4)


def export(student: onnx.ModelProto, target: Target = TARGETS[DEFAULT], weight_storage: str = "int8") -> onnx.ModelProto:
    """The QDQ student with integer weights and biases, as the target wants them; computes what the student computes.

    weight_storage: int4 keeps weights of 4 bits and fewer two to a byte, which wants opset 21 (onnxruntime 1.20 or newer), as sums for OpenVINO do.
    Raises InputError where the student was quantized for something that the target cannot run.
    """
    made = onnx.ModelProto()
    made.CopyFrom(student)
    align_biases(made)
    quantizers = qdq.find(made)
    check_target(made, quantizers, target)
    packed = weight_storage == "int4"
    if packed and opset(made) < INT4_OPSET:
        made = to_opset(made, INT4_OPSET)
    taken = names(made)  # once: all names of a large network for each of its quantizers were a third of the work
    if target.bias == "int32":
        _store_biases(made, {q.result: q for q in quantizers}, taken)
    constants, made_by = initializers(made), producers(made)
    for q in quantizers:
        if q.source in constants and not q.stored:
            stored = _stored(q, constants, target, packed and q.integers.qmax <= INT4.qmax, taken)
            _read_stored(made_by[q.result], q, stored)
            made.graph.initializer.extend(stored)
    if target.wide_sums:
        guard_sums(made, quantizers, taken)
        widen_sums(made, taken)
    prune(made)
    return made


def check_target(model: onnx.ModelProto, quantizers: list[Quantizer], target: Target) -> None:
    """Raises InputError where a quantizer is not what the target runs: such a student must be quantized for it."""
    constants = initializers(model)
    for q in quantizers:
        weight = q.source in constants
        zero_point = array(constants[q.zero_point]) if q.zero_point else np.int32(0)
        found = ""
        if weight and q.integers.dtype == "int8" and q.integers.qmax > target.weight_limit and not q.stored:
            found = f"weights to {q.integers.qmax}"
        elif target.symmetric and np.any(zero_point):
            found = f"a zero point of {int(np.max(zero_point))}"
        elif not target.clips and not weight and not q.integers.fills_container:
            found = f"integers {q.integers.qmin} to {q.integers.qmax} in {q.integers.dtype}"
        if found:
            raise InputError(
                f"{q.source!r} has {found}, which {target.name} does not run; quantize and train with --target {target.name}."
            )


def _stored(
    q: Quantizer, constants: dict[str, onnx.TensorProto], target: Target, packed: bool, taken: set[str]
) -> list[onnx.TensorProto]:
    """Integers in place of the float weight: two to a byte (packed), or in 8 bits, moved by 128 for unsigned ones; behind them
    their zero point, where it is another than the quantizer's."""
    weights = array(constants[q.source])
    scale = numerics.broadcastable(array(constants[q.scale]), weights.ndim, q.axis)
    zero_point = array(constants[q.zero_point]).astype(np.int32) if q.zero_point else np.int32(0)
    zero_point = zero_point.reshape(scale.shape) if np.ndim(zero_point) else zero_point
    integers = numerics.quantize(weights, scale, zero_point, q.integers.qmin, q.integers.qmax)
    stored, zero = fresh_name(f"{q.source}/integers", taken), fresh_name(f"{q.source}/stored_zero_point", taken)
    points = np.broadcast_to(zero_point, np.shape(array(constants[q.scale]))) if np.ndim(zero_point) == 0 else zero_point
    points = points.reshape(np.shape(array(constants[q.scale])))
    if packed:
        return [_tensor(stored, integers, TensorProto.INT4), _tensor(zero, points, TensorProto.INT4)]
    if target.weights == "uint8":
        return [_tensor(n, v + UNSIGNED, TensorProto.UINT8) for n, v in ((stored, integers), (zero, points))]
    return [numpy_helper.from_array(integers.astype(q.integers.dtype), stored)]


def _read_stored(dequantize: onnx.NodeProto, q: Quantizer, stored: list[onnx.TensorProto]) -> None:
    zero = stored[1].name if len(stored) > 1 else q.zero_point
    del dequantize.input[2:]
    dequantize.input[0] = stored[0].name
    dequantize.input.extend([zero] if zero else [])


def _tensor(name: str, values: Any, kind: int) -> onnx.TensorProto:
    content = np.asarray(values, np.uint8 if kind == TensorProto.UINT8 else np.int8)
    packed = _two_a_byte(content) if kind == TensorProto.INT4 else content
    return TensorProto(name=name, data_type=kind, dims=content.shape, raw_data=packed.tobytes())


def _two_a_byte(values: np.ndarray) -> np.ndarray:
    """uint8 [ceil(n / 2)], the first of two in the low half, as ONNX wants it. Not helper.make_tensor: it writes int32_data, in
    which protobuf takes two bytes for every byte from 128 on."""
    nibbles = values.ravel().view(np.uint8) & 15
    nibbles = np.append(nibbles, np.uint8(0)) if len(nibbles) % 2 else nibbles
    return nibbles[::2] | nibbles[1::2] << 4


def _store_biases(model: onnx.ModelProto, by_result: dict[str, Quantizer], taken: set[str]) -> None:
    constants, first = initializers(model), []
    for node in model.graph.node:
        sides = biased_sides(node, by_result, constants)
        if sides is None:
            continue
        scales = [array(constants[q.scale]) for q in sides]
        bias = node.input[2]
        integers = numerics.quantize_bias(array(constants[bias]), *scales)
        step = (scales[0] * scales[1]).astype(np.float32)
        stored, scale, result = (fresh_name(f"{bias}/{part}", taken) for part in ("integers", "scale", "dequantized"))
        model.graph.initializer.extend(
            [numpy_helper.from_array(integers, stored), numpy_helper.from_array(np.asarray(step), scale)]
        )
        axis: dict[str, Any] = {"axis": 0} if step.ndim else {}
        first.append(helper.make_node("DequantizeLinear", [stored, scale], [result], f"{bias}/DequantizeLinear", **axis))
        node.input[2] = result
    for node in reversed(first):
        model.graph.node.insert(0, node)
