"""gradients/: every rule beside differences of the operator's outputs, and that a wrong rule would be seen."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from slopes import gradients as gradients_of
from slopes import worst_slope_error

from onnx_distill import gradients, runtime
from onnx_distill.errors import InputError
from onnx_distill.gradients import RULES, differentiable
from onnx_distill.gradients.pool import POOL_RULES
from onnx_distill.lookup import initializers
from onnx_distill.trainable.fake_quant import fake_quantized

RIGHT = 2e-6  # float32 gradients, differences in float64: 5e-7 is the worst that was seen
IMAGES = "float[2, 3, 4, 4]"
SHAPES = {"p": (2, 3, 4, 4), "per_channel": (3, 1, 1), "one": (1,), "channels": (3,), "row": (4,), "other": (3, 1, 4)}
VALUES = {"space": np.int64([2, 3]), "zero": np.float32(0)}


def net(body: str, opset: int = 17, outputs: str = "float y", images: str = IMAGES) -> onnx.ModelProto:
    """v is the images plus the parameter p."""
    text = f'<ir_version: 8, opset_import: ["": {opset}]> net ({images} x) => ({outputs}) {{ v = Add(x, p) {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    made, rng = {name for node in model.graph.node for name in node.output}, np.random.default_rng(0)
    for place, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{place}"
    for name in dict.fromkeys(name for node in model.graph.node for name in node.input):
        if name and name not in made and name != "x":
            value = VALUES[name] if name in VALUES else rng.standard_normal(SHAPES[name]).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(value, name))
    model.graph.output[0].CopyFrom(onnx.shape_inference.infer_shapes(model).graph.output[0])
    return model


CASES = {
    "Elu": ("y = Elu(v)", 17, ["p"]),
    "Elu, alpha": ("y = Elu<alpha = 0.5>(v)", 17, ["p"]),
    "Selu": ("y = Selu(v)", 17, ["p"]),
    "Selu, alpha and gamma": ("y = Selu<alpha = 1.2, gamma = 0.7>(v)", 21, ["p"]),
    "Celu": ("y = Celu(v)", 17, ["p"]),
    "Celu, alpha": ("y = Celu<alpha = 0.5>(v)", 17, ["p"]),
    "Softplus": ("y = Softplus(v)", 17, ["p"]),
    "Softsign": ("y = Softsign(v)", 17, ["p"]),
    "Mish": ("y = Mish(v)", 18, ["p"]),
    "ThresholdedRelu": ("y = ThresholdedRelu<alpha = 0.3>(v)", 17, ["p"]),
    "HardSigmoid": ("y = HardSigmoid(v)", 17, ["p"]),
    "HardSigmoid, alpha and beta": ("y = HardSigmoid<alpha = 0.3, beta = 0.4>(v)", 21, ["p"]),
    "HardSwish": ("y = HardSwish(v)", 17, ["p"]),
    "Gelu, tanh": ('y = Gelu<approximate = "tanh">(v)', 20, ["p"]),
    "Sign": ("a = Sign(v) y = Mul(a, v)", 17, ["p"]),
    "Floor": ("a = Floor(v) y = Mul(a, v)", 17, ["p"]),
    "Ceil": ("a = Ceil(v) y = Mul(a, v)", 17, ["p"]),
    "Round": ("a = Round(v) y = Mul(a, v)", 17, ["p"]),
    "PRelu, a slope for each channel": ("y = PRelu(v, per_channel)", 17, ["p", "per_channel"]),
    "PRelu, one slope": ("y = PRelu(v, one)", 17, ["p", "one"]),
    "PRelu, a slope that stays": ("y = PRelu(v, one)", 17, ["p"]),
    "PRelu of the images": ("a = PRelu(x, per_channel) y = Add(a, v)", 17, ["per_channel"]),
    "Where that broadcasts": ("c = Greater(v, zero) y = Where(c, v, per_channel)", 17, ["p", "per_channel"]),
    "Where, the other way": ("c = Greater(x, zero) y = Where(c, other, v)", 17, ["p", "other"]),
    "Where, one trained": ("c = Greater(x, zero) a = Where(c, per_channel, x) y = Add(a, v)", 17, ["per_channel"]),
    "ReduceMax over space": ("y = ReduceMax<axes = [2, 3]>(v)", 17, ["p"]),
    "ReduceMax, axis dropped": ("y = ReduceMax<axes = [-1], keepdims = 0>(v)", 17, ["p"]),
    "ReduceMax, axes an input": ("y = ReduceMax<keepdims = 0>(v, space)", 20, ["p"]),
    "ReduceMin of all": ("y = ReduceMin(v)", 18, ["p"]),
    "ReduceL1": ("y = ReduceL1<keepdims = 0>(v, space)", 20, ["p"]),
    "ReduceSumSquare": ("y = ReduceSumSquare<axes = [1]>(v)", 17, ["p"]),
    "LRN": ("y = LRN<size = 3, alpha = 0.5, beta = 0.7, bias = 1.5>(v)", 17, ["p"]),
    "LRN, as in AlexNet": ("y = LRN<size = 5, alpha = 0.0001, beta = 0.75, bias = 1.0>(v)", 20, ["p"]),
    "InstanceNormalization": ("y = InstanceNormalization(v, channels, c2)", 17, ["p", "channels", "c2"]),
    "InstanceNormalization, axes an input": ("y = InstanceNormalization(v, channels, c2)", 18, ["channels", "p"]),
    "InstanceNormalization of images": ("a = InstanceNormalization(x, channels, c2) y = Add(a, v)", 17, ["channels", "c2"]),
    "LayerNormalization, one output": ("y = LayerNormalization(v, row, row2)", 17, ["p", "row", "row2"]),
    "LayerNormalization, no bias": ("y = LayerNormalization(v, row)", 17, ["p", "row"]),
    "AveragePool": ("y = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(v)", 17, ["p"]),
    "Resize": ("y = Resize(v, , scales)", 18, ["p"]),
}
SHAPES.update(c2=(3,), row2=(4,))
VALUES.update(scales=np.float32([1, 1, 2, 1.5]))
# What the runtime has a right gradient for, and attention and normalizations lean on.
RUNTIMES = {
    "Gelu": ("y = Gelu(v)", 20, ["p"]),
    "Erf": ("y = Erf(v)", 17, ["p"]),
    "Max of three that broadcast": ("y = Max(v, x, per_channel)", 17, ["p", "per_channel"]),
    "Min of one": ("y = Min(v)", 17, ["p"]),
    "Softmax inside": ("a = Softmax<axis = -1>(v) y = Mul(a, x)", 17, ["p"]),
    "Softmax over channels": ("a = Softmax<axis = 1>(v) y = Mul(a, x)", 17, ["p"]),
    "attention": ("t = Transpose<perm = [0, 1, 3, 2]>(v) s = MatMul(v, t) a = Softmax(s) y = MatMul(a, v)", 17, ["p"]),
    "a batch of products": ("y = MatMul(other3, v)", 17, ["p", "other3"]),
    "Where of one shape": ("c = Greater(v, x) y = Where(c, v, x)", 17, ["p"]),
    "Reciprocal and Sqrt": ("s = Mul(v, v) a = Add(s, one) b = Sqrt(a) y = Reciprocal(b)", 17, ["p"]),
}
SHAPES.update(other3=(3, 4, 4))


@pytest.mark.parametrize("body, opset, parameters", CASES.values(), ids=CASES)
def test_rule_gives_the_slope(body, opset, parameters):
    assert worst_slope_error(net(body, opset), parameters) < RIGHT


@pytest.mark.parametrize("body, opset, parameters", RUNTIMES.values(), ids=RUNTIMES)
def test_the_runtime_gives_the_slope(body, opset, parameters):
    model = net(body, opset)
    assert not differentiable(model, parameters).functions
    assert worst_slope_error(model, parameters) < RIGHT


def test_every_rule_has_a_case():
    assert set(RULES) == {op for op in RULES if any(f"{op}(" in body or f"{op}<" in body for body, _, _ in CASES.values())}
    assert set(POOL_RULES) <= set(RULES)


@pytest.mark.parametrize(
    "operator, wrong",
    [
        ("Softplus", lambda f: f.dy * f("Tanh", f.x)),
        ("Softsign", lambda f: f.dy * f("Softsign", f.x)),
        ("Elu", lambda f: f.dy * (1.001 * f("Min", f.y, 0.0) + 1.0)),
    ],
    ids=["another function", "the operator itself", "off by a thousandth"],
)
def test_a_planted_wrong_rule_is_seen(operator, wrong, monkeypatch):
    monkeypatch.setitem(RULES, operator, wrong)
    assert worst_slope_error(net(f"y = {operator}(v)"), ["p"]) > 10 * RIGHT


@pytest.mark.parametrize("body, opset, parameters", CASES.values(), ids=CASES)
def test_outputs_stay_bit_exact(body, opset, parameters):
    model = net(body, opset)
    made = differentiable(model, parameters)
    x = {"x": np.random.default_rng(1).standard_normal((2, 3, 4, 4)).astype(np.float32)}
    one, other = (runtime.open_session(m, 1, optimized=False).run(None, x)[0] for m in (model, made))
    assert np.array_equal(one, other)


def test_what_needs_no_gradient_stays_itself_and_the_given_model_is_not_changed():
    model = net("a = Elu(x) b = Add(a, v) y = Elu(b)")
    before = model.SerializeToString(deterministic=True)
    made = differentiable(model, ["p"])
    assert [node.domain for node in made.graph.node] == ["", "", "", gradients.DOMAIN]
    assert model.SerializeToString(deterministic=True) == before


def test_what_integers_and_shapes_do_is_no_way_of_a_gradient():
    body = "c = Greater(v, zero) f = Cast<to = 1>(c) g = Elu(f) y = Add(g, v)"
    assert [node.domain for node in differentiable(net(body), ["p"]).graph.node].count(gradients.DOMAIN) == 0


def test_equal_nodes_share_a_function_and_others_do_not():
    made = differentiable(net("a = Elu(v) b = Elu(a) c = Elu<alpha = 0.5>(b) y = Softplus(c)"), ["p"])
    assert len(made.functions) == 3


def test_a_gradient_that_needs_an_unknown_shape_is_an_error():
    model = net("r = Reshape(v, space) y = ReduceMax(r)", 18)
    model.graph.node[1].input[1] = "given"
    model.graph.input.append(onnx.helper.make_tensor_value_info("given", onnx.TensorProto.INT64, ["rank"]))
    with pytest.raises(InputError, match="no shape is known for 'r', and its gradient needs one"):
        differentiable(model, ["p"])


# ---- between quantizers

QUANTIZED = """q = QuantizeLinear(v, step, middle) d = DequantizeLinear(q, step, middle) {body}
    r = QuantizeLinear(e, step, middle) y = DequantizeLinear(r, step, middle)"""
VALUES.update(step=np.float32(0.05), middle=np.uint8(128), tokens=np.int64([0, 3, 16]))  # -6.4 to 6.35: nothing is clipped
BETWEEN = {
    "Elu": ("e = Elu(d)", 17),
    "Mish": ("e = Mish(d)", 18),
    "Gelu": ("e = Gelu(d)", 20),
    "Gelu, tanh": ('e = Gelu<approximate = "tanh">(d)', 20),
    "HardSwish": ("e = HardSwish(d)", 17),
    "PRelu": ("e = PRelu(d, per_channel)", 17),
    "LRN": ("e = LRN<size = 3, alpha = 0.5>(d)", 17),
    "InstanceNormalization": ("e = InstanceNormalization(d, channels, c2)", 17),
    "LayerNormalization": ("e = LayerNormalization(d, row, row2)", 17),
    "attention": ("h = Reshape(d, tokens) t = Transpose<perm = [0, 2, 1]>(h) m = MatMul(t, h) s = Softmax(m) e = MatMul(h, s)", 17),
    "Where": ("c = Greater(x, zero) e = Where(c, per_channel, d)", 17),
}  # fmt: skip


@pytest.mark.parametrize("body, opset", BETWEEN.values(), ids=BETWEEN)
def test_between_quantizers_the_gradient_is_that_at_the_quantized_values(body, opset):
    """The loss is linear in y, so the quantizer of the output passes R straight, and that of the input what comes back."""
    model, plain = net(QUANTIZED.format(body=body), opset), net(f"d = Identity(v) {body} y = Identity(e)", opset)
    p = initializers(plain)["p"]
    rounded = np.round(numpy_helper.to_array(p) / np.float32(0.05)) * np.float32(0.05)
    p.CopyFrom(numpy_helper.from_array(rounded, "p"))
    x, r = np.zeros((2, 3, 4, 4), np.float32), np.random.default_rng(4).standard_normal((2, 3, 4, 4)).astype(np.float32)
    r = r.reshape(2, 3, 16) if "tokens" in body else r
    student = fake_quantized(model, ()).model
    found, wanted = gradients_of(student, ["p"], x, r)["p"], gradients_of(plain, ["p"], x, r)["p"]
    assert np.abs(found - wanted).max() < RIGHT * np.abs(wanted).max() and wanted.any()
