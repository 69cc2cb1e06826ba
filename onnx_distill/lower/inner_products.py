"""Inner products of an activation with its gradient, from those of the weights beside it: a convolution is homogeneous.

The gradient of a learned step is (<dy, y> - <dx, x>) / s, two passes over activations each. But for z = Conv(x, w) + b

    <dx, x> = <dz, z - b> = <dw, w>        and        <dz, z> = <dw, w> + <db, b>

because dx, dw and db are linear in dz (Euler's theorem). Weights are small, and their gradients are there anyway.

It fires on ReduceSum(Mul(g, v)) over everything where g is what one ConvGrad gives for v, or where v is what one Conv makes
and g the gradient that its ConvGrad takes; not where the gradient of the weights is not asked for. The two sides are sums in
another order: they differ by float32 rounding, relative to the sum of the absolute values of their terms.
"""

from __future__ import annotations

from collections import Counter

import onnx

from onnx_distill.lookup import attribute
from onnx_distill.lower.nodes import Constants, Nodes, with_nodes


def lower_inner_products(training: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the training model in which inner products of convolutions' activations are made from their weights."""
    return _InnerProducts(training).rewritten()


class _InnerProducts:
    def __init__(self, model: onnx.ModelProto):
        self.model = model
        self.made_by = {name: node for node in model.graph.node for name in node.output if name}
        self.reads = Counter(name for node in model.graph.node for name in node.input)
        backward = [
            node for node in model.graph.node if node.op_type == "ConvGrad" and len(node.output) > 1 and node.output[1]
        ]
        self.by_gradient = {node.output[0]: node for node in backward if node.output[0]}
        self.by_operands = {tuple(node.input): node for node in backward}
        self.parts = Nodes(Constants(), "onnx_distill/inner_product")
        self.products: dict[tuple[str, str], str] = {}
        self.sums = self._channel_sums()

    def rewritten(self) -> onnx.ModelProto:
        new = {node.output[0]: value for node in self.model.graph.node for value in [self._replacement(node)] if value}
        nodes = []
        for node in self.model.graph.node:
            copy = onnx.NodeProto.FromString(node.SerializeToString())
            copy.input[:] = [new.get(name, name) for name in copy.input]
            nodes.append(copy)
        return with_nodes(self.model, _sorted(nodes + self.parts.nodes, self.model), Constants())

    def _replacement(self, node: onnx.NodeProto) -> str | None:
        """The value that equals this sum over a product and is cheaper; None where the node is something else."""
        product = self.made_by.get(node.input[0]) if node.op_type == "ReduceSum" and len(node.input) == 1 else None
        if (
            product is None
            or product.op_type != "Mul"
            or attribute(node, "keepdims", 1)
            or self.reads[product.output[0]] > 1
        ):
            return None
        gradient, value = product.input
        consumer = self.by_gradient.get(gradient)
        if consumer is not None and consumer.input[1] == value:
            return self._weights(consumer)
        return self._output(gradient, value)

    def _output(self, gradient: str, value: str) -> str | None:
        conv = self.made_by.get(value)
        if conv is None or conv.op_type != "Conv" or conv.domain:
            return None
        backward = self.by_operands.get((gradient, *conv.input[:2]))
        if backward is None:
            return None
        bias = conv.input[2] if len(conv.input) > 2 else ""
        if not bias:
            return self._weights(backward)
        if len(backward.output) < 3 or not backward.output[2]:
            return None
        return self.parts("Add", self._weights(backward), self._product(backward.output[2], bias))

    def _weights(self, backward: onnx.NodeProto) -> str:
        return self._product(backward.output[1], backward.input[2])

    def _product(self, gradient: str, value: str) -> str:
        key = gradient, value
        if key not in self.products:
            summed = self.sums.get(key) or self.parts("Mul", gradient, value)
            self.products[key] = self.parts("ReduceSum", summed, keepdims=0)
        return self.products[key]

    def _channel_sums(self) -> dict[tuple[str, str], str]:
        """(gradient, value) -> the sums of their product for each channel, which the gradient of the weights' own steps reads."""
        found = {}
        for node in self.model.graph.node:
            product = self.made_by.get(node.input[0]) if node.op_type == "ReduceSum" and len(node.input) == 2 else None
            if product is not None and product.op_type == "Mul":
                found[product.input[0], product.input[1]] = node.output[0]
        return found


def _sorted(nodes: list[onnx.NodeProto], model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes in topological order, otherwise in the order given."""
    waiting = {name for node in nodes for name in node.output if name}
    made: list[onnx.NodeProto] = []
    left = nodes
    while left:
        later = []
        for node in left:
            if waiting.isdisjoint(node.input):
                made.append(node)
                waiting.difference_update(node.output)
            else:
                later.append(node)
        if len(later) == len(left):
            raise AssertionError(f"a cycle through {later[0].output[0]!r}")
        left = later
    return made
