"""Single numbers given the rank of the values that they meet, where those end in axes of one.

Broadcasting a number of rank 0 or 1 over [n, c, 1, 1] the runtime goes value by value, 30 times slower than over [n, c], or than
with a number of shape [1, 1, 1, 1] (120 against 4 microseconds for 8x1280): a network's last layers, and what squeezes and excites.

It does not fire where values end in a longer axis, are few, or shapes are not known. Equal to the bit.
"""

from __future__ import annotations

import math

import onnx

from onnx_distill.lower.nodes import Constants, Nodes, rewritten

BROADCASTING = frozenset("Add Div Greater GreaterOrEqual Less LessOrEqual Max Min Mul Sub".split())
LEAST = 256  # values


def lower_ranks(training: onnx.ModelProto, shapes: dict[str, list[int]]) -> onnx.ModelProto:
    """A copy of the training model, for batches of the size in `shapes`, in which numbers have the rank of what they meet."""
    constants = Constants()

    def rewrite(node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        if node.op_type not in BROADCASTING or len(node.input) != 2:
            return None
        for place in (0, 1):
            wide, number = (shapes.get(node.input[at]) for at in (place, 1 - place))
            if wide and number is not None and _meets_slowly(wide, number):
                graph = Nodes(constants, f"{node.output[0]}/rank")
                operands = list(node.input)
                operands[1 - place] = graph.reshape(operands[1 - place], [1] * len(wide))
                graph(node.op_type, *operands, to=node.output[0])
                return graph.nodes
        return None

    return rewritten(training, rewrite, constants)


def _meets_slowly(wide: list[int], number: list[int]) -> bool:
    return math.prod(number) == 1 and len(number) < len(wide) and wide[-1] == 1 and math.prod(wide) >= LEAST
