"""What depends on no image becomes an initializer: every Constant, ConstantOfShape, Cast and other node that reads only constants.

A Constant in any of its forms, and sparse initializers, which become dense. Must not fire where the result is a graph output,
random or quantized, where the node has a subgraph or is of another domain, or where onnx cannot tell beforehand how large the
result will be. Raises InputError where constants are of more than MOST_BYTES in all.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import onnx

from onnx_distill.errors import InputError
from onnx_distill.facts.logits import label
from onnx_distill.facts.weightless import SMALL
from onnx_distill.lookup import QUANTIZED_OPS, array, attribute
from onnx_distill.normalize import compute
from onnx_distill.normalize.graph import Graph
from onnx_distill.normalize.trace import UNSETTLED

MOST_BYTES = 2**30  # made by the nodes of one model; VGG-19 in onnx's light form makes 575 MB of weights by ConstantOfShape
SUBGRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
LISTS = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32,
         "value_string": object, "value_strings": object}  # fmt: skip


def rewrite(graph: Graph) -> list[str]:
    folding = _Folding(graph)
    folding.sparse_initializers()
    waiting, done = deque(graph.nodes), graph.take_lifted()
    while waiting:  # a Constant that was folded, and its weights, are let go before the next
        node = waiting.popleft()
        done += [label(node)] if folding.fold(node) else []
    return done


class _Folding:
    """Counts the bytes of what it makes."""

    def __init__(self, graph: Graph):
        self.graph, self.made_bytes = graph, 0

    def sparse_initializers(self) -> None:
        stored = self.graph.model.graph.sparse_initializer
        for sparse in stored:
            self.graph.add_tensor(onnx.numpy_helper.from_array(self._dense(sparse, sparse.values.name)), sparse.values.name)
        del stored[:]

    def fold(self, node: onnx.NodeProto) -> bool:
        if node.domain not in ("", "ai.onnx") or self.graph.outputs.intersection(node.output) or not _may_fold(node):
            return False
        if node.op_type == "Constant":
            return self._constant(node)
        if not all(self.graph.is_constant(name) for name in node.input if name):
            return False
        if node.op_type == "Identity":
            return self.graph.remove(node)
        return self._constant_of_shape(node) if node.op_type == "ConstantOfShape" else self._compute(node)

    def _constant(self, node: onnx.NodeProto) -> bool:
        (form,) = node.attribute
        if form.name == "value":
            self.graph.settle(node, {node.output[0]: onnx.numpy_helper.to_array(form.t)})
        elif form.name == "sparse_value":
            self.graph.settle(node, {node.output[0]: self._dense(form.sparse_tensor, label(node))})
        else:
            content = np.array(onnx.helper.get_attribute_value(form), LISTS[form.name])
            self.graph.settle(node, {node.output[0]: content})
        return True

    def _dense(self, sparse: onnx.SparseTensorProto, name: str) -> np.ndarray:
        values, places = array(sparse.values), array(sparse.indices)
        self._count(math.prod(sparse.dims) * values.itemsize, name)
        dense = np.zeros(tuple(sparse.dims), values.dtype)
        flat = places if places.ndim == 1 else np.ravel_multi_index(tuple(places.T), dense.shape)
        dense.reshape(-1)[flat] = values
        return dense

    def _constant_of_shape(self, node: onnx.NodeProto) -> bool:
        shape = tuple(map(int, np.asarray(self.graph.constant(node.input[0]))))
        filled_with = attribute(node, "value")
        value = np.zeros(1, np.float32) if filled_with is None else array(filled_with)
        if min(shape, default=0) < 0:
            raise InputError(
                f"ConstantOfShape {label(node)!r} has shape {list(shape)}; wanted no negative size. Export it again."
            )
        self._count(math.prod(shape) * value.itemsize, label(node))
        self.graph.settle(node, {node.output[0]: np.broadcast_to(value.reshape(()), shape)})
        return True

    def _compute(self, node: onnx.NodeProto) -> bool:
        inputs = {name: np.asarray(self.graph.constant(name)) for name in node.input if name}
        size = compute.size_bytes(node, inputs, self.graph.model.opset_import)
        if size is None:
            return False
        self._count(size, label(node))
        made = compute.outputs(node, inputs, self.graph.model.opset_import)
        if made is not None:
            self.graph.settle(node, made)
        return made is not None

    def _count(self, size: int, name: str) -> None:
        self.made_bytes += size if size > SMALL else 0
        if self.made_bytes > MOST_BYTES:
            raise InputError(
                f"the constants that the model makes up to {name!r} are of {self.made_bytes / 1e9:.1f} GB; wanted at most "
                f"{MOST_BYTES / 1e9:.1f} GB. Store them as initializers, or export the model again."
            )


def _may_fold(node: onnx.NodeProto) -> bool:
    is_quantized = node.op_type in QUANTIZED_OPS or node.op_type.startswith("QLinear")
    has_subgraph = any(entry.type in SUBGRAPHS for entry in node.attribute)
    return not (is_quantized or has_subgraph or node.op_type in UNSETTLED or (not node.input and node.op_type != "Constant"))
