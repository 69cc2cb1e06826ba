"""Quantized weights that several nodes read become one copy for each of them, so that an exact session can be opened.

With `session.x64quantprecision` onnxruntime writes int8 weights and their zero points anew as uint8, once for every node that
reads them, each time under the same name, and refuses to load where there are two (1.19.2). Weights are such once its optimizer
has worked out QuantizeLinear and Clip, too. Only sessions of our own want this: a file keeps one copy.
"""

from __future__ import annotations

from collections import Counter
from typing import List

import onnx

from onnx_distill.edit import fresh_name
from onnx_distill.lookup import initializers, names, producers

CONSTANT_STEPS = ("QuantizeLinear", "Clip", "DequantizeLinear")
Chain = List[onnx.NodeProto]  # from a constant to the floats that a node reads


def with_own_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every reader of quantized weights has its own; the model itself where none are shared.

    It computes the same: the same steps from the same constant for each reader.
    """
    chains = _chains(model)
    reads = Counter(t for node in model.graph.node for name in node.input if name in chains for t in _written(chains[name]))
    if max(reads.values(), default=0) < 2:
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    chains, taken = _chains(made), names(made)
    seen: set[str] = set()
    own: Chain = []
    for node in made.graph.node:
        for position, name in enumerate(node.input):
            if name in chains and seen.isdisjoint(_written(chains[name])):
                seen.update(_written(chains[name]))
            elif name in chains:
                own += _copy(made, chains[name], taken)
                node.input[position] = own[-1].output[0]
    for node in reversed(own):
        made.graph.node.insert(0, node)
    return made


def _chains(model: onnx.ModelProto) -> dict[str, Chain]:
    """Result of a DequantizeLinear of int8 that reads nothing but constants -> the nodes from the constant to it."""
    constants, made_by, found = initializers(model), producers(model), {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            chain, value = [node], node.input[0]
            while value in made_by and made_by[value].op_type in CONSTANT_STEPS:
                chain.insert(0, made_by[value])
                value = chain[0].input[0]
            kinds = {constants[name].data_type for name in (value, *node.input[2:]) if name in constants}
            if value in constants and onnx.TensorProto.INT8 in kinds:
                found[node.output[0]] = chain
    return found


def _written(chain: Chain) -> list[str]:
    """What the runtime would write anew: the integers, and their zero point."""
    return [name for name in (chain[-1].input[0], *chain[-1].input[2:]) if name]


def _copy(model: onnx.ModelProto, chain: Chain, taken: set[str]) -> Chain:
    """The nodes again, under new names and from tensors of their own, or the optimizer would make them one again."""
    copies, value = [], _own(model, chain[0].input[0], taken)
    for node in chain:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[0] = value
        copy.name = copy.output[0] = value = fresh_name(node.output[0], taken)
        copies.append(copy)
    copies[-1].input[2:] = [_own(model, name, taken) for name in copies[-1].input[2:]]
    return copies


def _own(model: onnx.ModelProto, name: str, taken: set[str]) -> str:
    """The name of a new copy of the constant."""
    tensor = onnx.TensorProto()
    tensor.CopyFrom(initializers(model)[name])
    tensor.name = fresh_name(name, taken)
    model.graph.initializer.append(tensor)
    return tensor.name
