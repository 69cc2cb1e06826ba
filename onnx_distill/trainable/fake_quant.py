"""Quantizers made trainable: each Q -> [Clip] -> DQ becomes one operator of our own with our own gradient.

    FakeQuantize(x, s, low, high, least, most) = s * clip(round(x / s), low, high)
        low = qmin - zero_point, high = qmax - zero_point; what rounds to them lies between least and most, low - 1/2 and high + 1/2

    dx = dy * m              m = (s * least <= x <= s * most)               straight-through estimator
    ds = sum dy * (y / s - m * x / s)                                          learned step size, Esser et al. 2020
       = (sum dy * y - sum dx * x) / s                                         two inner products, see lower/inner_products.py

m says that x rounds to an integer of the range, as in PyTorch's fake_quantize operators and onnxruntime's FakeQuant; Esser et al.
have the bounds at low and high themselves (docs/experiments.md: no difference after training), which the integers cannot tell.
The zero point is an integer and stays, so it drops out of both lines. s is a scalar or has one entry per channel.

    FakeQuantizeBias(b, s_x, s_w) = s * round(b / s),  s = s_x * s_w            db = dy, nothing for the scales

is the rounding that the int32 bias of the integer form will have.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Collection, Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_distill import _ort, numerics, qdq
from onnx_distill.edit import fresh_name, prune
from onnx_distill.errors import InputError
from onnx_distill.lookup import array, initializers, names, opset, producers
from onnx_distill.placement.table import PASSING, role_of
from onnx_distill.qdq import Quantizer
from onnx_distill.quantization.bias import biased_sides

DOMAIN = "onnx_distill"
FIXED = "Fixed"  # ends the name of operators whose step gets no gradient


@dataclass(frozen=True)
class FakeQuantModel:
    """A model in which every quantizer is a node of DOMAIN.

    model: parameters keep the names and shapes that they have in the QDQ model.
    quantizers: output of each FakeQuantize node -> the quantizer that it stands for.
    constants: zero points and bounds of those quantizers, which the model itself does not need.
    """

    model: onnx.ModelProto
    quantizers: dict[str, Quantizer]
    constants: tuple[onnx.TensorProto, ...]


def fake_quantized(student: onnx.ModelProto, learned: Collection[str], frozen: Collection[str] = ()) -> FakeQuantModel:
    """The QDQ model with FakeQuantize and FakeQuantizeBias nodes in place of its quantizers and its bias grid.

    learned: names of the scales that get a gradient; frozen: of the initializers that get none. Raises InputError for quantizers that cannot be trained.
    """
    made = onnx.ModelProto()
    made.CopyFrom(student)
    found = [_with_zero_point(made, q) for q in qdq.find(made)]
    for q in found:
        _check_trainable(q, initializers(made))
    constants, made_by = initializers(made), producers(made)
    repeated = {q.result for q in found if _repeats(q, found, made_by, constants)}
    nodes = {q.result: _repeat_node(q) if q.result in repeated else _node(made, q, q.scale in learned) for q in found}
    bias_nodes = _bias_nodes(made, {q.result: q for q in found}, frozen)
    for position, node in enumerate(made.graph.node):
        if node.op_type == "DequantizeLinear" and node.output[0] in nodes:
            made.graph.node[position].CopyFrom(nodes[node.output[0]])
    for node in reversed(bias_nodes):
        made.graph.node.insert(0, node)
    kept = {q.result: q for q in found if q.result not in repeated}
    settings = _quantizer_constants(made, kept.values())
    prune(made)
    made.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    used = {node.op_type for node in made.graph.node if node.domain == DOMAIN}
    made.functions.extend(_function(name, opset(made)) for name in sorted(used))
    return FakeQuantModel(made, kept, settings)


def _with_zero_point(model: onnx.ModelProto, q: Quantizer) -> Quantizer:
    """The quantizer itself, or with the zero point written out where the model leaves out one of 0."""
    if q.zero_point or q.scale not in initializers(model):
        return q
    name = fresh_name(f"{q.result}/zero_point", names(model))
    model.graph.initializer.append(
        numpy_helper.from_array(np.zeros(initializers(model)[q.scale].dims, q.integers.dtype), name)
    )
    return replace(q, zero_point=name)


def _check_trainable(q: Quantizer, constants: dict[str, onnx.TensorProto]) -> None:
    if q.stored:
        raise InputError(
            f"{q.source!r} holds integers; only float weights can be trained. Give the model that `quantize` wrote."
        )
    if q.scale not in constants:
        raise InputError(f"the scale {q.scale!r} of {q.source!r} is computed in the graph; wanted an initializer.")
    if q.axis is not None and q.source not in constants:
        raise InputError(f"activation {q.source!r} is quantized per channel; wanted one scale. Quantize it per tensor.")
    if np.unique(array(constants[q.zero_point])).size > 1:
        raise InputError(
            f"the channels of {q.source!r} have zero points of their own; wanted one for all. Quantize weights symmetrically."
        )


def _quantizer_constants(model: onnx.ModelProto, quantizers: Iterable[Quantizer]) -> tuple[onnx.TensorProto, ...]:
    constants = {**initializers(model), **{t.name: t for q in quantizers for t in qdq.bounds(q.integers)}}
    wanted = {name for q in quantizers for name in (q.zero_point, *qdq.bound_names(q.integers))}
    return tuple(constants[name] for name in sorted(wanted))


def _repeats(q: Quantizer, found: list[Quantizer], made_by: dict, constants: dict) -> bool:
    """True for the second of two quantizers of one scale with only layout operators between: it changes nothing."""
    node = made_by.get(q.source)
    while node is not None and role_of(node, constants) == PASSING:
        earlier = next((e for e in found if e.result == node.input[0]), None)
        if earlier is not None:
            return (earlier.scale, earlier.zero_point, earlier.integers) == (q.scale, q.zero_point, q.integers)
        node = made_by.get(node.input[0])
    return False


def _repeat_node(q: Quantizer) -> onnx.NodeProto:
    return helper.make_node("Identity", [q.source], [q.result], f"{q.result}/repeat")


def _node(model: onnx.ModelProto, q: Quantizer, learned: bool) -> onnx.NodeProto:
    constants = initializers(model)
    rank = len(constants[q.source].dims) if q.source in constants else 0
    zero_point = array(constants[q.zero_point]).astype(np.int32)
    per_channel = q.axis if np.ptp(zero_point) else None  # mostly all zero points are one
    zero_point = zero_point if per_channel is not None else zero_point.reshape(-1)[0]
    bounds, (low, high) = [], (q.integers.qmin - zero_point, q.integers.qmax - zero_point)
    for end in (low, high, *numerics.rounds_into(low, high)):
        name = fresh_name(f"{q.result}/bound", names(model))
        bound = numerics.broadcastable(end, rank, per_channel)
        if (
            rank and per_channel is None
        ):  # one value, of the filter's rank: the runtime is 6 times slower at [c,1,1,1] with []
            bound = bound.reshape([1] * rank)
        model.graph.initializer.append(numpy_helper.from_array(bound, name))
        bounds.append(name)
    operator = fake_quantize_operator(q.axis, rank, learned)
    return helper.make_node(operator, [q.source, q.scale, *bounds], [q.result], f"{q.result}/FakeQuantize", domain=DOMAIN)


def fake_quantize_operator(axis: int | None, rank: int, learned: bool) -> str:
    """The operator's name, one for each pattern of broadcasting and for steps learned or fixed, its gradient registered."""
    name = "FakeQuantize" if axis is None else f"FakeQuantizeAxis{axis}Of{rank}"
    nodes = _gradient(axis, rank)
    if learned:
        _ort.register_gradient(DOMAIN, name, nodes, stopped=(2, 3, 4, 5))
        return name
    until_dx = next(i for i, node in enumerate(nodes) if node[2] == ["GI(0)"]) + 1
    _ort.register_gradient(DOMAIN, name + FIXED, nodes[:until_dx], stopped=(1, 2, 3, 4, 5))
    return name + FIXED


