"""Sums that OpenVINO runs inside the convolution in front of them: a quantizer of 16 bits stands between the two.

    Conv(x, w, b)         ----------------> Add <- DequantizeLinear <- ...     Add -> QuantizeLinear
    Conv(x, w / 2, b / 2) -> Q16 -> DQ16 -> Add <- DequantizeLinear <- ...

OpenVINO's CPU plugin fuses a sum with a convolution only where a quantizer stands between them (snippets_mark_skipped.cpp), and with
that quantizer it then clips and does not round (conv.cpp, 2026.4). So it runs the sum of floats that the student was trained with, in
the very primitives that it takes for two quantized operands. With 8 bits the file would mean something else to everyone who does
round; 16 move a sum by (1 + the operand's step / the sum's) / 514 of a step at most. Quantizers of 16 bits are taken out before
(qdq_stripping.cpp), unless their two sides have ranges of their own: hence the half, which loses nothing, and a scale twice as large
behind.

Nothing is cut off that matters: the quantizer behind the sum takes lowest to highest, what is added lies between least and most, and a
convolution's result beyond lowest - most and highest - least ends at the same integers as these.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_distill import qdq
from onnx_distill.edit import fresh_name, insert_before, prune
from onnx_distill.errors import InputError
from onnx_distill.lookup import array, consumers, initializers, names, producers
from onnx_distill.normalize.opset import to_opset
from onnx_distill.placement.table import ABSORBED, PLACEMENT
from onnx_distill.qdq import Quantizer

OPSET = 21  # the first whose QuantizeLinear makes 16-bit integers
RATIO = np.float32(2)
LEVELS = 2**16

Sum = tuple[onnx.NodeProto, onnx.NodeProto, Quantizer, Quantizer]  # Conv, Add, quantizer of the other operand, of the sum


def widen_sums(model: onnx.ModelProto, taken: set[str]) -> None:
    """Put the quantizer, in place, between each convolution in integers and the sum that alone reads it, as floats.

    The model's opset becomes 21; where that cannot be nothing changes, and such sums stay operators of their own.
    taken: every name in the model, to which those of the new values are added.
    """
    if not any(_sums(model)):
        return
    try:
        to_opset(model, OPSET)
    except InputError:
        return
    made_by, constants = producers(model), initializers(model)
    before: dict[str, list[onnx.NodeProto]] = {}
    for conv, add, other, behind in list(_sums(model)):
        for name in conv.input[1:]:
            _scaled(model, made_by[name], 1 / RATIO, constants, taken)
        lowest, highest = _range(behind, constants)
        least, most = _range(other, constants)
        before[add.output[0]] = _wide(model, conv.output[0], lowest - most, highest - least, taken)
        add.input[:] = [before[add.output[0]][-1].output[0] if n == conv.output[0] else n for n in add.input]
    insert_before(model, before)


def without_wide_sums(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as it was before widen_sums, but for its opset: what OpenVINO computes. The model itself where there are none."""
    if not any(qdq.wide_pairs(model)):
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made_by, readers, constants, taken = producers(made), consumers(made), initializers(made), names(made)
    for quantize, dequantize in qdq.wide_pairs(made):
        conv, (add,) = made_by[quantize.input[0]], readers[dequantize.output[0]]
        for name in conv.input[1:]:
            _scaled(made, made_by[name], RATIO, constants, taken)
        add.input[:] = [conv.output[0] if name == dequantize.output[0] else name for name in add.input]
    prune(made)
    return made


def rounding(model: onnx.ModelProto) -> dict[str, float]:
    """Integers of a sum behind a wide quantizer -> steps by which its rounding moves the sum, at most."""
    readers, constants, found = consumers(model), initializers(model), {}
    by_source = {q.source: q for q in qdq.find(model)}
    for _, dequantize in qdq.wide_pairs(model):
        behind, quantize = _behind(readers[dequantize.output[0]][0], readers, by_source)
        if behind is not None and quantize is not None:
            step = float(array(constants[behind.scale]).reshape(()))
            found[quantize.output[0]] = float(array(constants[dequantize.input[1]])) / 2 / step
    return found


