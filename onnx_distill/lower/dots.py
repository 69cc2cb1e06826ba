"""Sums of products without the products written out: one depthwise convolution of blocked values multiplies and adds.

    ReduceSum(Mul(a, b))        ->        ReduceSum(Conv(a as an image, b as its filter))        one output pixel for each channel

Any run of n * block values is an image of `block` channels and n pixels in blocked layout, so nothing is reordered, only looked at.
It reads 8 bytes a value; the two read 12 and write 4 (0.16 against 0.31 ms for 1001 rows of 1280 values). Sums in another order.

It fires on sums over everything and over all axes but the first, of two values of one shape; not where something else reads the
product, on few values (LEAST), where rows do not fill blocks, or shapes are not known. It has to run behind layouts.py, which
can tell that a sum over everything takes any layout, and not that this does.
"""

from __future__ import annotations

import math
from collections import Counter

import onnx

from onnx_distill.lookup import array, attribute, initializers, producers
from onnx_distill.lower.nodes import Constants, Nodes, rewritten

LEAST = 32768  # values: below, a convolution takes as long to start
LONGEST = 512  # values that one lane adds up one after the other, where the rows may be chosen


def lower_dots(
    training: onnx.ModelProto, plain: onnx.ModelProto, shapes: dict[str, list[int]], block: int
) -> onnx.ModelProto:
    """A copy of the training model, for batches of the size in `shapes`, with large sums of products as convolutions.

    plain: the model before layouts.py, in which values have the names that `shapes` has; sums are called the same in both.
    """
    constants, rows, made_by = Constants(), _rows(plain, shapes, block), producers(training)

    def rewrite(node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        if node.output[0] not in rows:
            return None
        count, length, keeps_rows = rows[node.output[0]]
        graph, channels = Nodes(constants, f"{node.output[0]}/dot", block), block * count
        a, b = made_by[node.input[0]].input
        image, kernel = graph.reshape(a, [1, channels, 1, length]), graph.reshape(b, [channels, 1, 1, length])
        sums = graph.conv([image, kernel], channels, (1, length), [0] * 4)
        if keeps_rows:
            graph("ReduceSum", graph.reshape(sums, [count, block]), graph.constant([1]), to=node.output[0], keepdims=0)
        else:
            graph("ReduceSum", sums, to=node.output[0], keepdims=0)
        return graph.nodes

    return rewritten(training, rewrite, constants) if rows else training


def _rows(model: onnx.ModelProto, shapes: dict[str, list[int]], block: int) -> dict[str, tuple[int, int, bool]]:
    """Sum -> how many rows of how many blocks it adds up, and whether one sum for each row is wanted."""
    made_by, constants = producers(model), initializers(model)
    reads = Counter(name for node in model.graph.node for name in node.input)
    reads.update(value.name for value in model.graph.output)
    found = {}
    for node in model.graph.node:
        product = made_by.get(node.input[0]) if node.op_type == "ReduceSum" and not attribute(node, "keepdims", 1) else None
        if product is None or product.op_type != "Mul" or reads[product.output[0]] > 1:
            continue
        shape, other = (shapes.get(name) for name in product.input)
        if not shape or shape != other or math.prod(shape) < LEAST:
            continue
        if len(node.input) == 1:
            units, rest = divmod(math.prod(shape), block)
            length = next(n for n in range(LONGEST, 0, -1) if units % n == 0)
            usable = rest == 0 and 16 * length >= LONGEST
            rows = (units // length, length, False)
        else:
            axes = constants.get(node.input[1])
            usable = axes is not None and array(axes).tolist() == list(range(1, len(shape)))
            length, rest = divmod(math.prod(shape[1:]), block)
            usable, rows = usable and rest == 0 and length > 0, (shape[0], length, True)
        if usable:
            found[node.output[0]] = rows
    return found