def _gradient(axis: int | None, rank: int) -> list[_ort.GradientNode]:
    """The two lines of the module's docstring as nodes.

    The mask goes bool -> uint8 -> DequantizeLinear -> float: each of the three is vectorised in the runtime, while
    Where and Cast from bool to float are not (17 and 2.9 ms against 0.9 ms for 3.2 M values).
    """
    step = "I(1)"
    broadcast: list[_ort.GradientNode] = []
    axes: list[str] = []
    if axis is not None:
        step = "step"
        shape, others = [-1 if d == axis else 1 for d in range(rank)], [d for d in range(rank) if d != axis]
        broadcast = [("Constant", [], ["shape"], {"value": (shape, "int")}), ("Reshape", ["I(1)", "shape"], ["step"])]
        broadcast.append(("Constant", [], ["axes"], {"value": (others, "int")}))
        axes = ["axes"]
    return [
        *broadcast,
        ("Mul", [step, "I(4)"], ["least"]),
        ("Mul", [step, "I(5)"], ["most"]),
        ("GreaterOrEqual", ["I(0)", "least"], ["above"]),
        ("LessOrEqual", ["I(0)", "most"], ["below"]),
        ("And", ["above", "below"], ["inside"]),
        ("Cast", ["inside"], ["byte"], {"to": (TensorProto.UINT8, "int")}),
        ("Constant", [], ["one"], {"value": (1.0, "float")}),
        ("DequantizeLinear", ["byte", "one"], ["m"]),
        ("Mul", ["GO(0)", "m"], ["dx"]),
        ("Identity", ["dx"], ["GI(0)"]),  # what has a name of its own may be read again below
        ("Mul", ["GO(0)", "O(0)"], ["dyy"]),
        ("ReduceSum", ["dyy", *axes], ["behind"], {"keepdims": (0, "int")}),
        ("Mul", ["dx", "I(0)"], ["dxx"]),
        ("ReduceSum", ["dxx", *axes], ["before"], {"keepdims": (0, "int")}),
        ("Sub", ["behind", "before"], ["ds"]),
        ("Div", ["ds", "I(1)"], ["GI(1)"]),
    ]


