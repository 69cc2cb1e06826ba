"""Quantizers put into a float model: the plan of placement/ and calibrated ranges become a plain QDQ model.

The result runs at once on stock runtimes (the PTQ baseline) and is what `train` trains. Its biases already lie on the
grid of the integer accumulator, so that it computes what its exported form computes.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_distill import numerics, qdq
from onnx_distill.config import QuantizeConfig
from onnx_distill.edit import fresh_name, prune
from onnx_distill.errors import InputError
from onnx_distill.lookup import array, attribute, data_inputs, initializers, names, opset, producers
from onnx_distill.normalize import opset as opsets
from onnx_distill.placement import ActivationSite, Plan, WeightSite
from onnx_distill.qdq import Quantizer
from onnx_distill.quantization.bias import align_biases
from onnx_distill.quantization.ties import avoid_ties

FINE = 64  # steps on either side of 0: the largest weight decides, for clipping it would cost more than it gains
OLDEST_IR = 8  # initializers need not be graph inputs


def quantize(
    model: onnx.ModelProto, plan: Plan, ranges: dict[str, tuple[float, float]], config: QuantizeConfig
) -> onnx.ModelProto:
    """The float model with Q/DQ at every site of the plan; ranges give the real low and high of each activation."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    constants = initializers(made)
    weights = [_weight_quantizer(made, site, array(constants[site.value]), config) for site in plan.weights]
    ranges = {**ranges, **{site.value: _own_range(array(constants[site.value])) for site in plan.constants}}
    sites = [*plan.activations, *plan.constants]
    activations = {site.value: _activation_quantizer(made, site, ranges[site.value], config) for site in sites}
    shared = [_alias_quantizer(value, activations[root]) for value, root in plan.aliases.items()]
    quantizers = [*weights, *activations.values(), *shared]
    _check_names(model, quantizers)
    _insert(made, quantizers)
    avoid_ties(made)
    for site in plan.activations:
        _absorb(made, site, activations[site.value])
    _keep_output_names(made, {q.source: q for q in quantizers})
    align_biases(made)
    prune(made)
    return made


def with_quantizable_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that quantizers can be put into: opset 13 or newer, every Constant node an initializer, and no initializer a
    graph input, for the runtime fuses nothing whose weights a caller may override.

    A model whose opset is too old for per-channel quantizers is converted to 17, one newer than the runtime's to 21. Raises
    InputError if it cannot be.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    if not opsets.USABLE <= opset(made) <= opsets.NEWEST:
        opsets.into_range(made)
    made.ir_version = max(made.ir_version, OLDEST_IR)
    _lift_constants(made)
    images = data_inputs(made)
    del made.graph.input[:]
    made.graph.input.extend(images)
    return made


def _lift_constants(model: onnx.ModelProto) -> None:
    nodes, outputs = [], {value.name for value in model.graph.output}
    for node in model.graph.node:
        value = attribute(node, "value") if node.op_type == "Constant" and node.output[0] not in outputs else None
        if value is None:
            nodes.append(node)
        else:
            model.graph.initializer.append(value)
            model.graph.initializer[-1].name = node.output[0]
    _set_nodes(model, nodes)


def _weight_quantizer(model, site: WeightSite, weights: np.ndarray, config: QuantizeConfig) -> Quantizer:
    estimate = numerics.max_weight_scale if site.integers.qmax >= FINE else numerics.mse_weight_scale
    scale = estimate(weights, site.axis, site.integers.qmax)
    return _new_quantizer(model, site.value, site.integers, scale, 0, site.axis)


def _own_range(values: np.ndarray) -> tuple[float, float]:
    return float(values.min(initial=0.0)), float(values.max(initial=0.0))


def _activation_quantizer(model, site: ActivationSite, limits: tuple[float, float], config: QuantizeConfig) -> Quantizer:
    scale, zero_point = numerics.range_scale(*limits, site.integers, bool(config.symmetric))
    if qdq.wants_power_of_two(producers(model).get(site.value)):
        scale = np.exp2(np.rint(np.log2(scale)))
    return _new_quantizer(model, site.value, site.integers, scale, zero_point, None)


