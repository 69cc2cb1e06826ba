"""The default operator set becomes one of 17 to 21: what the trainer's runtime and the rewrites know.

Older models are converted up by onnx's version converter, on a copy without weights; where it cannot reach 17, to the newest
from 13 on that it reaches. Newer ones are declared to be 21, after operators that came later are written out as the functions
they are. What the converter gets wrong (1.23) is put right here: Resize before opset 11 and Upsample, which become half_pixel
instead of asymmetric (nearest: the pixel above when an image becomes smaller); Pad with a mode, whose value stays behind. Refused: Hardmax over several axes.
Must not fire on a model that already has such an opset.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import defs, inliner, version_converter

from onnx_distill import lookup
from onnx_distill.edit import keep
from onnx_distill.errors import InputError, first_line
from onnx_distill.facts.logits import label
from onnx_distill.facts.weightless import take_nodes, without_weights
from onnx_distill.normalize.graph import Graph

USABLE = 13  # quantizers along an axis
OLDEST = 17
NEWEST = 21  # that onnxruntime 1.19.2 runs
FAILURES = (RuntimeError, IndexError, version_converter.ConvertError)  # IndexError: onnx 1.19, for an unknown operator


def rewrite(graph: Graph) -> list[str]:
    before = graph.opset
    if not OLDEST <= before <= NEWEST:
        graph.read_in(into_range(graph.with_nodes()))
    return [f"opset {before} to {graph.opset}"] if graph.opset != before else []


def into_range(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model itself, now of opset OLDEST to NEWEST, or as near as onnx can bring it. Raises InputError below USABLE."""
    before, problem = lookup.opset(model), ""
    for target in [NEWEST] if before > NEWEST else range(OLDEST, max(before, USABLE - 1), -1):
        try:
            return to_opset(model, target)
        except InputError as error:
            problem = problem or str(error)
    if problem and not USABLE <= before <= NEWEST:
        raise InputError(problem)
    return model


def to_opset(model: onnx.ModelProto, target: int) -> onnx.ModelProto:
    """The model itself, with the nodes of another opset. Raises InputError, and leaves it as it was, where that cannot be."""
    have = lookup.opset(model)
    if have > NEWEST:
        _declare_older(model)
    if lookup.opset(model) != target:
        take_nodes(model, _converted(model, target))
    return model


def _converted(model: onnx.ModelProto, target: int) -> onnx.ModelProto:
    have, light = lookup.opset(model), without_weights(model)
    for node in light.graph.node:
        _check(node, have, target)
        if node.op_type == "Pad" and have < 11 and lookup.attribute(node, "mode", b"constant") != b"constant":
            keep(node.attribute, lambda entry: entry.name != "value")
    try:
        made = version_converter.convert_version(light, target)
    except FAILURES as error:
        raise InputError(_problem(have, f"onnx cannot convert it to {target}: {first_line(error)}")) from None
    if any(function.node for function in model.functions) and not made.functions:
        made.functions.extend(model.functions)
    if have < 11:
        _old_resize(made)
    return made


def _problem(have: int, why: str) -> str:
    remedy = f"Export it again with an opset from {OLDEST} to {NEWEST}."
    return f"the model has opset {have}, wanted {USABLE} to {NEWEST}, and {why}. {remedy}"


def _check(node: onnx.NodeProto, have: int, target: int) -> None:
    if node.op_type == "Hardmax" and have < 13 and lookup.attribute(node, "axis", 1) != -1:
        raise InputError(_problem(have, f"Hardmax {label(node)!r} meant something else before opset 13"))
    if node.op_type == "BatchNormalization" and lookup.attribute(node, "spatial", 1) == 0:
        raise InputError(_problem(have, f"BatchNormalization {label(node)!r} with spatial = 0 is in no later one"))
    if node.op_type == "GroupNormalization" and have < NEWEST <= target:
        raise InputError(_problem(have, f"onnx writes the scale of GroupNormalization {label(node)!r} wrongly for {target}"))


def _old_resize(model: onnx.ModelProto) -> None:
    """What Resize and Upsample did before opset 11: no pixel centres, and the pixel above when they made an image smaller."""
    tensors = {node.output[0]: lookup.attribute(node, "value") for node in model.graph.node if node.op_type == "Constant"}
    tensors.update(lookup.initializers(model))
    for node in (node for node in model.graph.node if node.op_type == "Resize"):
        scales = tensors.get(node.input[2])
        # at most one for each axis of an image; more is no scale, and not worth the memory
        known = lookup.array(scales) if scales is not None and math.prod(scales.dims) <= 4 else np.ones(1)
        nearest = "ceil" if (known < 1).any() else "floor"
        modes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": nearest}
        keep(node.attribute, lambda entry: entry.name not in modes)  # noqa: B023
        node.attribute.extend(onnx.helper.make_attribute(name, mode) for name, mode in modes.items())


def _declare_older(model: onnx.ModelProto) -> None:
    """From opset 22 on operators have new types, a few have new attributes, and a few are new: these are written out."""
    have, light = lookup.opset(model), without_weights(model)
    newer = {node.op_type for node in light.graph.node if _is_default(node) and not _known(node.op_type, NEWEST)}
    if newer:
        light = _written_out(light, sorted(newer))
    for node in light.graph.node:
        problem = _why_not_older(node) if _is_default(node) else None
        if problem:
            raise InputError(_problem(have, f"{node.op_type} {label(node)!r} {problem}"))
    for entry in light.opset_import:
        entry.version = NEWEST if entry.domain in ("", "ai.onnx") else entry.version
    take_nodes(model, light)


def _is_default(node: onnx.NodeProto) -> bool:
    return node.domain in ("", "ai.onnx")


def _known(operator: str, opset: int) -> bool:
    return defs.has(operator, "") and _schema(operator, opset) is not None


def _schema(operator: str, opset: int) -> defs.OpSchema | None:
    try:
        return defs.get_schema(operator, opset, "")
    except defs.SchemaError:
        return None


def _written_out(light: onnx.ModelProto, operators: list[str]) -> onnx.ModelProto:
    wanted = [("", operator) for operator in operators]
    for node in light.graph.node:
        if _is_default(node) and node.op_type in operators:
            _add_defaults(node, lookup.opset(light))
    for tensor in light.graph.initializer:  # whose types the inliner does not look up
        light.graph.value_info.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    try:
        return inliner.inline_selected_functions(light, wanted, inline_schema_functions=True)
    except (RuntimeError, TypeError) as error:  # TypeError: onnx 1.19 has no such argument
        why = f"{operators[0]} came later and onnx cannot write it out: {first_line(error)}"
        raise InputError(_problem(lookup.opset(light), why)) from None


def _add_defaults(node: onnx.NodeProto, opset: int) -> None:
    """The attributes that the node leaves out: the inliner makes Constants without a value of them (onnx 1.23)."""
    schema, given = _schema(node.op_type, opset), {entry.name for entry in node.attribute}
    for name, known in schema.attributes.items() if schema is not None else ():
        if known.default_value.name and name not in given:
            node.attribute.append(known.default_value)


def _why_not_older(node: onnx.NodeProto) -> str | None:
    schema = _schema(node.op_type, NEWEST)
    if schema is None:
        return "came later"
    extra = sorted({entry.name for entry in node.attribute} - set(schema.attributes))
    return f"has the attribute {extra[0]!r}, which came later" if extra else None