def _bias_nodes(model: onnx.ModelProto, by_result: dict[str, Quantizer], frozen: Collection[str]) -> list[onnx.NodeProto]:
    constants, nodes = initializers(model), []
    for node in model.graph.node:
        sides = biased_sides(node, by_result, constants)
        if sides is None:
            continue
        operator = _bias_operator(node.input[2] in frozen)
        bias, result = node.input[2], fresh_name(f"{node.input[2]}/dequantized", names(model))
        nodes.append(
            helper.make_node(
                operator,
                [bias, sides[0].scale, sides[1].scale],
                [result],
                f"{node.name}/FakeQuantizeBias",
                domain=DOMAIN,
            )
        )
        node.input[2] = result
    return nodes


def _bias_operator(is_frozen: bool) -> str:
    if is_frozen:  # one gradient more than is asked for would be an error of the runtime
        _ort.register_gradient(DOMAIN, f"FakeQuantizeBias{FIXED}", [], stopped=(0, 1, 2))
        return f"FakeQuantizeBias{FIXED}"
    _ort.register_gradient(DOMAIN, "FakeQuantizeBias", [("Identity", ["GO(0)"], ["GI(0)"])], stopped=(1, 2))
    return "FakeQuantizeBias"


def _function(name: str, version: int) -> onnx.FunctionProto:
    """The operator's forward formula in standard operators."""
    if name.startswith("FakeQuantizeBias"):
        inputs, body = ["b", "s_x", "s_w"], ["s = Mul(s_x, s_w)", "v = Div(b, s)", "q = Round(v)", "y = Mul(q, s)"]
    else:
        inputs = ["x", "s_flat", "low", "high", "least", "most"]
        body = ["v = Div(x, s)", "r = Round(v)", "above = Max(r, low)", "q = Min(above, high)", "y = Mul(q, s)"]
        body = [_broadcast_line(name), *body]
    opsets = f'"" : {version}'
    text = f'<domain: "{DOMAIN}", opset_import: [{opsets}]> {name} ({", ".join(inputs)}) => (y) {{ {" ".join(body)} }}'
    return onnx.parser.parse_function(text)


def _broadcast_line(name: str) -> str:
    name = name[: -len(FIXED)] if name.endswith(FIXED) else name
    if name == "FakeQuantize":
        return "s = Identity(s_flat)"
    axis, rank = (int(part) for part in name[len("FakeQuantizeAxis") :].split("Of"))
    shape = ", ".join("-1" if d == axis else "1" for d in range(rank))
    return f"shape = Constant<value = int64[{rank}] {{{shape}}}>() s = Reshape(s_flat, shape)"
