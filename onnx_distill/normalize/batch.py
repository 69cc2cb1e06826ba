"""A batch that the exporter fixed becomes free.

The graph is traced at the fixed batch size and at five times that. A Reshape gets a 0 or -1 where its constant shape has the batch;
a Resize to sizes goes by scales; what is joined to images by Concat, and is there once, is expanded to the batch. Then the images'
first axis and those of the outputs are declared free. That each image still gets its own answer is either plain from the operators
(ROWWISE), or seen by running three times the batch against three single ones.
Must not fire where the batch is free already, where there are several inputs, or where a node cannot take another batch:
`require_free` says which.
"""

from __future__ import annotations

import math

import numpy as np
import onnx

from onnx_distill import runtime
from onnx_distill.edit import fresh_name
from onnx_distill.errors import InputError, first_line
from onnx_distill.facts.logits import label
from onnx_distill.facts.weightless import take_nodes, without_weights
from onnx_distill.lookup import attribute, data_inputs, shape_of
from onnx_distill.normalize.graph import Graph
from onnx_distill.normalize.resize import by_scales
from onnx_distill.normalize.shapes import MEASURING
from onnx_distill.normalize.trace import Trace, walk

TIMES = 5  # the other batch size, in batches: a factor that shapes seldom have
CLOSE = 1e-4  # relative; sums are made in another order when the batch is another
# Operators that treat each image alone, as long as the batch is and stays the first axis.
ROWWISE = frozenset(
    "Conv ConvTranspose BatchNormalization InstanceNormalization LRN MaxPool AveragePool GlobalAveragePool GlobalMaxPool LpPool "
    "Relu LeakyRelu PRelu Elu Selu Celu Sigmoid HardSigmoid HardSwish Tanh Erf Gelu Mish Softplus Softsign Clip Abs Exp Log "
    "Neg Sqrt Pow Floor Ceil Round Sign Identity Dropout Cast Add Sub Mul Div Min Max Sum Mean Where Reshape Flatten Pad "
    "ReduceMean ReduceSum ReduceMax ReduceMin ReduceL1 ReduceL2 Squeeze Unsqueeze Expand Split DepthToSpace SpaceToDepth "
    "Concat Transpose Gemm MatMul Softmax LogSoftmax LayerNormalization QuantizeLinear DequantizeLinear".split()
)
FIRST, INNER, LAST = "first", "inner", "last"  # which axis of a Reshape is tried as the batch where its sizes leave a choice
ALONG_AXIS = {"Softmax": -1, "LogSoftmax": -1, "LayerNormalization": -1}  # operator -> the axis it mixes if it says none


def rewrite(graph: Graph) -> list[str]:
    return free(graph)[0]


def require_free(model: onnx.ModelProto) -> None:
    """Raises InputError for a normalized model whose batch is still fixed: names the node that does not take another."""
    if _fixed_batch(model) is not None:
        raise InputError(
            f"the model takes batches of {_fixed_batch(model)} only: {free(Graph(model))[1]}. "
            "Export it again with a free batch axis."
        )


def free(graph: Graph) -> tuple[list[str], str]:
    """Labels of the nodes changed to free the batch; or none, the graph as it was, and why it cannot be freed."""
    fixed, problem = _fixed_batch(graph.model), ""
    if fixed is None:
        return [], problem
    before = graph.nodes
    for choice in (FIRST, INNER, LAST):
        attempt = _Attempt(graph, fixed, choice)
        found = attempt.problem()
        if not found:
            attempt.declare()
            return attempt.changed or ["batch"], ""
        graph.restore(before)
        problem = problem or found
    return [], problem


def _fixed_batch(model: onnx.ModelProto) -> int | None:
    inputs = data_inputs(model)
    shape = shape_of(inputs[0]) if len(inputs) == 1 else []
    return shape[0] if len(shape) > 1 and isinstance(shape[0], int) and shape[0] > 0 else None


