"""Gradients that the runtime lacks (1.19.2), operator by operator: the table RULES, and a model whose nodes have them.

A node stays what it is in every file that a user sees. Only in the model that training artifacts are made from it stands inside
a function of our own, because that can be given a gradient: one function for each operator, set of attributes and set of inputs
that want a gradient. The runtime fails where the first input of such a function wants none, or where a gradient is given for an
input that wants none (1.19.2): the inputs that want one come first, and only they get one.
"""

from __future__ import annotations

import hashlib
from typing import Callable, Collection

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_distill import _ort, lookup
from onnx_distill.edit import fresh_name
from onnx_distill.errors import InputError
from onnx_distill.facts.logits import value_types
from onnx_distill.gradients.activation import ACTIVATION_RULES
from onnx_distill.gradients.norm import NORM_RULES
from onnx_distill.gradients.pool import POOL_RULES
from onnx_distill.gradients.reduce import REDUCE_RULES
from onnx_distill.gradients.site import Known, Rule, Site

DOMAIN = "onnx_distill.gradients"
RULES: dict[str, Rule] = {**ACTIVATION_RULES, **NORM_RULES, **REDUCE_RULES, **POOL_RULES}
# The runtime's own gradient is right in some forms of these operators: only where this says True is ours wanted.
ONLY_WHERE: dict[str, Callable[[Site], bool]] = {
    "Gelu": lambda f: f.attribute("approximate", b"none") == b"tanh",
    "Where": lambda f: len({f.graph.shape(name) for name in f.node.input}) > 1,
}


class _Graph:
    """Look-ups in the model, and which values want a gradient."""

    def __init__(self, model: onnx.ModelProto, trainable: Collection[str]):
        self.opset, self.constants = lookup.opset(model), lookup.initializers(model)
        self._types = value_types(model)
        self.wanting = set(trainable)
        for node in model.graph.node:
            if not self.wanting.isdisjoint(node.input):
                self.wanting.update(name for name in node.output if name and self._is_float(name))

    def _is_float(self, value: str) -> bool:
        known = self._types.get(value)
        return known is None or known.type.tensor_type.elem_type in (TensorProto.FLOAT, TensorProto.UNDEFINED)

    def shape(self, value: str) -> tuple[int | str, ...] | None:
        if value in self.constants:
            return tuple(self.constants[value].dims)
        known = self._types.get(value)
        return None if known is None or not known.type.tensor_type.HasField("shape") else tuple(lookup.shape_of(known))


def is_ours(site: Site) -> bool:
    """Whether the node's gradient is one of RULES."""
    operator = site.node.op_type
    return operator in RULES and (operator not in ONLY_WHERE or ONLY_WHERE[operator](site))


def problem(node: onnx.NodeProto, graph: Known) -> str | None:
    """Why its rule cannot give this node a gradient, or None where it can."""
    try:
        RULES[node.op_type](Site(node, graph))
    except InputError as error:
        return str(error)
    return None


def differentiable(model: onnx.ModelProto, trainable: Collection[str]) -> onnx.ModelProto:
    """A copy for training artifacts: the same outputs, and every node between `trainable` initializers and the outputs that has
    a row in RULES has its gradient. Raises InputError where a gradient needs a shape that is not known."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph, functions = _Graph(made, trainable), {}
    for node in made.graph.node:
        if node.domain not in ("", "ai.onnx") or graph.wanting.isdisjoint(node.input):
            continue
        if node.op_type == "LayerNormalization":
            _list_what_its_gradient_reads(node, made)
        elif node.op_type in RULES:
            function = _wrap(node, Site(node, graph), graph)
            functions.update({function.name: function} if function is not None else {})
    if functions:
        made.functions.extend(functions.values())
        made.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return made


def _list_what_its_gradient_reads(node: onnx.NodeProto, model: onnx.ModelProto) -> None:
    """The gradient of LayerNormalization reads all three outputs and wants a bias, of zeros if there is none (1.19.2)."""
    taken = lookup.names(model)
    outputs = [*node.output, "", ""][:3]
    node.output[:] = [name or fresh_name(f"{node.output[0]}/{place}", taken) for place, name in enumerate(outputs)]
    if len(node.input) < 3 or not node.input[2]:
        bias = fresh_name(f"{node.output[0]}/zero_bias", taken)
        scale = lookup.initializers(model)[node.input[1]]
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(scale.dims, np.float32), bias))
        node.input[:] = [*node.input[:2], bias]


def _wrap(node: onnx.NodeProto, site: Site, graph: _Graph) -> onnx.FunctionProto | None:
    """The function that stands for the node from here on, its gradient registered; None where the runtime's own will do."""
    if not is_ours(site):
        return None
    made = RULES[node.op_type](site)
    gradients = made if isinstance(made, list) else [made]
    wanted = [k for k, name in enumerate(node.input) if name in graph.wanting and k < len(gradients)]
    inside = [k for k, name in enumerate(node.input) if _belongs_inside(graph.constants.get(name))]
    others = [k for k in range(len(node.input)) if k not in wanted + inside and node.input[k]]
    order = {old: new for new, old in enumerate([*wanted, *others])}
    found = {f"GI({order[k]})": gradient for k in wanted if (gradient := gradients[k]) is not None}
    nodes = [(op, [_moved(name, order) for name in inputs], *rest) for op, inputs, *rest in site.formula.results(found)]
    function = _function(node, list(order), [graph.constants[node.input[k]] for k in inside], graph.opset)
    function.name = f"{node.op_type}_{_digest(function, nodes)}"
    _ort.register_gradient(DOMAIN, function.name, nodes, stopped=range(len(wanted), len(order)))
    node.CopyFrom(helper.make_node(function.name, [node.input[k] for k in order], node.output, node.name, domain=DOMAIN))
    return function


def _belongs_inside(tensor: onnx.TensorProto | None) -> bool:
    """Axes and the like: integers are no input of the function, so that shapes can be inferred through it."""
    return tensor is not None and tensor.data_type == TensorProto.INT64


def _moved(name: str, order: dict[int, int]) -> str:
    return f"I({order[int(name[2:-1])]})" if name.startswith("I(") else name


def _function(node: onnx.NodeProto, places: list[int], inside: list[onnx.TensorProto], opset: int) -> onnx.FunctionProto:
    """inputs x0, x1, ... (of the node's inputs those at `places`) -> y, the node as its body."""
    names = {node.input[k]: f"x{k}" for k in places}
    body = onnx.NodeProto()
    body.CopyFrom(node)
    body.input[:] = [names.get(name, name) for name in node.input]
    body.output[:], body.name = ["y"], ""
    constants = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in inside]
    return helper.make_function(
        DOMAIN, node.op_type, [f"x{k}" for k in places], ["y"], [*constants, body], [helper.make_opsetid("", opset)]
    )


def _digest(function: onnx.FunctionProto, nodes: list[_ort.GradientNode]) -> str:
    content = function.SerializeToString(deterministic=True) + repr(nodes).encode()
    return hashlib.sha256(content).hexdigest()[:12]
