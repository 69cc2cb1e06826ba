"""Cross-layer equalisation: the float model whose channels, between two layers, are as large as quantizers like them best.

Dividing channel i of a layer's result by s_i and multiplying column i of the weights that read it by s_i changes no answer, for what
lies between lets a factor pass (channels.py). It changes what one quantizer for all channels of the result costs, and what the
quantizers of the weights, one a row, cost. With u = s^2, and all steps in proportion to the root mean squares that they have to hold,

    noise of the result     sum_i p_i / u_i   times   sum_i g_i u_i          p_i = mean x_i^2
    noise of the weights    sum_i g_i u_i     times   sum_i p_i / u_i        g_i = sum_o w_oi^2 / sum_j w_oj^2 p_j

and both are least for u_i = sqrt(p_i / g_i) (Cauchy and Schwarz): SmoothQuant's rule with alpha 1/2 (Xiao et al. 2022), its maxima
replaced by root mean squares. Where several values share their factors (a sum's operands), p and g are summed over them.

Law: a factor in the teacher, whatever it is, changes p_i and g_i so that it cancels. Teachers that are the same function up to such
factors become the same model, but for float32 rounding; one that is equalised stays as it is.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from onnx_distill.integer_form.channels import Channels
from onnx_distill.lookup import attribute, consumers, producers
from onnx_distill.normalize.graph import Graph
from onnx_distill.placement.table import PASSING, PLACEMENT, weight_axis

METADATA_KEY = "onnx_distill.equalized"  # in a model's metadata_props: JSON, layer's result -> base64 of float32 factors s
CLOSED = 1e-4  # share of p that comes from before a Relu: a channel that calibration never opened has a size all the same
OPENERS = frozenset(["Relu", "LeakyRelu", "PRelu"])


@dataclass(frozen=True)
class _Model:
    """A copy of a model that is being rewritten, and what shares factors in it."""

    graph: Graph
    channels: Channels

    @classmethod
    def of(cls, model: onnx.ModelProto) -> _Model:
        made = onnx.ModelProto()
        made.CopyFrom(model)
        graph = Graph(made)
        return cls(graph, Channels(graph))


def channel_axes(model: onnx.ModelProto) -> dict[str, int]:
    """Value -> axis of its channels, for each value whose channels could have a factor: empty where no factor can pass."""
    channels = _Model.of(model).channels
    return {value: channels.axis[value] for value in channels.of} if channels.layers else {}


def equalized(model: onnx.ModelProto, powers: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A copy of the float model with the channels between its layers equalised; its metadata says by which factors (see as_equalized).

    powers: value of channel_axes -> mean of x^2 of each of its channels on sample images. All names stay; a bias or constant that others
    read too becomes the layer's own.
    """
    copy = _Model.of(model)
    factors = np.sqrt(_balanced(*_sizes(copy, powers))).astype(np.float32).astype(np.float64)
    texts = {result: _text(factors[copy.channels.of[result]]) for _, _, result in copy.channels.layers if result}
    made = _scaled(copy, factors)
    helper.set_model_props(made, {**{e.key: e.value for e in made.metadata_props}, METADATA_KEY: json.dumps(texts)})
    return made


def as_equalized(teacher: onnx.ModelProto, student: onnx.ModelProto) -> onnx.ModelProto:
    """The float teacher with the factors that its student was made with, so that inner values of one name can be compared; it answers as
    before. The teacher itself where the student has no such factors."""
    texts = {entry.key: entry.value for entry in student.metadata_props}.get(METADATA_KEY)
    if texts is None:
        return teacher
    copy = _Model.of(teacher)
    factors = np.ones(copy.channels.count)
    for value, text in json.loads(texts).items():
        found = np.frombuffer(base64.b64decode(text), np.float32)
        if len(copy.channels.of.get(value, ())) == len(found):
            factors[copy.channels.of[value]] = found
    return _scaled(copy, factors)


def _text(factors: np.ndarray) -> str:
    return base64.b64encode(factors.astype(np.float32).tobytes()).decode()


