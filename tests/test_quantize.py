"""quantize.py: the QDQ model is close to the float one, valid, and quantized where the plan says."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import CONV, FEATURES, ROWS, net, random_images, relative_error, simulated, student_of
from onnx import helper, parser

from onnx_distill import numerics, qdq
from onnx_distill.config import QuantizeConfig
from onnx_distill.errors import InputError
from onnx_distill.integer_form import integer_form
from onnx_distill.lookup import array, consumers, initializers, opset, producers
from onnx_distill.numerics import activation_range, weight_range
from onnx_distill.placement import plan
from onnx_distill.quantize import quantize, with_quantizable_opset

RELU = CONV + "r = Relu(a) y = Conv(r, w2, b2)"
NETS = {
    "conv": RELU,
    "residual": CONV
    + "r = Clip(a, zero, six) c = Conv<pads = [1, 1, 1, 1]>(r, w2, b2) s = Add(r, c) t = Relu(s) y = Conv(t, w3, b3)",
    "depthwise": CONV + "d = Conv<group = 4>(a, depthwise, b2) y = Conv(d, point)",
    "concat and pools": CONV
    + "m = MaxPool<kernel_shape = [2, 2]>(a) v = AveragePool<kernel_shape = [2, 2]>(a) y = Concat<axis = 1>(m, v)",
    "constant operands": CONV + "m = Mul(a, six) s = Add(m, half) y = Conv(s, w2, b2)",
    "swish": CONV + "s = Sigmoid(a) m = Mul(a, s) y = Conv(m, w2, b2)",
    "layouts": CONV
    + "t = Transpose<perm = [0, 1, 3, 2]>(a) u = Unsqueeze(t, axis) s = Squeeze(u, axis) r = Reshape(s, rows) y = Conv(r, w2, b2)",
    "attention": CONV + "t = Transpose<perm = [0, 1, 3, 2]>(a) m = MatMul(a, t) p = Softmax(m) y = MatMul(p, a)",
}
HEADS = {
    "gemm": CONV + "r = Flatten(a) y = Gemm<transB = 1>(r, ft, fb)",
    "matmul and add": CONV + "r = Flatten(a) m = MatMul(r, f) y = Add(m, fb)",
    "pooled": CONV + "g = GlobalAveragePool(a) r = Reshape(g, flat) y = Gemm(r, short, fb_row)",
}
ALL = {**{name: (body, FEATURES) for name, body in NETS.items()}, **{name: (body, ROWS) for name, body in HEADS.items()}}
every_net = pytest.mark.parametrize(("body", "outputs"), ALL.values(), ids=ALL)
CHOICES = {
    "8 bits": ({}, 1e-3),
    "per tensor": ({"per_channel": False}, 2e-3),
    "symmetric": ({"symmetric": True}, 2e-3),
    "4 bits": ({"weight_bits": 4, "activation_bits": 4}, 0.15),
    "4 bits symmetric": ({"weight_bits": 4, "activation_bits": 4, "symmetric": True, "edge_bits": 0}, 0.3),
}


@every_net
@pytest.mark.parametrize(("choices", "bound"), CHOICES.values(), ids=CHOICES)
def test_the_quantized_model_is_valid_and_close_to_the_float_one(body, outputs, choices, bound):
    """bound: squared error over signal; a step of 2 / 255 over uniform values alone costs 1.5e-5, one of 2 / 15 costs 4e-3."""
    model = net(body, outputs)
    student = student_of(model, **choices)
    onnx.checker.check_model(student, full_check=True)
    images = random_images(model)  # those it was calibrated on: other images may lie outside the ranges
    assert 0 < relative_error(simulated(student, images)[0], simulated(model, images)[0]) < bound


@every_net
def test_what_the_plan_says_is_what_the_graph_holds(body, outputs):
    model = integer_form(with_quantizable_opset(net(body, outputs)))
    sites = plan(model, QuantizeConfig(weight_bits=4, activation_bits=5))
    found = qdq.find(student_of(model, weight_bits=4, activation_bits=5))
    planned = [*sites.activations, *sites.constants, *sites.weights]
    assert len(found) == len(planned) + len(sites.aliases)
    assert {q.scale: q.integers for q in found} == {f"{site.value}/scale": site.integers for site in planned}
    assert {q.scale: q.axis for q in found if q.axis is not None} == {
        f"{s.value}/scale": s.axis for s in sites.weights if s.axis is not None
    }


@every_net
def test_the_arguments_are_never_edited(body, outputs):
    model = net(body, outputs)
    prepared = with_quantizable_opset(model)
    config = QuantizeConfig()
    sites = plan(prepared, config)
    ranges = {site.value: (-1.0, 1.0) for site in sites.activations}
    before = prepared.SerializeToString(), dict(ranges)
    first = quantize(prepared, sites, ranges, config)
    assert (prepared.SerializeToString(), ranges) == before
    assert quantize(prepared, sites, ranges, config).SerializeToString() == first.SerializeToString()


def test_the_student_computes_what_numerics_says_of_each_step():
    model = net("y = Conv(x, w, b)")
    student = student_of(model, weight_bits=4, activation_bits=4, edge_bits=0)
    constants = {name: array(tensor) for name, tensor in initializers(student).items()}
    images = random_images(model)

    def fake(values, name, integers, axis=None):
        scale = numerics.broadcastable(constants[f"{name}/scale"], values.ndim, axis)
        zero_point = constants[f"{name}/zero_point"].reshape(scale.shape).astype(np.int32)
        return numerics.fake_quantize(values, scale, zero_point, integers.qmin, integers.qmax)

    w = fake(constants["w"], "w", weight_range(4), 0)
    plain = net("y = Conv(x, w, b)", w=w, b=constants["b"])
    wanted = fake(simulated(plain, fake(images, "x", activation_range(4)))[0], "y", activation_range(4))
    assert np.array_equal(simulated(student, images)[0], wanted)


def test_ranges_given_become_scale_and_zero_point():
    model = net("y = Conv(x, w, b)")
    sites, config = plan(model, QuantizeConfig()), QuantizeConfig()
    student = quantize(model, sites, {"x": (-1.0, 1.55), "y": (0.0, 5.1)}, config)
    constants = {name: array(tensor) for name, tensor in initializers(student).items()}
    assert constants["x/scale"] == np.float32(0.01) and constants["x/zero_point"] == 100
    assert constants["y/scale"] == np.float32(0.02) and constants["y/zero_point"] == 0


@pytest.mark.parametrize(
    "choices", [{}, {"symmetric": True}, {"activation_bits": 4, "edge_bits": 0}], ids=["uint8", "int8", "4 bits"]
)
@pytest.mark.parametrize(
    "body", [RELU, RELU.replace("Relu(a)", "Clip(a, zero, half)"), CONV + "y = Relu(a)"], ids=["relu", "clip", "at the end"]
)
def test_an_absorbed_activation_function_is_gone_and_its_bound_is_held(body, choices):
    student = student_of(net(body), **choices)
    kinds = {"Relu", "Clip"} & {n.op_type for n in student.graph.node if "/" not in n.name}
    value = "r" if "r =" in body else "y"
    q = next(q for q in qdq.find(student) if q.scale == f"{value}/scale")
    low = (q.integers.qmin - int(array(initializers(student)[q.zero_point]))) * array(initializers(student)[q.scale])
    assert not kinds and q.source == "a" and low == 0


def test_a_bound_that_the_range_does_not_hold_stays_in_the_graph():
    model = net(CONV + "r = Clip(a, half, six) y = Conv(r, w2, b2)")
    student = student_of(model)
    assert producers(student)["r"].op_type == "Clip"
    model = net(CONV + "m = ReduceMax<keepdims = 0>(x) r = Clip(a, zero, m) y = Conv(r, w2, b2)")
    assert producers(student_of(model))["r"].op_type == "Clip"


def test_layout_operators_share_one_scale():
    student = student_of(
        net(CONV + "t = Transpose<perm = [0, 1, 3, 2]>(a) p = MaxPool<kernel_shape = [2, 2]>(t) y = Conv(p, w2, b2)")
    )
    found = {q.source: (q.scale, q.zero_point) for q in qdq.find(student)}
    assert found["a"] == found["t"] == found["p"] == ("a/scale", "a/zero_point")


def test_every_reader_of_a_value_reads_its_one_quantizer():
    student = student_of(net(CONV + "c = Conv<pads = [1, 1, 1, 1]>(a, w2, b2) s = Sigmoid(a) d = Add(a, c) y = Mul(d, s)"))
    readers = consumers(student)
    assert [n.op_type for n in readers["a"]] == ["QuantizeLinear"]
    assert sorted(n.op_type for n in readers["a/dequantized"]) == ["Add", "Conv", "Sigmoid"]


def test_a_shared_weight_has_one_quantizer_and_each_node_its_own_bias():
    model = net(CONV + "c = Conv<pads = [1, 1, 1, 1]>(a, w2, b2) y = Conv(c, w2, b2)")
    student = student_of(model)
    convs = [n for n in student.graph.node if n.op_type == "Conv"]
    assert convs[1].input[1] == convs[2].input[1] and convs[1].input[2] != convs[2].input[2]
    onnx.checker.check_model(student, full_check=True)


def test_quantized_graph_outputs_keep_their_names():
    both = "float[N, C, H, W] y, float[N, C, H, W] a, float[N, C, H, W] r"
    model = net(CONV + "r = Relu(a) y = Conv(r, w2, b2)", both)
    student = student_of(model)
    images = random_images(model)
    assert [o.name for o in student.graph.output] == ["y", "a", "r"]
    assert all(producers(student)[name].op_type == "DequantizeLinear" for name in ("y", "a", "r"))
    assert all(relative_error(s, f) < 1e-3 for s, f in zip(simulated(student, images), simulated(model, images)))


@pytest.mark.parametrize("operator", ["Elu", "Softsign", "Tanh"])
def test_an_unsupported_operator_stays_float_between_two_quantizers(operator):
    student = student_of(net(CONV + f"s = {operator}(a) y = Conv(s, w2, b2)"))
    node = next(n for n in student.graph.node if n.op_type == operator)
    assert producers(student)[node.input[0]].op_type == "DequantizeLinear"
    assert [n.op_type for n in consumers(student)["s"]] == ["QuantizeLinear"]


def test_an_excluded_node_reads_and_writes_floats():
    student = student_of(
        net("c = Conv(x, w, b) [odd] d = Conv(c, w2, b2) e = Relu(d) f = Conv(e, w3, b3) y = Relu(f)"), exclude=("odd",)
    )
    node = next(n for n in student.graph.node if n.name == "odd")
    assert list(node.input) == ["c/dequantized", "w2", "b2"] and "w2/scale" not in initializers(student)


def test_a_constant_operand_has_the_range_of_its_own_values():
    student = student_of(
        net(CONV + "m = Mul(a, gain) y = Conv(m, w2, b2)", gain=np.full((1, 1, 1, 1), 5.1, np.float32)), activation_bits=4
    )
    constants = initializers(student)
    assert array(constants["gain/scale"]) == np.float32(0.02) and array(constants["gain/zero_point"]) == 0


def test_weights_of_8_bits_lose_no_end_and_fewer_bits_have_the_least_squared_error():
    model = net(RELU)
    weights = array(initializers(model)["w2"])
    eight, four = (array(initializers(student_of(model, weight_bits=bits, edge_bits=0))["w2/scale"]) for bits in (8, 4))
    assert np.array_equal(eight, numerics.max_weight_scale(weights, 0, 127))
    assert np.array_equal(four, numerics.mse_weight_scale(weights, 0, 7))


def test_a_name_that_is_taken_is_an_error():
    with pytest.raises(InputError, match="already has a value or node named 'a/scale', a name that a quantizer needs"):
        student_of(
            net(
                CONV + '"a/scale" = Relu(a) y = Conv("a/scale", w2, b2) z = Conv(a, w3, b3)',
                FEATURES + ", float[N, C, H, W] z",
            )
        )


def test_the_real_teacher_is_valid_and_close_in_8_bits(teacher):
    student = student_of(teacher)
    onnx.checker.check_model(student, full_check=True)
    images = random_images(teacher, 8, seed=2)
    assert relative_error(simulated(student, images)[0], simulated(teacher, images)[0]) < 0.02
    assert not [n for n in student.graph.node if n.op_type == "Clip" and "/Clip" not in n.name]  # every Relu6 is absorbed
    weighted = [n for n in student.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    assert all(producers(student)[name].op_type == "DequantizeLinear" for n in weighted for name in n.input[:2])


# ---- with_quantizable_opset


def old(opset_version: int, ir: int) -> onnx.ModelProto:
    """A model as an older exporter wrote it: bounds and shapes in Constant nodes, weights among the graph's inputs."""
    model = net(
        "l = Constant<value = float {0.0}>() h = Constant<value = float {6.0}>() i = Constant<value = int64[2] {0, -1}>() "
        "a = Conv<pads = [1, 1, 1, 1]>(x, w, b) r = Clip(a, l, h) s = Reshape(r, i) y = Gemm(s, f, fb)",
        ROWS,
        opset=opset_version,
        ir=ir,
    )
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    model.metadata_props.add(key="made by", value="a test")
    return model


