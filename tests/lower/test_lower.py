"""The lowered training model gives what the generated one gives: loss, logits, every gradient."""

from __future__ import annotations

import collections

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_distill import runtime
from onnx_distill.config import DistillConfig
from onnx_distill.lookup import attribute
from onnx_distill.lower import blocked, lower
from onnx_distill.lower.depthwise import lower_depthwise
from onnx_distill.lower.identities import lower_identities
from onnx_distill.lower.nodes import value_shapes
from onnx_distill.trainable import fake_quant

BATCH = 4
QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


def depthwise_net(size, kernel, stride, pads, channels=32, group=None, dilation=1, bias=True, seed=0) -> onnx.ModelProto:
    """image [n, 2, size] -> 1x1 Conv (so that the depthwise one needs dx) -> depthwise Conv -> mean over space -> logits [n, 3]."""
    rng, group, (kh, kw) = np.random.default_rng(seed), group or channels, np.broadcast_to(kernel, 2)
    weights = {
        "w0": (channels, 2, 1, 1),
        "w": (channels, channels // group, kh, kw),
        "b": (channels,),
        "head": (channels, 3),
    }
    attributes = f"group = {group}, pads = {list(pads)}, strides = {[stride, stride]}, dilations = {[dilation, dilation]}"
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]>
    g (float[n,2,{size[0]},{size[1]}] image) => (float[n,3] logits) {{
        x = Conv(image, w0)
        y = Conv<{attributes}>(x, w{", b" if bias else ""})
        curved = Mul(y, y)  mean = GlobalAveragePool(curved)  flat = Flatten(mean)  logits = MatMul(flat, head)
    }}""")
    for name, shape in weights.items():
        if bias or name != "b":
            model.graph.initializer.append(numpy_helper.from_array(rng.normal(0, 0.5, shape).astype(np.float32), name))
    return model


def batch(size, count=BATCH, channels=2, seed=1):
    rng = np.random.default_rng(seed)
    images, teacher = rng.normal(size=(count, channels, *size)), rng.normal(0, 2, (count, 3))
    return images.astype(np.float32), teacher.astype(np.float32), rng.integers(0, 3, count)


def everything(step, given) -> dict[str, np.ndarray]:
    """Loss, logits and gradients of one run by name."""
    loss, logits = step.run(*given)
    return {"loss": np.float32(loss), "logits": logits, **{name: g.copy() for name, g in step.gradients.items()}}


def blocked_nodes(graph: onnx.GraphProto) -> int:
    """Depthwise convolutions on blocked kernels."""
    return sum(
        node.domain == blocked.DOMAIN and node.op_type == "Conv" and attribute(node, "group") > 1 for node in graph.node
    )


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    """Equal but for sums of at most some thousand float32 products in another order."""
    for name in wanted:
        atol = 2e-6 * np.abs(wanted[name]).max()
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=atol, err_msg=name)


# ---- quantizers


@pytest.mark.parametrize("learn_steps", ["none", "weights", "all"])
def test_lowered_quantizers_change_nothing_at_all(learn_steps, tiny_student, make_step):
    given = batch((4, 4), channels=1)
    found, wanted = (everything(make_step(tiny_student(), learn_steps=learn_steps, lowered=x), given) for x in (True, False))
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_lowered_quantizers_of_the_real_student_change_nothing_at_all(w3a3_student, fashion_train, make_step):
    images = fashion_train.read(np.arange(8))
    given = images, np.random.default_rng(0).normal(0, 3, (8, 11)).astype(np.float32), fashion_train.labels[:8]
    found, wanted = (everything(make_step(w3a3_student, lowered=lowered), given) for lowered in (True, False))
    assert len(wanted) > 100
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_no_quantizer_is_left_as_a_function(tiny_student, training_graph):
    operators = collections.Counter((n.domain, n.op_type) for n in training_graph(tiny_student()).node)
    assert not [name for domain, name in operators if domain == fake_quant.DOMAIN]
    assert operators["", "QuantizeLinear"] == 8  # five activations and three weights; dequantized besides: their eight masks
    assert operators["", "Clip"] == 5  # on integers: all but the image, the residual sum and the logits, which fill uint8


def test_a_matrix_with_a_scale_for_each_column_is_quantized_in_rows(tiny_student, training_graph):
    path, value = [], "w3"
    for _ in range(5):
        node = next(node for node in training_graph(tiny_student()).node if value in node.input[:1])
        path, value = [*path, (node.op_type, attribute(node, "axis", None))], node.output[0]
    kernels = [step for step in path if step[0] != "Clip"]
    turn = ("Einsum", None)
    assert kernels[:4] == [turn, ("QuantizeLinear", 0), ("DequantizeLinear", 0), turn]


def test_lower_does_not_change_its_argument(tiny_student, training_graph, tmp_path):
    training_graph(tiny_student(), lowered=False)
    training = onnx.load(str(tmp_path / "training_model.onnx"))
    before = training.SerializeToString(deterministic=True)
    student = tiny_student()
    lower(training, fake_quant.fake_quantized(student, ()), BATCH)
    assert training.SerializeToString(deterministic=True) == before


def test_copies_are_taken_out_and_outputs_keep_their_names():
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y, float[2] z) {
        a = Identity(x)  b = Sum(a)  c = Sum(b, x)  y = Neg(c)  z = Sum(b)
    }""")
    made = lower_identities(model)
    assert [(node.op_type, *node.input, *node.output) for node in made.graph.node] == [
        ("Sum", "x", "x", "c"),
        ("Neg", "c", "y"),
        ("Sum", "x", "z"),
    ]


