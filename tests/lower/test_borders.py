"""Borders of a depthwise convolution's input written as integers: the same step to the bit, and where it must not be done."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from test_lower import batch, everything

import onnx_distill.lower as lowering
from onnx_distill import pipeline
from onnx_distill.config import QuantizeConfig
from onnx_distill.data import ArrayImages
from onnx_distill.lookup import attribute
from onnx_distill.lower.blocked import DOMAIN

BATCH, CHANNELS = 3, 32


def student(size=(9, 12), kernel=3, stride=1, pads=(1, 1, 1, 1), also="", bits=4) -> onnx.ModelProto:
    """image -> 1x1 Conv -> Relu -> depthwise Conv -> mean over space -> logits [n, 3], quantized; also: more nodes that make `side`."""
    attributes = f"group = {CHANNELS}, pads = {list(pads)}, strides = {[stride, stride]}"
    total = "Add(flat, side)" if also else "Identity(flat)"
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]>
    g (float[n,3,{size[0]},{size[1]}] image) => (float[n,3] logits) {{
        a = Conv(image, w0)  x = Relu(a)  y = Conv<{attributes}>(x, w, b)  z = Relu(y)
        mean = GlobalAveragePool(z)  flat = Flatten(mean)  {also}  all = {total}  logits = MatMul(all, head)
    }}""")
    shapes = {"w0": (CHANNELS, 3, 1, 1), "w": (CHANNELS, 1, kernel, kernel), "b": (CHANNELS,), "head": (CHANNELS, 3)}
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(0, 0.5, shape).astype(np.float32), name))
    config = QuantizeConfig(weight_bits=bits, activation_bits=bits, target="ort-x86")
    return pipeline.quantize_with_images(model, ArrayImages(batch(size, channels=3)[0]), config, BATCH)


def wider(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """What writes borders."""
    return [node for node in graph.node if node.op_type == "Pad" and "/borders/" in node.name]


def padding(graph: onnx.GraphProto) -> set[tuple[int, int]]:
    """Padding left and right of the depthwise convolutions that read the quantized x or its view for dw."""
    convs = [
        node for node in graph.node if node.op_type == "Conv" and node.domain == DOMAIN and attribute(node, "group", 1) > 1
    ]
    return {(attribute(node, "pads")[1], attribute(node, "pads")[3]) for node in convs}


CASES = {
    "3x3": dict(),
    "5x5": dict(kernel=5, pads=(2, 2, 2, 2)),
    "8 bits": dict(bits=8),
    "more on the right": dict(kernel=3, pads=(1, 0, 1, 2)),
}


@pytest.mark.parametrize("case", list(CASES.values()), ids=list(CASES))
def test_a_step_gives_the_same_to_the_bit(case, make_step, training_graph, monkeypatch):
    quantized, given = student(**case), batch((9, 12), BATCH, channels=3)
    assert len(wider(training_graph(quantized, "all", batch_size=BATCH))) == 1
    found = everything(make_step(quantized, batch_size=BATCH), given)
    monkeypatch.setattr(lowering, "lower_borders", lambda training, block: training)
    wanted = everything(make_step(quantized, batch_size=BATCH), given)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_neither_the_forward_convolution_nor_dw_pads_columns_then(training_graph):
    graph = training_graph(student(), "all", batch_size=BATCH)
    assert padding(graph) == {(0, 0), (1, 1)}  # dx, of dy, still does


LEFT_ALONE = {
    "no columns of padding": dict(pads=(1, 0, 1, 0)),
    "another reader": dict(also="pooled = GlobalAveragePool(x)  side = Flatten(pooled)"),
    "stride 2": dict(stride=2),
}


@pytest.mark.parametrize("case", list(LEFT_ALONE.values()), ids=list(LEFT_ALONE))
def test_others_are_left_alone(case, training_graph):
    assert not wider(training_graph(student(**case), "all", batch_size=BATCH))