class _Attempt:
    """The graph changed to take any batch."""

    def __init__(self, graph: Graph, fixed: int, choice: str):
        self.graph, self.fixed, self.choice = graph, fixed, choice
        self.image = data_inputs(graph.model)[0].name
        self.before, self.after = Trace(graph, fixed), Trace(graph, fixed * TIMES)
        self.original = without_weights(graph.model, graph.nodes)
        self.changed = walk(graph, [self.before, self.after], self._visit)

    def problem(self) -> str:
        lost = next((node for node in self.graph.nodes if node.op_type == "Resize" and self._loses(node)), None)
        if lost is not None:
            count = self.after.known_shape(lost.output[0])[0]
            return f"{lost.op_type} {label(lost)!r} makes {count} of them, however many there are"
        if self.after.broken is not None and self.before.broken is None:
            node = self.after.broken
            return f"{node.op_type} {label(node)!r} cannot take another"
        for node in self.graph.nodes:
            if self._is_live(node) and not self._is_rowwise(node):
                return self._compare(node)
        return "" if all(self._moves(name) for name in self.graph.outputs) else "an output has no axis for it"

    def _visit(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        if node.op_type == "Reshape":
            return self._reshape(node)
        if node.op_type == "Resize":
            return self._resize(node)
        return self._concat(node) if node.op_type == "Concat" else None

    def _resize(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        read, sizes = self.before.shape(node.input[0]), self.before.content(node.input[3]) if len(node.input) > 3 else None
        if read is None or sizes is None or self._moving(node.input[0]) != [0]:
            return None
        made = by_scales(node, read, sizes.tolist(), self.graph)
        return None if made is None else [made]

    def _moving(self, value: str) -> list[int] | None:
        """The axes that grow with the batch; None where the value or its shapes are not known."""
        one, two = self.before.shape(value), self.after.shape(value)
        if one is None or two is None or len(one) != len(two):
            return None
        return [axis for axis, (a, b) in enumerate(zip(one, two)) if a != b]

    def _loses(self, node: onnx.NodeProto) -> bool:
        """Whether it makes the same number of images of any, and so would what reads it."""
        made = self._moving(node.output[0])
        return self._moving(node.input[0]) == [0] and made is not None and 0 not in made

    def _moves(self, value: str) -> bool:
        return bool(self._moving(value))

    def _reshape(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        wanted, moving = self.before.content(node.input[1]), self._moving(node.input[0])
        if wanted is None or not moving or len(moving) > 1 or attribute(node, "allowzero", 0):
            return None
        read = self.before.known_shape(node.input[0])
        made = _resolved(wanted, read)
        axis = None if made is None else self._batch_axis(read, moving[0], made)
        if made is None or axis is None:
            return None
        shape = [*made[:axis], -1, *made[axis + 1 :]]
        if axis == moving[0] and made[axis] == read[axis]:
            shape[axis] = 0
        grown = (*made[:axis], made[axis] * TIMES, *made[axis + 1 :])
        if _resolved(wanted, self.after.known_shape(node.input[0])) == grown:
            return None
        new = onnx.NodeProto()
        new.CopyFrom(node)
        new.input[1] = self.graph.add_constant(np.asarray(shape, np.int64), f"{label(node)}/shape")
        return [new]

    def _batch_axis(self, read: tuple[int, ...], moving: int, made: tuple[int, ...]) -> int | None:
        """The axis of the output in which the batch is: as much stands before it in memory as before it in the input."""
        before, start = math.prod(read[:moving]), [math.prod(made[:axis]) for axis in range(len(made) + 1)]
        fits = [a for a in range(len(made)) if start[a] <= before <= start[a + 1] and made[a] % self.fixed == 0]
        inner = [a for a, size in enumerate(made) if size == self.fixed and before <= start[a] <= before * read[moving]]
        if self.choice == INNER and inner and len(made) > len(read):  # an axis that held others and the batch, split again
            return inner[-1]
        if self.choice == LAST or not fits:
            return fits[-1] if fits else None
        return moving if moving in fits and len(made) >= len(read) else fits[0]

    def _concat(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        moving = [self._moving(name) for name in node.input]
        grows = {axis for axes in moving for axis in axes or ()}
        if None in moving or len(grows) != 1 or all(moving):
            return None
        axis, rank = grows.pop(), len(self.before.known_shape(node.input[0]))
        if attribute(node, "axis") % rank == axis or self.fixed != 1 or self.graph.opset < 15:
            return None
        nodes: list[onnx.NodeProto] = []
        inputs: list[str] = []
        for name, axes in zip(node.input, moving):
            nodes += [] if axes else self._expanded(name, axis, node)
            inputs.append(name if axes else nodes[-1].output[0])
        new = onnx.NodeProto()
        new.CopyFrom(node)
        new.input[:] = inputs
        return [*nodes, new]

    def _expanded(self, name: str, axis: int, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        graph, sizes = self.graph, self.before.known_shape(name)
        batch = graph.node("Shape", [self.image], node, start=0, end=1)
        ones = [graph.add_constant(np.ones(n, np.int64), f"{label(node)}/ones") for n in (axis, len(sizes) - axis - 1)]
        shape = graph.node("Concat", [ones[0], batch.output[0], ones[1]], node, axis=0)
        return [batch, shape, graph.node("Expand", [name, shape.output[0]], node)]

    def _is_live(self, node: onnx.NodeProto) -> bool:
        """Whether it has to do with the batch, or might."""
        return any(
            self._moving(name) != [] for name in [*node.input, *node.output] if name and not self.graph.is_constant(name)
        )

    def _is_rowwise(self, node: onnx.NodeProto) -> bool:
        """Whether the operator keeps the batch, image by image, in the first axis; the shapes say most of it."""
        if node.op_type in MEASURING:
            return True
        outputs = [name for name in node.output if name]
        if node.op_type not in ROWWISE or not all(self._moving(name) == [0] and self._scales(name) for name in outputs):
            return False
        rank, moving = len(self.before.known_shape(outputs[0])), [self._moving(name) if name else [] for name in node.input]
        if node.op_type in ("Gemm", "MatMul"):
            return moving[0] == [0] and not any(moving[1:]) and not attribute(node, "transA", 0)
        if node.op_type in ALONG_AXIS:
            return attribute(node, "axis", ALONG_AXIS[node.op_type]) % rank != 0
        if node.op_type == "Transpose" and attribute(node, "perm", [1])[0] != 0:
            return False
        return all(axes in ([], [0]) for axes in moving) and (moving[0] == [0] or self._ranks_agree(node, rank))

    def _scales(self, value: str) -> bool:
        return self.after.known_shape(value)[0] == TIMES * self.before.known_shape(value)[0]

    def _ranks_agree(self, node: onnx.NodeProto, rank: int) -> bool:
        return all(not self._moves(name) or len(self.before.known_shape(name)) == rank for name in node.input if name)

    def _compare(self, suspect: onnx.NodeProto) -> str:
        """Why not, or nothing where three batches together get the answers that they get alone."""
        if self.image not in self.before.types:
            return "the size of its images is free; give --input-shape"
        images, model = self._images(), self.graph.finish()  # the weights' contents, which the runtime needs
        take_nodes(model, self.original)
        declared = [self._copies(values) for values in self._values()]
        try:
            wanted = [_answers(model, self.image, part) for part in np.split(images, 3)]
            self.declare()
            found = _answers(model, self.image, images)
        except Exception as error:  # onnxruntime raises a family of unrelated types; all mean: not with this batch
            return f"it does not run with another: {first_line(error)}"
        finally:
            for values, old in zip(self._values(), declared):
                del values[:]
                values.extend(old)
        same = [_close(np.concatenate(parts), whole) for parts, whole in zip(zip(*wanted), found)]
        return "" if all(same) else f"{suspect.op_type} {label(suspect)!r} mixes the images of one"

    def _values(self) -> list:
        graph = self.graph.model.graph
        return [graph.input, graph.output, graph.value_info]

    def _copies(self, values) -> list[onnx.ValueInfoProto]:
        return list(onnx.GraphProto(value_info=values).value_info)

    def _images(self) -> np.ndarray:
        dtype, shape = self.before.types[self.image]
        numbers = np.random.default_rng(0).uniform(0, 1, (3 * self.fixed, *shape[1:]))
        kind = onnx.helper.tensor_dtype_to_np_dtype(dtype)
        return (numbers * 255 if kind.kind in "iu" else numbers).astype(kind)

    def declare(self) -> None:
        """Write the nodes and the free axes into the model."""
        graph = self.graph.with_nodes().graph
        taken = {dim.dim_param for value in [*graph.input, *graph.output] for dim in value.type.tensor_type.shape.dim}
        name = fresh_name("batch", taken)
        del graph.value_info[:]  # they may say the old batch; shape inference says the new one
        for value in [*data_inputs(self.graph.model), *graph.output]:
            for axis in self._moving(value.name) or []:
                if axis < len(value.type.tensor_type.shape.dim):
                    value.type.tensor_type.shape.dim[axis].dim_param = name


def _resolved(wanted: np.ndarray, read: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape that Reshape makes of `read`, or None where it cannot."""
    sizes = [read[axis] if size == 0 and axis < len(read) else int(size) for axis, size in enumerate(wanted)]
    if -1 in sizes:
        rest = -math.prod(sizes)
        sizes[sizes.index(-1)] = math.prod(read) // rest if rest > 0 else 0
    return tuple(sizes) if math.prod(sizes) == math.prod(read) else None


def _answers(model: onnx.ModelProto, name: str, images: np.ndarray) -> list[np.ndarray]:
    return runtime.open_session(model, 1, optimized=False).run(None, {name: images})


def _close(one: np.ndarray, other: np.ndarray) -> bool:
    scale = float(np.abs(one).max(initial=0))
    return one.shape == other.shape and bool(np.allclose(one, other, rtol=CLOSE, atol=CLOSE * scale))