# ---- the blocked layout


def test_block_size_is_that_of_reorder_input():
    block = blocked.block_size()
    assert block in (None, 8, 16)
    if block:
        node = helper.make_node("ReorderInput", ["x"], ["y"], domain=blocked.DOMAIN)
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2 * block, 3, 5]) for name in "xy"]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(blocked.DOMAIN, 1)]
        model = helper.make_model(helper.make_graph([node], "g", values[:1], values[1:]), opset_imports=opsets, ir_version=8)
        x = np.random.default_rng(0).normal(size=(2, 2 * block, 3, 5)).astype(np.float32)
        found = runtime.run(runtime.open_session(model, threads=1), x)[0]
        assert np.array_equal(found.ravel(), blocked.as_blocked(x, block).ravel())


def test_as_blocked_puts_the_channels_of_a_block_last():
    x = np.arange(2 * 16 * 2 * 3).reshape(2, 16, 2, 3)
    assert np.array_equal(blocked.as_blocked(x, 8)[1, 1, 0, 2], x[1, 8:16, 0, 2])


# ---- depthwise convolutions

GEOMETRIES = {  # (height, width), kernel, stride, pads (top, left, bottom, right)
    "3x3": ((7, 7), 3, 1, (1, 1, 1, 1)),
    "3x3 no pads": ((6, 9), 3, 1, (0, 0, 0, 0)),
    "3x3 uneven pads": ((6, 5), 3, 1, (0, 1, 2, 0)),
    "5x5": ((9, 6), 5, 1, (2, 2, 2, 2)),
    "1x1": ((5, 4), 1, 1, (0, 0, 0, 0)),
    "2x2": ((5, 5), 2, 1, (1, 0, 0, 1)),
    "3x3 stride 2, even": ((8, 8), 3, 2, (1, 1, 1, 1)),
    "3x3 stride 2, odd": ((7, 9), 3, 2, (1, 1, 1, 1)),
    "3x3 stride 2, as TensorFlow pads": ((8, 6), 3, 2, (0, 0, 1, 1)),
    "5x5 stride 2": ((10, 7), 5, 2, (2, 2, 2, 2)),
    "one output": ((3, 3), 3, 1, (0, 0, 0, 0)),
}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("geometry", list(GEOMETRIES.values()), ids=list(GEOMETRIES))
def test_blocked_depthwise_gives_the_same_gradients(geometry, bias, make_step):
    model, given = depthwise_net(*geometry, bias=bias), batch(geometry[0])
    found, wanted = (everything(make_step(model, DistillConfig(4), batch_size=size), given) for size in (BATCH, None))
    assert_same(found, wanted)


@pytest.mark.parametrize("geometry", list(GEOMETRIES.values()), ids=list(GEOMETRIES))
def test_blocked_kernels_are_used_where_the_machine_has_them(geometry, training_graph):
    stride_1_or_2 = blocked_nodes(training_graph(depthwise_net(*geometry), batch_size=BATCH))
    assert stride_1_or_2 == (3 if blocked.block_size() else 0)  # y, dx, dw
    assert blocked_nodes(training_graph(depthwise_net(*geometry))) == 0


