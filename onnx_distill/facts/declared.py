"""What a model says of the shapes of its values, beside what its operators make of them: the operators are right.

Exporters and tools that edit graphs leave old shapes behind; what is computed from them fails far from the cause.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from onnx_distill.errors import InputError
from onnx_distill.facts.stand_in import stand_in

# Of C++: length_error and invalid_argument are ValueError, out_of_range is IndexError, bad_alloc is MemoryError.
FAILURES = (onnx.shape_inference.InferenceError, RuntimeError, ValueError, IndexError, MemoryError)


def correct_shapes(model: onnx.ModelProto, light: onnx.ModelProto, where: str) -> dict[str, onnx.TypeProto.Tensor]:
    """Put right, in place, the declared shapes of inner values and outputs that are not those the operators make.

    light: a copy without weights, which is spent. Returns type and shape of inputs and of what the operators make, in
    subgraphs too. Raises InputError where the shapes of what nodes read do not fit together.
    """
    made = _made(light, where)
    symbols = {dim.dim_param for value in model.graph.input for dim in value.type.tensor_type.shape.dim} - {""}
    for value in [*model.graph.value_info, *model.graph.output]:
        found = made.get(value.name)
        if found is not None and found.type.tensor_type.HasField("shape") and _differ(value, found, symbols):
            value.type.CopyFrom(found.type)
    return {name: value.type.tensor_type for name, value in made.items()}


def _made(light: onnx.ModelProto, where: str) -> dict[str, onnx.ValueInfoProto]:
    """Value -> type and shape as inferred from the inputs alone."""
    del light.graph.value_info[:]
    stand_in(light.graph.node)
    for value in light.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    try:
        graph = onnx.shape_inference.infer_shapes(light, strict_mode=True).graph
    except FAILURES as error:
        reason = " ".join(str(error).split())[:500] or type(error).__name__
        raise InputError(f"{where} cannot be used: {reason}. Is the file damaged?") from None
    return {value.name: value for value in _values(graph)}


def _values(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    """Those of subgraphs first: a name that they hide is the outer value's."""
    for inner in (inner for node in graph.node for entry in node.attribute for inner in (entry.g, *entry.graphs)):
        yield from _values(inner)
    yield from (*graph.input, *graph.value_info, *graph.output)


def _differ(value: onnx.ValueInfoProto, found: onnx.ValueInfoProto, symbols: set[str]) -> bool:
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        return False
    said, made = value.type.tensor_type.shape.dim, found.type.tensor_type.shape.dim
    return len(said) != len(made) or any(_contradict(one, other, symbols) for one, other in zip(said, made))


def _contradict(said, made, symbols: set[str]) -> bool:
    """Two different numbers, or a number for what the model's input leaves free."""
    if not said.HasField("dim_value"):
        return False
    return (
        made.dim_param in symbols
        if made.HasField("dim_param")
        else made.HasField("dim_value") and made.dim_value != said.dim_value
    )
