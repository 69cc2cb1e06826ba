"""Weights rounded so that their errors cancel out in what a layer computes, and biases that take up the mean of what is left.

To round each weight to the nearest integer is best for the weight, not for the sum of products that it is part of. With the layer's
inputs x, H = E[x x^T] over sample images and H = R^T R (Cholesky), a row w of step s that becomes the integers q has the mean squared error

    (w - s q)^T H (w - s q) = |R (w - s q)|^2

and, from the last column to the first, what the columns behind it lack is made up for by each column:

    q_j = round(w_j / s + sum_{k>j} R_jk / R_jj (w_k / s - q_k))

That is GPTQ's rule (Frantar et al. 2023), which is Babai's nearest plane (Babai 1986; Chen et al. 2025), in the form that inverts no
matrix. Columns whose inputs are largest are rounded first. Where a layer has a bias, H is the covariance, and the bias takes the mean
of what is left. A row that is no better than rounded to the nearest stays rounded to the nearest.

Layers are rounded in the order in which they compute, so that x is what the rounded layers before make of an image, where the float model
has t. The row that comes nearest to w t on x is rounded in place of w:

    w' = w + H^-1 E[x (t - x)^T] w                                      (least squares; H damped, as everywhere here)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_distill import qdq
from onnx_distill.edit import needed_by
from onnx_distill.lookup import array, attribute, initializers
from onnx_distill.placement.table import weight_axis
from onnx_distill.qdq import OUR_SUFFIX, Quantizer
from onnx_distill.quantization.bias import align_biases, biased_sides
from onnx_distill.rounding.inner_values import InnerValues

LAYERS = frozenset(["Conv", "Gemm", "MatMul"])
MOST_COLUMNS = 5000  # of a row: its H has 100 MB, and takes seconds; wider rows are rounded to the nearest
GRAM_BYTES = 2**28  # of the H that are gathered at once
ROWS, LEAST_ROWS = 2, 4096  # inputs x that H is the mean of: so many a column, at least so many, where images have them
INSIDE = 0.45  # of a step: as far as a weight stays on the side of its integer on which it was, for those who train it
DAMPING = 0.1  # of the mean of H's diagonal, added to it: what few images do not show
SMALLEST = 1e-30  # added where every input is 0
BLOCK = 128  # columns between two products with those before them


@dataclass(frozen=True)
class _Layer:
    """A node with quantized weights. Its weights as rows: [groups, rows of a group, columns]."""

    node: onnx.NodeProto
    weight: Quantizer
    activation: str
    shape: tuple[int, ...]
    biased: bool

    @property
    def in_teacher(self) -> str:
        """The activation's name in the float model."""
        return self.activation[: -len(OUR_SUFFIX)] if self.activation.endswith(OUR_SUFFIX) else self.activation

    @property
    def groups(self) -> int:
        return attribute(self.node, "group", 1) if self.node.op_type == "Conv" else 1

    @property
    def columns(self) -> int:
        return math.prod(self.shape) // self.shape[self._axis]

    @property
    def gram_bytes(self) -> int:
        return 8 * self.groups * self.columns**2

    @property
    def _axis(self) -> int:
        return weight_axis(self.node, len(self.shape)) or 0

    def rows(self, values: np.ndarray) -> np.ndarray:
        """float64 [groups, rows, columns] of values like the weights."""
        values = np.moveaxis(np.asarray(values, np.float64), self._axis, 0)
        return values.reshape(self.groups, len(values) // self.groups, -1)

    def values(self, rows: np.ndarray) -> np.ndarray:
        """The way back."""
        others = [size for axis, size in enumerate(self.shape) if axis != self._axis]
        return np.moveaxis(rows.reshape([-1, *others]), 0, self._axis)


def compensated(
    student: onnx.ModelProto,
    teacher: onnx.ModelProto,
    images: Callable[[], Iterable[np.ndarray]],
    count: int,
    threads: int | None = None,
    most_bits: int = 8,
    seed: int = 0,
) -> onnx.ModelProto:
    """The QDQ student, or a copy whose weights are rounded layer by layer, each layer knowing what those before it got wrong.

    teacher: the float model that the student was made of by quantize.py, names and all. images: gives the same batches anew each time,
    float32 [n, channels, height, width], `count` of them in all. most_bits: weights of more bits stay. seed: of the places in an image
    that a convolution's inputs are taken from. Scales and all other constants stay. Raises InputError where the models do not run.
    """
    if not _layers(student, most_bits):
        return student
    made = onnx.ModelProto()
    made.CopyFrom(student)
    ours, theirs = InnerValues(made, images, count, threads), InnerValues(teacher, images, count, threads)
    rng, constants = np.random.default_rng(seed), initializers(made)
    for layers in _together(_layers(made, most_bits), made):
        for layer, gram in zip(layers, _grams(layers, ours, theirs, rng)):
            _round(layer, gram, constants)
    align_biases(made)
    return made


def _layers(model: onnx.ModelProto, most_bits: int) -> list[_Layer]:
    """Those whose weights nobody else reads, in graph order."""
    constants, found = initializers(model), qdq.find(model)
    by_result = {q.result: q for q in found if q.source in constants and not q.stored}
    reads = Counter(name for node in model.graph.node for name in node.input)
    layers = []
    for node in model.graph.node:
        q = by_result.get(node.input[1]) if len(node.input) > 1 and node.op_type in LAYERS else None
        if q is None or q.integers.bits > most_bits or max(reads[q.source], reads[q.result]) > 1 or not _plain(node):
            continue
        shape = tuple(constants[q.source].dims)
        biased = biased_sides(node, {q.result: q for q in found}, constants) is not None
        layer = _Layer(node, q, node.input[0], shape, biased)
        if (node.op_type == "Conv" or len(shape) == 2) and layer.columns <= MOST_COLUMNS:
            layers.append(layer)
    return layers


def _plain(node: onnx.NodeProto) -> bool:
    """Whether the node is what normalize/ makes of its kind: explicit pads, and no factors."""
    usual = {"auto_pad": b"NOTSET", "transA": 0, "alpha": 1.0, "beta": 1.0}
    return all(attribute(node, name, value) == value for name, value in usual.items())


def _together(layers: list[_Layer], model: onnx.ModelProto) -> Iterator[list[_Layer]]:
    """In their order, those side by side that none of them feeds, as many as GRAM_BYTES hold."""
    group: list[_Layer] = []
    for layer in layers:
        made = {name for each in group for name in each.node.output}
        full = sum(each.gram_bytes for each in [*group, layer]) > GRAM_BYTES
        if group and (full or not made.isdisjoint(needed_by(model, [layer.activation]))):
            yield group
            group = []
        group.append(layer)
    if group:
        yield group


class _Gram:
    """Means over inputs x of a layer and t, its inputs in the teacher: of x, x x^T, t, and x (t - x)^T; a row of its own for each group."""

    def __init__(self, layer: _Layer):
        square = (layer.groups, layer.columns, layer.columns)
        self._products, self._errors = np.zeros(square, np.float32), np.zeros(square, np.float32)
        self._sums, self._their_sums, self._count = np.zeros(square[:2]), np.zeros(square[:2]), 0

    def add(self, inputs: np.ndarray, theirs: np.ndarray) -> None:
        """float32 [groups, n, columns] both."""
        turned = inputs.transpose(0, 2, 1)
        self._products += np.matmul(turned, inputs)
        self._errors += np.matmul(turned, theirs - inputs)
        self._sums += inputs.sum(axis=1, dtype=np.float64)
        self._their_sums += theirs.sum(axis=1, dtype=np.float64)
        self._count += inputs.shape[1]

    @property
    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """float64 [groups, columns]: E[x], E[t]."""
        return self._sums / self._count, self._their_sums / self._count

    def products(self, centred: bool) -> tuple[np.ndarray, np.ndarray]:
        """float32 [groups, columns, columns]: E[x x^T], damped, and E[x (t - x)^T]; with `centred` of x and t less their means."""
        products, errors = (sums / np.float32(self._count) for sums in (self._products, self._errors))
        if centred:
            mean, their_mean = (sums.astype(np.float32) for sums in self.means)
            products -= mean[:, :, None] * mean[:, None, :]
            errors -= mean[:, :, None] * (their_mean - mean)[:, None, :]
        diagonal = np.einsum("gkk->gk", products)  # a view
        diagonal += np.maximum(DAMPING * diagonal.mean(axis=1, keepdims=True), SMALLEST)
        return products, errors


def _grams(layers: list[_Layer], ours: InnerValues, theirs: InnerValues, rng: np.random.Generator) -> list[_Gram]:
    grams, first = [_Gram(layer) for layer in layers], layers[0].node.name
    known = [layer.in_teacher if theirs.has(layer.in_teacher) else None for layer in layers]
    pairs = zip(
        ours.at(first, [layer.activation for layer in layers]),
        theirs.at(first, [name for name in known if name is not None]),
    )
    for here, there in pairs:
        for layer, name, gram in zip(layers, known, grams):
            value = here[layer.activation]
            places = _places(value.shape, layer, ours.count, rng)
            inputs = _inputs(value, layer, places)
            gram.add(inputs, inputs if name is None else _inputs(there[name], layer, places))
    return grams


def _window(layer: _Layer) -> tuple[list[int], list[int], list[int], list[int]]:
    """(strides, dilations, pads at the begin and at the end) of a convolution, one entry an axis of space."""
    rank = len(layer.shape) - 2
    strides, dilations = (list(attribute(layer.node, name, [1] * rank)) for name in ("strides", "dilations"))
    pads = list(attribute(layer.node, "pads", [0] * 2 * rank))
    return strides, dilations, pads[:rank], pads[rank:]


def _places(shape: tuple[int, ...], layer: _Layer, images: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Where in its result a convolution is looked at, drawn for the images of a batch together; () for other layers."""
    if layer.node.op_type != "Conv":
        return ()
    sizes = [
        (size + begin + end - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, dilation, begin, end in zip(shape[2:], layer.shape[2:], *_window(layer))
    ]
    most = math.ceil(max(LEAST_ROWS, ROWS * layer.columns) / images)
    return np.unravel_index(rng.permutation(math.prod(sizes))[:most], sizes)


def _inputs(values: np.ndarray, layer: _Layer, places: tuple[np.ndarray, ...]) -> np.ndarray:
    """float32 [groups, n, columns]: what a row of the weights is multiplied with."""
    if layer.node.op_type != "Conv":
        return values.reshape(1, -1, values.shape[-1])
    strides, dilations, begin, end = _window(layer)
    extent = [dilation * (size - 1) + 1 for dilation, size in zip(dilations, layer.shape[2:])]
    padded = np.pad(values, [(0, 0), (0, 0), *zip(begin, end)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, extent, axis=tuple(range(2, padded.ndim)))
    at = tuple(place * stride for place, stride in zip(places, strides))
    index: tuple = (slice(None), slice(None), *at, *(slice(None, None, dilation) for dilation in dilations))
    taken = windows[index]
    images, channels, count = taken.shape[:3]
    taken = taken.reshape(images, layer.groups, channels // layer.groups, count, -1).transpose(1, 0, 3, 2, 4)
    return np.ascontiguousarray(taken).reshape(layer.groups, images * count, -1)


def _round(layer: _Layer, gram: _Gram, constants: dict[str, onnx.TensorProto]) -> None:
    """Write the layer's new weights, and its bias, into the constants."""
    weight, integers = constants[layer.weight.source], layer.weight.integers
    rows, step = layer.rows(array(weight)), array(constants[layer.weight.scale]).astype(np.float64)
    steps = np.broadcast_to(step.reshape(-1), [rows.shape[0] * rows.shape[1]]).reshape(rows.shape[:2])[..., None]
    (mean, their_mean), (products, errors) = gram.means, gram.products(layer.biased)
    missed = np.linalg.solve(products, errors @ rows.astype(np.float32).transpose(0, 2, 1)).transpose(0, 2, 1)
    if not (np.isfinite(missed).all() and np.isfinite(products).all()):
        return  # inputs too large to be squared
    wanted = rows + missed
    nearest = nearest_plane(wanted / steps, products, integers.qmin, integers.qmax)
    found = steps * nearest
    _write(weight, layer.values(found + steps * np.clip(wanted / steps - nearest, -INSIDE, INSIDE)))
    if layer.biased:
        bias = constants[layer.node.input[2]]
        lacking = np.einsum("gok,gk->go", rows, their_mean) - np.einsum("gok,gk->go", found, mean)
        old = array(bias)
        _write(bias, (old.reshape(-1) + lacking.reshape(-1)).reshape([*old.shape[:-1], -1]))


def _write(tensor: onnx.TensorProto, values: np.ndarray) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), tensor.name))


