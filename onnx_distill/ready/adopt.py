"""QDQ models of other tools (onnxruntime.quantization and friends) in the form that `train` trains.

Such a model stores its weights as integers with only a DequantizeLinear, biases likewise as int32. Here both become float
again: the teacher's own values where name and shape match and they round to these integers, else the dequantized ones: a student
may have been equalised or trained before. Scales and zero points stay.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnx_distill import numerics, qdq
from onnx_distill.edit import fresh_name, prune
from onnx_distill.errors import InputError
from onnx_distill.kernels.wide_sums import without_wide_sums
from onnx_distill.lookup import array, attribute, initializers, names, producers
from onnx_distill.numerics import IntegerRange
from onnx_distill.qdq import Quantizer
from onnx_distill.quantization.bias import align_biases
from onnx_distill.quantization.plain import plain_quantizers

SUFFIXES = ("_quantized", "/integers", "_QuantizeLinear")  # of stored integers: onnxruntime.quantization, this project
STORED: dict[int, IntegerRange] = {  # integers of weights; 4-bit types live on in a container of 8
    TensorProto.INT8: IntegerRange(-128, 127, "int8"),
    TensorProto.UINT8: IntegerRange(0, 255, "uint8"),
    TensorProto.INT4: IntegerRange(-8, 7, "int8"),
    TensorProto.UINT4: IntegerRange(0, 15, "uint8"),
}


def adopt(student: onnx.ModelProto, teacher: onnx.ModelProto) -> onnx.ModelProto:
    """A trainable copy of a QDQ model, cut where the teacher (a float model that ends in its logits) ends.

    A model of our own comes back as it is. Raises InputError for a model without quantizers or without the teacher's logits.
    """
    if not any(node.op_type == "DequantizeLinear" for node in student.graph.node):
        raise InputError(
            "the student has no QuantizeLinear and DequantizeLinear nodes; wanted a QDQ model. Make one with `onnx-distill quantize`."
        )
    made = onnx.ModelProto()
    made.CopyFrom(plain_quantizers(without_wide_sums(student)))
    _cut_at(made, teacher.graph.output[0])
    originals = initializers(teacher)
    stored = [node for node in made.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in initializers(made)]
    for node in stored:
        _to_float(made, node, originals)
    if stored:
        _widen(made)
        align_biases(made)
        prune(made)
    return made


def _cut_at(model: onnx.ModelProto, logits: onnx.ValueInfoProto) -> None:
    if [value.name for value in model.graph.output] == [logits.name]:
        return
    if logits.name not in producers(model):
        raise InputError(
            f"the student has no value named {logits.name!r}, the teacher's logits. Is it a student of this teacher?"
        )
    del model.graph.output[:]
    model.graph.output.append(logits)
    prune(model)


def _to_float(model: onnx.ModelProto, dequantize: onnx.NodeProto, originals: dict[str, onnx.TensorProto]) -> None:
    """Weights get their float values and a QuantizeLinear; int32 biases become plain floats."""
    constants = initializers(model)
    integers = constants[dequantize.input[0]]
    values = _float_values(integers, dequantize, constants, originals)
    if integers.data_type not in STORED:  # a bias: its float values take the place of the node
        model.graph.initializer.append(numpy_helper.from_array(values, dequantize.output[0]))
        model.graph.node.remove(dequantize)
        return
    base = next((integers.name[: -len(s)] for s in SUFFIXES if integers.name.endswith(s)), integers.name)
    name = fresh_name(base, names(model))
    model.graph.initializer.append(numpy_helper.from_array(values, name))
    rank_one = values.ndim and len(constants[dequantize.input[1]].dims) == 1 and constants[dequantize.input[1]].dims[0] > 1
    axis = attribute(dequantize, "axis", 1) % values.ndim if rank_one else None
    scale, zero_point = dequantize.input[1:3]
    quantizer = Quantizer(name, dequantize.output[0], scale, zero_point, STORED[integers.data_type], axis)
    model.graph.node.remove(dequantize)
    for node in reversed(qdq.nodes(quantizer)):
        model.graph.node.insert(0, node)
    have = set(initializers(model))
    model.graph.initializer.extend(bound for bound in qdq.bounds(quantizer.integers) if bound.name not in have)


def _widen(model: onnx.ModelProto) -> None:
    """4-bit zero points become 8-bit ones, as their weights did."""
    for tensor in model.graph.initializer:
        if tensor.data_type in (TensorProto.INT4, TensorProto.UINT4):
            tensor.CopyFrom(numpy_helper.from_array(array(tensor).astype(STORED[tensor.data_type].dtype), tensor.name))


def _float_values(integers, dequantize, constants, originals) -> np.ndarray:
    names_to_try = [integers.name] + [integers.name[: -len(s)] for s in SUFFIXES if integers.name.endswith(s)]
    original = next((originals[name] for name in names_to_try if name in originals), None)
    q = array(integers).astype(np.int32)
    per_axis = len(constants[dequantize.input[1]].dims) == 1 and constants[dequantize.input[1]].dims[0] > 1
    axis = attribute(dequantize, "axis", 1) % max(q.ndim, 1) if per_axis else None
    scale = numerics.broadcastable(array(constants[dequantize.input[1]]), q.ndim, axis)
    zero_point = np.zeros(scale.shape, np.int32)
    if len(dequantize.input) > 2:
        zero_point = np.reshape(array(constants[dequantize.input[2]]).astype(np.int32), scale.shape)
    if original is not None and original.data_type == TensorProto.FLOAT and list(original.dims) == list(integers.dims):
        values = array(original)
        return values if _rounds_to(values, q, scale, zero_point) else numerics.dequantize(q, scale, zero_point)
    return numerics.dequantize(q, scale, zero_point)


def _rounds_to(values: np.ndarray, integers: np.ndarray, scale: np.ndarray, zero_point: np.ndarray) -> bool:
    """Whether the values, clipped to the integers' own range, are these integers: to a step, for tools round and correct in ways of
    their own, and to float32 where a bias is many steps."""
    rounded = np.rint(np.asarray(values, np.float64) / scale) + zero_point
    off = np.abs(np.clip(rounded, integers.min(initial=0), integers.max(initial=0)) - integers)
    return bool(np.all(off <= 1 + 1e-6 * np.abs(integers)))