LEFT_ALONE = {
    "channels that fill no block": dict(channels=12),
    "groups of two channels": dict(group=16),
    "stride 3": dict(stride=3),
    "dilated": dict(dilation=2, pads=(2, 2, 2, 2)),
    "kernel that is no square": dict(kernel=(3, 1), pads=(1, 0, 1, 0)),
    "pads wider than the kernel": dict(pads=(3, 3, 3, 3)),
    "last rows read by no window": dict(size=(9, 9), kernel=2, stride=2, pads=(0, 0, 0, 0)),
}


@pytest.mark.parametrize("choices", list(LEFT_ALONE.values()), ids=list(LEFT_ALONE))
def test_other_convolutions_are_left_alone(choices, training_graph, make_step):
    model = depthwise_net(**{"size": (7, 7), "kernel": 3, "stride": 1, "pads": (1, 1, 1, 1), **choices})
    assert blocked_nodes(training_graph(model, batch_size=BATCH)) == 0
    given = batch(choices.get("size", (7, 7)))
    found, wanted = (everything(make_step(model, batch_size=size), given) for size in (BATCH, None))
    assert_same(found, wanted)


def test_a_depthwise_convolution_on_the_image_needs_no_dx(make_step, training_graph):
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[n,32,5,5] image) => (float[n,3] logits) {
        y = Conv<group = 32, pads = [1,1,1,1]>(image, w)  mean = GlobalAveragePool(y)  flat = Flatten(mean)  logits = MatMul(flat, head)
    }"""
    model, rng = onnx.parser.parse_model(text), np.random.default_rng(0)
    for name, shape in (("w", (32, 1, 3, 3)), ("head", (32, 3))):
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    given = batch((5, 5), channels=32)
    found, wanted = (everything(make_step(model, batch_size=size), given) for size in (BATCH, None))
    assert_same(found, wanted)
    assert blocked_nodes(training_graph(model, batch_size=BATCH)) == (2 if blocked.block_size() else 0)


def test_two_depthwise_convolutions_in_a_row_share_no_names(make_step):
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[n,32,5,5] image) => (float[n,3] logits) {
        x = Conv(image, w0)
        y = Conv<group = 32, pads = [1,1,1,1]>(x, w)  z = Conv<group = 32, pads = [1,1,1,1]>(y, w)  s = Add(x, z)
        mean = GlobalAveragePool(s)  flat = Flatten(mean)  logits = MatMul(flat, head)
    }"""
    model, rng = onnx.parser.parse_model(text), np.random.default_rng(0)
    for name, shape in (("w0", (32, 32, 1, 1)), ("w", (32, 1, 3, 3)), ("head", (32, 3))):
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name))
    given = batch((5, 5), channels=32)
    found, wanted = (everything(make_step(model, DistillConfig(4), batch_size=size), given) for size in (BATCH, None))
    assert_same(found, wanted)


def test_the_real_student_trains_on_blocked_kernels_as_on_plain_ones(w3a3_student, fashion_train, make_step, training_graph):
    """Sums in another order move a few activations over a rounding tie, so gradients are near, not equal."""
    images = fashion_train.read(np.arange(64))
    given = images, np.random.default_rng(0).normal(0, 3, (64, 11)).astype(np.float32), fashion_train.labels[:64]
    found, wanted = (everything(make_step(w3a3_student, batch_size=size), given) for size in (64, None))
    weights = [name for name in wanted if wanted[name].ndim == 4]
    error = sum(np.square(found[name] - wanted[name]).sum() for name in weights)
    assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-3)
    assert error < 0.01 * sum(np.square(wanted[name]).sum() for name in weights)
    assert blocked_nodes(training_graph(w3a3_student, batch_size=64)) >= (20 if blocked.block_size() else 0)


def test_value_shapes_pins_the_batch(tiny_float):
    shapes = value_shapes(tiny_float, 5)
    assert shapes["image"] == [5, 1, 4, 4] and shapes["a1"] == [5, 4, 4, 4] and shapes["w3"] == [64, 3]


def test_a_model_without_depthwise_convolutions_keeps_its_nodes(training_graph, tiny_student, tmp_path):
    training_graph(tiny_student())
    training = onnx.load(str(tmp_path / "training_model.onnx"))
    assert list(lower_depthwise(training, value_shapes(training, BATCH), 16).graph.node) == list(training.graph.node)
    assert QUANTIZERS[0] in {node.op_type for node in training.graph.node}