@pytest.mark.parametrize(("version", "ir"), [(11, 3), (11, 6), (12, 7), (13, 3), (17, 8)])
def test_old_models_compute_the_same_and_can_be_quantized(version, ir):
    model = old(version, ir)
    before = model.SerializeToString()
    prepared = with_quantizable_opset(model)
    images = random_images(model)
    onnx.checker.check_model(prepared, full_check=True)
    assert np.array_equal(simulated(prepared, images)[0], simulated(model, images)[0])
    assert opset(prepared) == (version if version >= 13 else 17) and [v.name for v in prepared.graph.input] == ["x"]
    assert not [n for n in prepared.graph.node if n.op_type == "Constant"]
    assert model.SerializeToString() == before
    assert [n.name for n in prepared.graph.node] == [n.name for n in model.graph.node if n.op_type != "Constant"]
    assert {p.key: p.value for p in prepared.metadata_props} == {"made by": "a test"}
    student = student_of(model)
    onnx.checker.check_model(student, full_check=True)
    assert next(q for q in qdq.find(student) if q.scale == "r/scale").source == "a"  # the Clip is absorbed
    assert relative_error(simulated(student, images)[0], simulated(model, images)[0]) < 1e-3


def test_a_model_that_is_ready_is_copied_unchanged():
    model = net(RELU)
    assert with_quantizable_opset(model) == model and with_quantizable_opset(model) is not model
    assert with_quantizable_opset(with_quantizable_opset(old(11, 3))) == with_quantizable_opset(old(11, 3))


def test_an_operator_that_onnx_cannot_convert_is_named():
    model = parser.parse_model(
        '<ir_version: 7, opset_import: ["" : 11]> g (float[N, 3] x) => (float[N, 3] y) { y = Foo(x) }'
    )
    with pytest.raises(
        InputError, match="the model has opset 11, wanted 13 to 21, and onnx cannot convert it to 17: .*Export it again"
    ):
        with_quantizable_opset(model)
