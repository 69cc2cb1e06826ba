"""What one batch size makes of every value: its shape and type, and, where it depends on nothing but shapes, its contents.

Nodes are traced one after the other, so that a pass may replace each by what it learns before the next is traced. onnx's shape
inference says what comes out of a node; the runtime computes small contents, and, of operators that onnx does not know, the
shape. The network itself is not run.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Callable, Iterable

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_distill import runtime
from onnx_distill.facts.logits import label
from onnx_distill.facts.stand_in import stand_in
from onnx_distill.facts.weightless import SMALL, without_weights
from onnx_distill.lookup import attribute, data_inputs, shape_of
from onnx_distill.normalize import compute
from onnx_distill.normalize.functions import branch_taken
from onnx_distill.normalize.graph import Graph

MOST_ELEMENTS = SMALL  # of contents worth knowing: shapes, positions
ANY = ((5, 224), (7, 320))  # batches, and height and width where they are free: of no interest to any graph
MOST_RUN = (
    2**24
)  # elements an operator that onnx does not know may read: it is run on ones (a 0 may kill it) to see its output's shape
UNSETTLED = frozenset("RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial Bernoulli Dropout".split())


class Trace:
    """Shapes, types and contents of the values of `graph` when its image input holds `batch` images.

    types: value -> (TensorProto.DataType, dimensions). contents: value -> array. Values that cannot be known are in neither.
    free: the size of axes, other than the batch, that the model leaves free; None: nothing is known of such images.
    """

    def __init__(self, graph: Graph, batch: int, free: int | None = None):
        self.graph, self.batch = graph, batch
        self.types: dict[str, tuple[int, tuple[int, ...]]] = {}
        self.contents: dict[str, np.ndarray] = {}
        self._imports = list(graph.model.opset_import)
        self.broken: onnx.NodeProto | None = None  # the first node that cannot take what it reads at this batch size
        for value in data_inputs(graph.model):
            shape = [batch, *(free if isinstance(size, str) and free else size for size in shape_of(value)[1:])]
            if all(isinstance(size, int) for size in shape):
                self.types[value.name] = (value.type.tensor_type.elem_type, tuple(map(int, shape)))

    def shape(self, value: str) -> tuple[int, ...] | None:
        found = self._type(value)
        return None if found is None else found[1]

    def known_shape(self, value: str) -> tuple[int, ...]:
        """The shape of a value that has one."""
        found = self.shape(value)
        assert found is not None, value
        return found

    def content(self, value: str) -> np.ndarray | None:
        """The small contents of a value that are known at this batch size."""
        if value in self.contents:
            return self.contents[value]
        tensor = self.graph.tensor(value)
        return self.graph.constant(value) if tensor is not None and math.prod(tensor.dims) <= MOST_ELEMENTS else None

    def _type(self, value: str) -> tuple[int, tuple[int, ...]] | None:
        tensor = self.graph.tensor(value)
        return self.types.get(value) if tensor is None else (tensor.data_type, tuple(tensor.dims))

    def step(self, node: onnx.NodeProto) -> None:
        """Learn what the outputs of the node are."""
        if any(entry.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for entry in node.attribute):
            return
        if node.op_type == "Shape" and node.domain == "" and self._type(node.input[0]) is not None:
            self._measure(node)
            return
        known = [name == "" or self._type(name) is not None for name in node.input]
        if all(known):
            self._infer(node)
        self._compute(node)

    def _measure(self, node: onnx.NodeProto) -> None:
        shape = self.known_shape(node.input[0])
        start, end = attribute(node, "start", 0), attribute(node, "end", len(shape))
        self._set(node.output[0], np.asarray(shape[start:end], np.int64))

    def _set(self, value: str, array: np.ndarray) -> None:
        self.contents[value] = array
        self.types[value] = (onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)

    def _infer(self, node: onnx.NodeProto) -> None:
        model = self._alone(node, {name: self.content(name) for name in _named(node.input)})
        stand_in(model.graph.node)
        try:
            made = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
        except (onnx.shape_inference.InferenceError, RuntimeError):
            self._run_on_ones(node)  # an operator that onnx does not know, or shapes that do not fit: the runtime decides
            return
        for value in [*made.output, *made.value_info]:
            shape = shape_of(value) if value.type.tensor_type.HasField("shape") else ["?"]
            if all(isinstance(size, int) for size in shape) and value.type.tensor_type.elem_type:
                self.types[value.name] = (value.type.tensor_type.elem_type, tuple(map(int, shape)))
        if node.domain not in ("", "ai.onnx") and any(name not in self.types for name in _named(node.output)):
            self._run_on_ones(node)

    def _alone(self, node: onnx.NodeProto, contents: dict[str, np.ndarray | None]) -> onnx.ModelProto:
        """A model of this node; values with contents are its initializers, the others its inputs."""
        model = onnx.ModelProto(ir_version=8, opset_import=self._imports)
        model.graph.name = "one"
        model.graph.node.append(node)
        for name in dict.fromkeys(_named(node.input)):
            content = contents.get(name)
            if content is not None:
                model.graph.initializer.append(numpy_helper.from_array(content, name))
            else:
                dtype = (self._type(name) or (0, ()))[0]
                model.graph.input.append(onnx.helper.make_tensor_value_info(name, dtype, self.known_shape(name)))
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in _named(node.output))
        return model

    def _run_on_ones(self, node: onnx.NodeProto) -> None:
        if sum(math.prod(self.known_shape(name)) for name in _named(node.input)) > MOST_RUN:
            return
        contents = {name: self.content(name) for name in _named(node.input)}
        model = self._alone(node, contents)
        feeds = {
            value.name: np.ones(
                self.known_shape(value.name), onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            )
            for value in model.graph.input
        }
        found = _run(model, feeds)
        self.broken = self.broken or (node if found is None else None)
        is_default = node.domain in ("", "ai.onnx")  # its shape then depends on more than shapes
        for name, array in zip(_named(node.output), [] if is_default else found or []):
            self.types[name] = (onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)

    def _compute(self, node: onnx.NodeProto) -> None:
        """Contents of the outputs, where those of all inputs are known and the outputs are known to be small."""
        contents = {name: self.content(name) for name in _named(node.input)}
        known = {name: array for name, array in contents.items() if array is not None}
        sizes = [math.prod(self.types[name][1]) if name in self.types else math.inf for name in _named(node.output)]
        if node.op_type in UNSETTLED or len(known) < len(contents):
            return
        if max(sizes, default=math.inf) <= MOST_ELEMENTS:
            for name, array in (compute.outputs(node, known, self._imports) or {}).items():
                self._set(name, array)


def walk(
    graph: Graph, traces: list[Trace], visit: Callable[[onnx.NodeProto], list[onnx.NodeProto] | None] = lambda node: None
) -> list[str]:
    """Trace every node in turn; an If whose condition is the same in all traces becomes its branch on the way, and a node for
    which `visit` has a replacement becomes that. Returns the labels of both.
    """
    left, changed = deque(graph.nodes), []
    while left:
        node = left.popleft()
        new = _branch(node, graph, traces) if node.op_type == "If" else visit(node)
        if new is not None:
            graph.replace(node, new)
            changed.append(label(node))
        if new is not None and node.op_type == "If":  # whose branch is to be visited as well
            left.extendleft(reversed(new))
            continue
        for other in [node] if new is None else new:
            for trace in traces:
                trace.step(other)
    return changed


def declared(model: onnx.ModelProto, value: str) -> onnx.ValueInfoProto | None:
    """Type and shape of a value as they are for images of every number and size, where onnx's inference alone does not find
    them; None where sizes other than the batch are not always the same, or not known.
    """
    graph = Graph(without_weights(model))
    image = shape_of(data_inputs(model)[0]) if len(data_inputs(model)) == 1 else []
    fixed = image[0] if image and isinstance(image[0], int) else None
    one, two = (Trace(graph, fixed or batch, size) for batch, size in ANY)
    walk(graph, [one, two])
    found = [trace.types.get(value) for trace in (one, two)]
    if found[0] is None or found[1] is None or found[0][1][1:] != found[1][1][1:]:
        return None
    sizes: list[int | str] = list(found[0][1])
    if found[0] != found[1]:
        sizes[0] = "batch"
    return onnx.helper.make_tensor_value_info(value, found[0][0], sizes)


def check_divisions(model: onnx.ModelProto) -> None:
    """Raises InputError where whole numbers that come out of shapes are divided by zero, which kills the process (runtime 1.19.2)."""
    if {"Div", "Mod"} & {node.op_type for node in model.graph.node} and any(n.op_type == "Shape" for n in model.graph.node):
        graph = Graph(without_weights(model))
        trace = Trace(graph, 1)
        walk(graph, [trace])
        for node in graph.nodes:
            compute.check_division(node, [trace.content(name) for name in node.input])


def first_empty(model: onnx.ModelProto) -> str | None:
    """The operator and label of the first node that makes nothing, as where images are smaller than the poolings want."""
    graph = Graph(without_weights(model))
    trace = Trace(graph, 1)
    walk(graph, [trace])
    for node in graph.nodes:
        if any(0 in (trace.shape(name) or ()) for name in _named(node.output)):
            return f"{node.op_type} {label(node)!r}"
    return None


def _branch(node: onnx.NodeProto, graph: Graph, traces: list[Trace]) -> list[onnx.NodeProto] | None:
    found = [trace.content(node.input[0]) for trace in traces]
    conditions = {None if array is None else bool(array.reshape(-1)[0]) for array in found}
    taken = conditions.pop() if len(conditions) == 1 else None
    return None if taken is None else branch_taken(node, taken, graph)


def _named(values: Iterable[str]) -> list[str]:
    return [name for name in values if name]


def _run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray] | None:
    """What the runtime makes of the node; None where it cannot run it."""
    try:
        return runtime.open_session(model, 1, optimized=False).run(None, feeds)
    except Exception:  # onnxruntime raises a family of unrelated types; all mean: not with these shapes, or not at all
        return None