def nearest_plane(rows: np.ndarray, matrix: np.ndarray, low: int, high: int) -> np.ndarray:
    """Integers low..high [groups, n, columns] for which rows less integers are small in the norm of matrix [groups, columns, columns],
    positive definite; rows are in steps. No row's error is above that of its nearest integers."""
    columns = rows.shape[2]
    order = np.argsort(np.einsum("gkk->gk", matrix), axis=1, kind="stable")  # the last one is rounded first
    pairs = np.take_along_axis(np.take_along_axis(matrix, order[:, :, None], 1), order[:, None, :], 2)
    upper = np.linalg.cholesky(pairs).transpose(0, 2, 1)
    ratios = upper / np.einsum("gkk->gk", upper)[:, :, None]
    sorted_rows = np.take_along_axis(rows, order[:, None, :], 2)
    integers, lacking = np.zeros_like(sorted_rows), np.zeros_like(sorted_rows)
    for end in range(columns, 0, -BLOCK):
        begin = max(0, end - BLOCK)
        block = sorted_rows[:, :, begin:end] + lacking[:, :, end:] @ ratios[:, begin:end, end:].transpose(0, 2, 1)
        for j in range(end - 1, begin - 1, -1):
            inner = slice(j + 1, end)
            wanted = block[:, :, j - begin] + np.einsum("gok,gk->go", lacking[:, :, inner], ratios[:, j, inner])
            integers[:, :, j] = np.clip(np.rint(wanted), low, high)
            lacking[:, :, j] = sorted_rows[:, :, j] - integers[:, :, j]
    found = np.empty_like(integers)
    np.put_along_axis(found, order[:, None, :], integers, 2)
    nearest = np.clip(np.rint(rows), low, high)
    error = lambda integers: np.einsum("gok,gok->go", (rows - integers) @ matrix, rows - integers)  # noqa: E731
    return np.where((error(found) < error(nearest))[:, :, None], found, nearest)
