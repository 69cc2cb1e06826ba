"""Dense convolutions on blocked kernels, values that stay blocked between them, and inner products taken from weights."""

from __future__ import annotations

import collections

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from test_lower import assert_same, batch, everything

from onnx_distill.config import DistillConfig
from onnx_distill.lookup import attribute
from onnx_distill.lower import blocked
from onnx_distill.lower.inner_products import lower_inner_products
from onnx_distill.lower.layouts import lower_layouts

BATCH = 4


def net(body: str, weights: dict[str, tuple[int, ...]], size=(8, 8), channels: int = 2, seed: int = 0) -> onnx.ModelProto:
    """image [n, channels, size] -> body, which makes y -> its mean square over space -> logits [n, 3]."""
    rng = np.random.default_rng(seed)
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]>
    g (float[n,{channels},{size[0]},{size[1]}] image) => (float[n,3] logits) {{
        {body}
        curved = Mul(y, y)  mean = GlobalAveragePool(curved)  flat = Flatten(mean)  logits = MatMul(flat, head)
    }}""")
    for name, shape in weights.items():
        values = rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def dense(
    kernel=3, stride=1, pads=(1, 1, 1, 1), inner: int = 32, outer: int = 48, image: int = 2, bias: bool = True, size=(8, 8)
):
    kh, kw = np.broadcast_to(kernel, 2)
    body = f"""x = Conv(image, w0)
        y = Conv<pads = {list(pads)}, strides = {[stride, stride]}>(x, w{", b" if bias else ""})"""
    weights = {
        "w0": (inner, image, 1, 1),
        "w": (outer, inner, kh, kw),
        "head": (outer, 3),
        **({"b": (outer,)} if bias else {}),
    }
    return net(body, weights, size, image)


def kernels(graph: onnx.GraphProto) -> collections.Counter:
    return collections.Counter(node.op_type for node in graph.node if node.domain == blocked.DOMAIN)


CASES = {
    "3x3": {},
    "1x1": dict(kernel=1, pads=(0, 0, 0, 0)),
    "3x1": dict(kernel=(3, 1), pads=(1, 0, 1, 0)),
    "5x5 in a small image": dict(kernel=5, pads=(2, 2, 2, 2), size=(3, 4)),
    "no pads": dict(pads=(0, 0, 0, 0)),
    "uneven pads": dict(pads=(0, 1, 2, 0)),
    "3x3 stride 2": dict(stride=2),
    "1x1 stride 2": dict(kernel=1, stride=2, pads=(0, 0, 0, 0)),
    "5x5 stride 2": dict(kernel=5, stride=2, pads=(2, 2, 2, 2)),
    "4x4 stride 2, uneven pads": dict(kernel=4, stride=2, pads=(1, 0, 1, 2)),
    "3x3 stride 2, odd sizes": dict(stride=2, size=(7, 9)),
    "3x3 stride 2, no pads": dict(stride=2, pads=(0, 0, 0, 0)),
    "3x3 stride 2, pads behind": dict(stride=2, pads=(0, 0, 1, 1)),
    "wide 3x3": dict(inner=128, outer=128),
    "wide 3x3 in a small image": dict(inner=128, outer=160, size=(2, 3)),
    "wide 3x3 in 2x2 images": dict(inner=128, outer=160, size=(2, 2)),
    "wide 3x2 in 2x2 images, no bias": dict(inner=128, outer=128, kernel=(3, 2), pads=(1, 1, 1, 0), size=(2, 2), bias=False),
    "wide 3x3 stride 2": dict(inner=128, outer=128, stride=2),
    "wide 5x5 that sees pads alone": dict(inner=128, outer=128, kernel=5, pads=(2, 2, 2, 2), size=(2, 2)),
    "wide 3x3, uneven pads, no bias": dict(inner=128, outer=128, pads=(0, 1, 2, 0), bias=False),
    "wide 3x3 whose channels fill no block": dict(inner=132, outer=132),
    "no bias": dict(bias=False),
    "an image of 12 channels": dict(image=12),
    "inner channels that fill no block": dict(inner=20),
    "outer channels that fill no block": dict(outer=20),
}


@pytest.mark.parametrize("choices", list(CASES.values()), ids=list(CASES))
def test_lowered_dense_convolution_gives_the_same_gradients(choices, make_step):
    model = dense(**choices)
    given = batch(choices.get("size", (8, 8)), channels=choices.get("image", 2))
    found, wanted = (everything(make_step(model, DistillConfig(4), batch_size=size), given) for size in (BATCH, None))
    assert_same(found, wanted)


@pytest.mark.parametrize(
    "choices, convolutions",
    [({}, 3), (dict(stride=2), 6), (dict(inner=20), 0), (dict(outer=20), 1), (dict(pads=(3, 3, 3, 3)), 2)],
    ids=["all", "dx in four parts at stride 2", "inner channels", "outer channels", "no dx for wide pads"],
)
def test_blocked_kernels_where_channels_fill_blocks(choices, convolutions, training_graph):
    """Of the image, of the convolution, and its dx; 20 channels fill blocks of neither 8 nor 16."""
    graph = training_graph(dense(**choices), batch_size=BATCH)
    assert kernels(graph)["Conv"] == (convolutions if blocked.block_size() else 0)


def test_without_blocks_a_1x1_convolution_has_a_plain_convolution_as_dx(training_graph, monkeypatch, make_step):
    monkeypatch.setattr("onnx_distill.lower.block_size", lambda: None)
    model, given = dense(kernel=1, pads=(0, 0, 0, 0)), batch((8, 8))
    found, wanted = (everything(make_step(model, DistillConfig(4), batch_size=size), given) for size in (BATCH, None))
    assert_same(found, wanted)
    graph = training_graph(model, batch_size=BATCH)
    assert not kernels(graph) and sum(node.op_type == "Conv" for node in graph.node) == 3


BETWEEN = {
    "relu": "a = Relu(x)",
    "clip": "a = Clip(x, zero, six)",
    "sigmoid gate": "s = Sigmoid(x)  a = Mul(x, s)",
    "sum of two": "r = Relu(x)  a = Add(x, r)",
}


@pytest.mark.parametrize("between", list(BETWEEN.values()), ids=list(BETWEEN))
def test_values_between_blocked_convolutions_stay_blocked(between, make_step, training_graph):
    body = f"""zero = Constant<value = float {{0.0}}>()  six = Constant<value = float {{0.5}}>()
    x = Conv(image, w0)  {between}  y = Conv<pads = [1,1,1,1]>(a, w)"""
    model = net(body, {"w0": (32, 2, 1, 1), "w": (32, 32, 3, 3), "head": (32, 3)})
    given = batch((8, 8))
    found, wanted = (everything(make_step(model, DistillConfig(4), batch_size=size), given) for size in (BATCH, None))
    assert_same(found, wanted)
    if blocked.block_size():  # ConvGrad's dw wants plain operands (a, dy and the image's dx), GlobalAveragePool its input
        assert kernels(training_graph(model, batch_size=BATCH))["ReorderInput"] <= 1


def test_operand_that_broadcasts_along_channels_keeps_its_group_plain(make_step):
    model = net(
        "x = Conv(image, w0)  a = Mul(x, gain)  y = Conv(a, w)",
        {"w0": (32, 2, 1, 1), "gain": (1, 32, 1, 1), "w": (32, 32, 1, 1), "head": (32, 3)},
    )
    given = batch((8, 8))
    found, wanted = (everything(make_step(model, DistillConfig(4), batch_size=size), given) for size in (BATCH, None))
    assert_same(found, wanted)


def test_layouts_leave_a_graph_without_blocked_kernels_alone(tiny_student, training_graph, tmp_path):
    training_graph(tiny_student())
    training = onnx.load(str(tmp_path / "training_model.onnx"))
    assert list(lower_layouts(training, {}, 16).graph.node) == list(training.graph.node)


def test_inner_products_come_from_the_weights(make_step, training_graph, w3a3_student, fashion_train):
    """All but those of residual sums, whose terms are no convolution's output, and of what no convolution reads."""
    graph = training_graph(w3a3_student, batch_size=8)
    makers = {name: node for node in graph.node for name in node.output}
    whole = [n for n in graph.node if n.op_type == "ReduceSum" and len(n.input) == 1 and not attribute(n, "keepdims", 1)]
    explicit = [n for n in whole if "onnx_distill/inner_product" not in n.output[0] and makers[n.input[0]].op_type == "Mul"]
    taken = [n for n in whole if "onnx_distill/inner_product" in n.output[0]]
    assert len(taken) >= 2 * len(explicit) > 0


def test_steps_learn_the_same_with_inner_products_of_the_weights(w3a3_student, fashion_train, make_step, monkeypatch):
    """The wanted sums are small differences of large ones: 1 % is what float32 leaves of them at worst."""
    images = fashion_train.read(np.arange(16))
    given = images, np.random.default_rng(0).normal(0, 3, (16, 11)).astype(np.float32), fashion_train.labels[:16]
    found = everything(make_step(w3a3_student, batch_size=16), given)
    monkeypatch.setattr("onnx_distill.lower.lower_inner_products", lambda training: training)
    wanted = everything(make_step(w3a3_student, batch_size=16), given)
    steps = [name for name in wanted if name.endswith("/scale") and wanted[name].size == 1]
    assert len(steps) > 20
    largest = max(abs(float(wanted[name])) for name in steps)
    for name in steps:
        np.testing.assert_allclose(found[name], wanted[name], rtol=0.01, atol=1e-4 * largest, err_msg=name)


def test_inner_products_leave_other_sums_alone(tiny_float, training_graph, tmp_path):
    training_graph(tiny_float)
    training = onnx.load(str(tmp_path / "training_model.onnx"))
    assert [node.output for node in lower_inner_products(training).graph.node] == [
        node.output for node in training.graph.node
    ]