def _sizes(model: _Model, powers: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(p, g) of each number of channels.of."""
    channels, made_by, readers = model.channels, producers(model.graph.model), consumers(model.graph.model)
    p, g = np.zeros(channels.count), np.zeros(channels.count)
    for value, ids in channels.of.items():
        if PLACEMENT.get(made_by[value].op_type) != PASSING:  # else it shares the quantizer of what it was made from
            closed = all(reader.op_type in OPENERS for reader in readers[value])
            np.add.at(p, ids, powers[value] * (CLOSED if closed else 1.0))
    for node, reads, _ in channels.layers:
        if reads:
            weights = np.square(_blocks(node, model.graph))
            rows = (weights * powers[reads].reshape(len(weights), 1, -1, 1)).sum(axis=(2, 3), keepdims=True)
            shares = np.divide(weights, rows, out=np.zeros_like(weights), where=rows > 0)
            np.add.at(g, channels.of[reads], shares.sum(axis=(1, 3)).reshape(-1))
    return p, g


def _balanced(p: np.ndarray, g: np.ndarray) -> np.ndarray:
    """u = sqrt(p / g). A channel that nothing reads is made as large as a typical one, so is the column of one that is always 0; 1 for
    one that is both."""
    live = (p > 0) & (g > 0)
    typical = float(np.median(np.sqrt(p[live] * g[live]))) if live.any() else 1.0  # p / u = g u = sqrt(p g)
    u = np.ones(len(p))
    u[live] = np.sqrt(p[live] / g[live])
    u[(p > 0) & ~live] = p[(p > 0) & ~live] / typical
    u[(g > 0) & ~live] = typical / g[(g > 0) & ~live]
    return u


def _blocks(node: onnx.NodeProto, graph: Graph) -> np.ndarray:
    """The layer's weights, float64 [groups, rows of a group, columns, taps]."""
    weights = np.asarray(graph.constant(node.input[1]), np.float64)
    if node.op_type == "Conv":
        groups = attribute(node, "group", 1)
        return weights.reshape(groups, len(weights) // groups, weights.shape[1], -1)
    return (weights if weight_axis(node, 2) == 0 else weights.T)[None, :, :, None]


def _scaled(model: _Model, factors: np.ndarray) -> onnx.ModelProto:
    """The model with each result divided by its channels' factors, and what reads it multiplied by them."""
    graph, channels = model.graph, model.channels
    for node, reads, makes in channels.layers:
        blocks, inputs = _blocks(node, graph), list(node.input)
        if reads:
            blocks = blocks * factors[channels.of[reads]].reshape(len(blocks), 1, -1, 1)
        if makes:
            rows = factors[channels.of[makes]]
            blocks = blocks / rows.reshape(len(blocks), -1, 1, 1)
            if len(inputs) > 2 and inputs[2]:
                bias = np.asarray(graph.constant(inputs[2]), np.float64)
                inputs[2] = graph.set_constant(
                    inputs[2], (bias / rows.reshape([1] * (bias.ndim - 1) + [-1])).astype(np.float32), node
                )
        inputs[1] = graph.set_constant(inputs[1], _unblocked(blocks, node, graph).astype(np.float32), node)
        graph.replace(node, [graph.changed(node, inputs)])
    for node in channels.offsets:
        place = 0 if graph.is_constant(node.input[0]) else 1
        value, offset = node.input[1 - place], np.asarray(graph.constant(node.input[place]), np.float64)
        shape = [-1 if axis == channels.axis[value] else 1 for axis in range(graph.rank(value) or 0)]
        inputs = list(node.input)
        divided = (offset / factors[channels.of[value]].reshape(shape)).astype(np.float32)
        inputs[place] = graph.set_constant(inputs[place], divided, node)
        graph.replace(node, [graph.changed(node, inputs)])
    return graph.finish()


def _unblocked(blocks: np.ndarray, node: onnx.NodeProto, graph: Graph) -> np.ndarray:
    if node.op_type == "Conv":
        return blocks.reshape(-1, *blocks.shape[2:3], *(graph.shape(node.input[1]) or ())[2:])
    return blocks[0, :, :, 0] if weight_axis(node, 2) == 0 else np.ascontiguousarray(blocks[0, :, :, 0].T)