def _new_quantizer(model, value: str, integers, scale, zero_point: int, axis) -> Quantizer:
    zero_points = np.full(np.shape(scale), zero_point, integers.dtype)
    for name, content in ((f"{value}/scale", np.asarray(scale, np.float32)), (f"{value}/zero_point", zero_points)):
        model.graph.initializer.append(numpy_helper.from_array(content, name))
    return Quantizer(value, f"{value}/dequantized", f"{value}/scale", f"{value}/zero_point", integers, axis)


def _alias_quantizer(value: str, root: Quantizer) -> Quantizer:
    return Quantizer(value, f"{value}/dequantized", root.scale, root.zero_point, root.integers)


def _insert(model: onnx.ModelProto, quantizers: list[Quantizer]) -> None:
    """Write the quantizers' nodes behind what they read, and turn every reader to the quantized value."""
    result = {q.source: q.result for q in quantizers}
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = result.get(name, name)
    by_source = {q.source: q for q in quantizers}
    made = {name for node in model.graph.node for name in node.output}
    ordered = [n for q in quantizers if q.source not in made for n in qdq.nodes(q)]
    for node in model.graph.node:
        ordered.append(node)
        ordered += [n for name in node.output if name in by_source for n in qdq.nodes(by_source[name])]
    _add_bounds(model, quantizers)
    _set_nodes(model, ordered)


def _check_names(model: onnx.ModelProto, quantizers: list[Quantizer]) -> None:
    taken = names(model)
    tensors = {name for q in quantizers for name in (q.scale, q.zero_point, *qdq.bound_names(q.integers))}
    made = {name for q in quantizers for node in qdq.nodes(q) for name in (node.name, *node.output)}
    clashes = sorted(taken & (tensors | made))
    if clashes:
        raise InputError(
            f"the model already has a value or node named {clashes[0]!r}, a name that a quantizer needs; rename it."
        )


def _add_bounds(model: onnx.ModelProto, quantizers: list[Quantizer]) -> None:
    needed = {q.integers for q in quantizers if not q.integers.fills_container}
    tensors = {t.name: t for integers in needed for t in qdq.bounds(integers)}
    model.graph.initializer.extend(tensors[name] for name in sorted(tensors))


def _set_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    copies = [onnx.NodeProto() for _ in nodes]
    for copy, node in zip(copies, nodes):
        copy.CopyFrom(node)
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _keep_output_names(model: onnx.ModelProto, by_source: dict[str, Quantizer]) -> None:
    """A quantized graph output keeps its name: the float value before it is renamed."""
    taken = names(model)
    for output in sorted({value.name for value in model.graph.output} & set(by_source)):
        renamed = {output: fresh_name(f"{output}/float", taken), by_source[output].result: output}
        for node in model.graph.node:
            for field in (node.input, node.output):
                for position, name in enumerate(field):
                    field[position] = renamed.get(name, name)


def _absorb(model: onnx.ModelProto, site: ActivationSite, quantizer: Quantizer) -> None:
    """Let the quantizer read what its Relu or Clip reads, as far up as the integer range clips as tightly."""
    made_by = producers(model)
    reader = next(n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == site.value)
    node = made_by.get(site.value)
    while node is not None and node.name in site.absorbed and _clips_as_tightly(model, node, quantizer):
        reader.input[0] = node.input[0]
        node = made_by.get(node.input[0])


def _clips_as_tightly(model: onnx.ModelProto, node: onnx.NodeProto, q: Quantizer) -> bool:
    """The ends of the integer range lie within the bounds, or beyond by no more than rounding is off: half a step."""
    constants = initializers(model)
    if any(name and name not in constants for name in node.input[1:3]):
        return False
    ends = [array(constants[name]).reshape(()) if name else None for name in [*node.input[1:3], "", ""][:2]]
    low, high = (0.0, None) if node.op_type == "Relu" else ends
    zero_point, scale = int(array(constants[q.zero_point])), float(array(constants[q.scale]))
    half = 0.5001 * scale
    tight_low = low is None or (q.integers.qmin - zero_point) * scale >= float(low) - half
    tight_high = high is None or (q.integers.qmax - zero_point) * scale <= float(high) + half
    return bool(tight_low and tight_high)