def _sums(model: onnx.ModelProto) -> Iterator[Sum]:
    """Each sum of a convolution in integers that nothing else reads and another activation, behind which stand 8 bits."""
    made_by, readers, constants = producers(model), consumers(model), initializers(model)
    for output in model.graph.output:  # read by whoever runs the model
        readers.setdefault(output.name, []).append(onnx.NodeProto())
    quantizers = qdq.find(model)
    by_result = {q.result: q for q in quantizers if q.source not in constants and not q.stored}
    by_source = {q.source: q for q in quantizers}
    for add in model.graph.node:
        if add.op_type != "Add" or add.input[0] == add.input[1]:
            continue
        behind, _ = _behind(add, readers, by_source)
        for name, beside in zip(list(add.input), list(add.input)[::-1]):
            conv, other = made_by.get(name), by_result.get(beside)
            if conv is None or other is None or behind is None or len(readers[name]) != 1:
                continue
            full = _is_full(other, constants) and _is_full(behind, constants)
            if full and qdq.is_integer_conv(conv, made_by, readers, constants):
                yield conv, add, other, behind


def _behind(add: onnx.NodeProto, readers: dict, by_source: dict) -> tuple[Quantizer | None, onnx.NodeProto | None]:
    """The quantizer that alone reads a sum, behind what it cuts off anyway, and its QuantizeLinear; None: there is another reader."""
    nodes = readers.get(add.output[0], [])
    while len(nodes) == 1 and PLACEMENT.get(nodes[0].op_type) == ABSORBED:
        nodes = readers.get(nodes[0].output[0], [])
    if len(nodes) != 1 or nodes[0].op_type != "QuantizeLinear":
        return None, None
    return by_source.get(nodes[0].input[0]), nodes[0]


def _is_full(q: Quantizer, constants: dict) -> bool:
    """Whether it is one of 8 bits for a whole tensor: with fewer a Clip stands in it, and OpenVINO fuses no sum."""
    return q.integers.fills_container and array(constants[q.scale]).size == 1


def _range(q: Quantizer, constants: dict) -> tuple[float, float]:
    scale = float(array(constants[q.scale]).reshape(()))
    zero_point = int(array(constants[q.zero_point]).reshape(())) if q.zero_point else 0
    return scale * (q.integers.qmin - zero_point), scale * (q.integers.qmax - zero_point)


def _scaled(
    model: onnx.ModelProto, dequantize: onnx.NodeProto, factor: np.float32, constants: dict, taken: set[str]
) -> None:
    """Give a constant's DequantizeLinear a scale of its own, by the factor larger."""
    scale = dequantize.input[1]
    dequantize.input[1] = fresh_name(f"{dequantize.output[0]}/scale", taken)
    constants[dequantize.input[1]] = numpy_helper.from_array(array(constants[scale]) * factor, dequantize.input[1])
    model.graph.initializer.append(constants[dequantize.input[1]])


def _wide(model: onnx.ModelProto, value: str, low: float, high: float, taken: set[str]) -> list[onnx.NodeProto]:
    """The pair of nodes for a value that lies between low and high once it is no longer halved."""
    half_step = np.float32((high - low) / (LEVELS - 1)) / RATIO
    zero_point = np.array(np.clip(np.rint(-low / (half_step * RATIO)), 0, LEVELS - 1), np.uint16)
    parts = {"half_step": half_step, "step": half_step * RATIO, "zero_point": zero_point}
    names = {part: fresh_name(f"{value}/wide_{part}", taken) for part in parts}
    model.graph.initializer.extend([numpy_helper.from_array(np.asarray(v), names[part]) for part, v in parts.items()])
    integers, result = (fresh_name(f"{value}/{part}", taken) for part in ("wide", "widened"))
    return [
        helper.make_node("QuantizeLinear", [value, names["half_step"], names["zero_point"]], [integers], f"{value}/WideQ"),
        helper.make_node("DequantizeLinear", [integers, names["step"], names["zero_point"]], [result], f"{value}/WideDQ"),
    ]
