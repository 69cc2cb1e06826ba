"""Logits [n, classes, 1, 1], a map of one pixel, are there as rows [n, classes] too: those are cut, trained and compared.

x = Conv(...)  becomes  x/map = Conv(...), x/rows = Flatten(x/map), x = Reshape(x/rows), for a graph output x or what a Softmax reads
that makes one. Must not fire on outputs of another shape, or where the rows, or other values of these names, are there already.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_distill.lookup import names, producers, shape_of

SOFTMAX = ("Softmax", "LogSoftmax")


def add_rows(model: onnx.ModelProto) -> None:
    """In place."""
    for output in model.graph.output:
        shape = shape_of(output)
        if len(shape) > 2 and isinstance(shape[1], int) and set(shape[2:]) == {1}:
            _split(model, output.name, [0, shape[1], *shape[2:]])


def rows_of(value: str, made_by: dict[str, onnx.NodeProto]) -> str:
    """The rows of a value that `add_rows` gave some, or of the map they are made of; any other value itself."""
    base = value[: -len("/map")] if value.endswith("/map") else value
    node = made_by.get(f"{base}/rows")
    ours = node is not None and node.op_type == "Flatten" and node.input[0] == f"{base}/map"
    return f"{base}/rows" if ours else value


def _split(model: onnx.ModelProto, value: str, shape: list) -> None:
    made_by = producers(model)
    node = made_by.get(value)
    if node is not None and node.op_type in SOFTMAX:
        value, node = node.input[0], made_by.get(node.input[0])
    if node is None or rows_of(value, made_by) != value:
        return
    image, rows, sizes = (f"{value}/{end}" for end in ("map", "rows", "shape"))
    if names(model) & {image, rows, sizes}:
        return
    place = next(i for i, other in enumerate(model.graph.node) if value in other.output)
    model.graph.node[place].output[:] = [image if name == value else name for name in node.output]
    new = [
        helper.make_node("Flatten", [image], [rows], f"{rows}/Flatten", axis=1),
        helper.make_node(
            "Constant", [], [sizes], f"{sizes}/Constant", value=numpy_helper.from_array(np.array(shape, np.int64))
        ),
        helper.make_node("Reshape", [rows, sizes], [value], f"{rows}/Reshape"),
    ]
    for offset, made in enumerate(new, start=1):
        model.graph.node.insert(place + offset, made)
