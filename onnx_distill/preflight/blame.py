"""The operator to blame for a wrong gradient: the first one, on its way back from the logits, that takes a right gradient and passes
on a wrong one.

Every way into a node gets a gradient of its own: each node reads the sum of its input and a parameter of zeros, and the
gradients of these parameters are checked like any others.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnx_distill import lookup, runtime
from onnx_distill.edit import fresh_name
from onnx_distill.errors import InputError
from onnx_distill.preflight.gradient_check import JITTER, GradientCheck
from onnx_distill.trainable.trainability import settings


def blame(
    model: onnx.ModelProto, parameter: str, images: np.ndarray, threads: int = 0, finite: bool = True
) -> onnx.NodeProto | None:
    """The node at which the parameter's gradient goes wrong on its way back, or is finite no longer; None where none is found."""
    path = _path(model, parameter)
    read = {name for node in path for name in node.input if name}
    offset, names = _with_offsets(model, path, _float_values(model, read, images, threads))
    try:
        check = GradientCheck(offset, list(names.values()), images, threads, jitter=JITTER if finite else 0.0)
    except InputError:  # the runtime builds no gradient of the longer graph
        return None
    right = check.is_right if finite else check.is_finite
    return next((node for node in reversed(path) if not all(right(names[edge]) for edge in _edges(node, names))), None)


def _edges(node: onnx.NodeProto, known: Collection[tuple[str, str]]) -> list[tuple[str, str]]:
    """What the node reads, as (its output, value): each way into a node has a gradient of its own."""
    return [edge for edge in ((node.output[0], name) for name in dict.fromkeys(node.input)) if edge in known]


def _path(model: onnx.ModelProto, parameter: str) -> list[onnx.NodeProto]:
    """The nodes between the parameter and the model's output, in order."""
    below, above, path = {parameter}, {value.name for value in model.graph.output}, []
    for node in model.graph.node:
        below.update(node.output if below.intersection(node.input) else ())
    for node in reversed(model.graph.node):
        if above.intersection(node.output):
            above.update(node.input)
            path += [node] if below.intersection(node.output) else []
    return path[::-1]


def _float_values(model: onnx.ModelProto, values: set[str], images: np.ndarray, threads: int) -> dict[str, tuple[int, ...]]:
    """The shapes of those of the values that are float32, for these images, initializers too."""
    constants, made = lookup.initializers(model), lookup.producers(model)
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    known = {value.name for value in shown.graph.output}
    inner = sorted(value for value in values if value in made)
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner if name not in known)
    session = runtime.open_session(shown, threads or None, optimized=False)
    found = dict(zip(inner, runtime.compute(session, {lookup.image_input(model).name: images}, inner)))
    shapes = {name: array.shape for name, array in found.items() if array.dtype == np.float32 and array.ndim}
    floats = {name for name in values if name in constants and constants[name].data_type == TensorProto.FLOAT}
    return {**shapes, **{name: tuple(constants[name].dims) for name in floats if constants[name].dims}}


def _with_offsets(
    model: onnx.ModelProto, path: list[onnx.NodeProto], shapes: dict[str, tuple[int, ...]]
) -> tuple[onnx.ModelProto, dict[tuple[str, str], str]]:
    """Every node of the path reads sums of its inputs and parameters of zeros; and (output, input) -> name of that parameter."""
    made, taken = onnx.ModelProto(), lookup.names(model)
    made.CopyFrom(model)
    del made.graph.node[:]
    names: dict[tuple[str, str], str] = {}
    on_path, apart = {node.output[0] for node in path}, settings(model)
    for node in model.graph.node:
        new = {}
        for value in dict.fromkeys(node.input) if node.output[0] in on_path else ():
            if value in shapes and value not in apart and node.output[0]:
                names[node.output[0], value] = offset = fresh_name(f"{value}/offset", taken)
                new[value] = fresh_name(f"{value}/moved", taken)
                made.graph.node.append(helper.make_node("Add", [value, offset], [new[value]], f"{offset}/Add"))
                zeros = helper.make_tensor(
                    offset, TensorProto.FLOAT, shapes[value], bytes(4 * math.prod(shapes[value])), raw=True
                )
                made.graph.initializer.append(zeros)
        made.graph.node.append(node)
        made.graph.node[-1].input[:] = [new.get(name, name) for name in node.input]
    return made, names
