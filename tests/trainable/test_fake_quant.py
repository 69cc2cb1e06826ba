"""FakeQuantize equals Q -> [Clip] -> DQ, and its gradient the two formulas of its docstring."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_distill import numerics, qdq, runtime
from onnx_distill.config import DistillConfig
from onnx_distill.errors import InputError
from onnx_distill.export import export
from onnx_distill.loss import log_softmax
from onnx_distill.numerics import IntegerRange, activation_range, broadcastable, weight_range
from onnx_distill.qdq import Quantizer
from onnx_distill.trainable import fake_quant
from onnx_distill.trainable.fake_quant import DOMAIN

LAYOUTS = {"per tensor": ((6, 5), None), "axis 0 of rank 4": ((4, 3, 2, 2), 0), "axis 1 of rank 2": ((7, 4), 1)}
BITS = (8, 4, 3, 2)
FLOAT_ROUNDING = 2.0**-24  # half a unit in the last place, relative: what one float32 operation may lose
SOFTMAX_ROUNDING = 4  # times that, absolute, in the exponential of a logit below 16
LABELS_ALONE = DistillConfig(alpha=0)


@pytest.fixture(params=list(LAYOUTS.values()), ids=list(LAYOUTS))
def layout(request):
    return request.param


@pytest.fixture(
    params=[(k, b) for k in ("weights", "asymmetric", "symmetric") for b in BITS], ids=lambda p: f"{p[0]}-{p[1]}"
)
def integers(request) -> IntegerRange:
    kind, bits = request.param
    return weight_range(bits) if kind == "weights" else activation_range(bits, kind == "symmetric")


def zero_point_of(integers: IntegerRange) -> int:
    """A third of the way up where zero points are free, else 0."""
    return (2 * integers.qmin + integers.qmax) // 3 if integers.dtype == "uint8" else 0


def scale_of(shape, axis, integers: IntegerRange, rng) -> np.ndarray:
    """No power of two, so that x / s rounds; the range then ends at about 1 to 4."""
    return (rng.uniform(1, 4, [] if axis is None else [shape[axis]]) / integers.qmax).astype(np.float32)


def telling_values(scale: np.ndarray, shape, axis, integers: IntegerRange, rng) -> np.ndarray:
    """Values inside and outside the range, on the grid, at ties between two steps and exactly on the clipping bounds."""
    zero_point, s = zero_point_of(integers), broadcastable(scale, len(shape), axis)
    low, high = integers.qmin - zero_point, integers.qmax - zero_point
    grid = rng.integers(low - 2, high + 3, shape).astype(np.float32)
    ties = (grid + np.float32(0.5)) * s
    bounds = np.where(grid > 0, np.float32(high), np.float32(low)) * s
    anywhere = rng.uniform(low * 1.5 - 1, high * 1.5 + 1, shape) * s
    return np.choose(rng.integers(0, 4, shape), [grid * s, ties, bounds, anywhere]).astype(np.float32)


def one_quantizer(scale, axis, integers: IntegerRange, shape, constant=None) -> onnx.ModelProto:
    """x -> quantizer -> y, x a graph input or, where given, an initializer."""
    q = Quantizer("x", "y", "s", "z", integers, axis)
    zero_point = np.full(np.shape(scale), zero_point_of(integers), integers.dtype)
    tensors = [numpy_helper.from_array(scale, "s"), numpy_helper.from_array(zero_point, "z")]
    tensors += [] if integers.fills_container else qdq.bounds(integers)
    value = lambda name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)  # noqa: E731
    given = [value("x")] if constant is None else []
    tensors += [] if constant is None else [numpy_helper.from_array(constant, "x")]
    graph = onnx.helper.make_graph(qdq.nodes(q), "one", given, [value("y")], tensors)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto, **values) -> np.ndarray:
    return runtime.open_session(model, threads=1, optimized=False).run(None, values)[0]


def converted(model: onnx.ModelProto) -> fake_quant.FakeQuantModel:
    """The model with its quantizers as nodes, every step learned."""
    return fake_quant.fake_quantized(model, {q.scale for q in qdq.find(model)})


# ---- forward


def test_function_form_equals_q_dq_and_numerics_exactly(layout, integers):
    shape, axis = layout
    rng = np.random.default_rng(integers.qmax)
    scale = scale_of(shape, axis, integers, rng)
    x = np.stack([telling_values(scale, shape, axis, integers, rng) for _ in range(20)])
    plain = [one_quantizer(scale, axis, integers, shape, row) for row in x]
    found = [run(converted(model).model) for model in plain]
    wanted = [
        numerics.fake_quantize(
            row, broadcastable(scale, len(shape), axis), zero_point_of(integers), integers.qmin, integers.qmax
        )
        for row in x
    ]
    assert np.array_equal(found, wanted)
    assert np.array_equal(found, [run(model) for model in plain])
    assert np.array_equal(found, [run(fake_quant.fake_quantized(model, ()).model) for model in plain])


def test_function_form_saturates_huge_values_like_q_dq():
    x = np.array([3e38, -3e38, 1e10, -1e10, 0, -0.0, 1e-40], np.float32)
    model = one_quantizer(np.float32(0.1), None, activation_range(8), [7])
    assert np.array_equal(run(converted(model).model, x=x), run(model, x=x))


def test_every_quantizer_becomes_one_node_and_parameters_keep_their_names(tiny_student):
    student = tiny_student()
    made = converted(student)
    assert not {node.op_type for node in made.model.graph.node} & {"QuantizeLinear", "DequantizeLinear"}
    assert {q.source for q in made.quantizers.values()} == {"image", "c1", "c2", "d", "logits/float", "w1", "w2", "w3"}
    trained = {"w1", "b1", "w2", "b2", "w3", "b3", "w1/scale", "d/scale"}
    kept = {t.name: t for t in made.model.graph.initializer}
    assert all(kept[t.name] == t for t in student.graph.initializer if t.name in trained)


def test_fake_quantized_does_not_change_the_student_and_computes_the_same(tiny_student):
    student = tiny_student()
    before = student.SerializeToString(deterministic=True)
    images = np.random.default_rng(0).uniform(-1.2, 1.2, (8, 1, 4, 4)).astype(np.float32)
    made = converted(student).model
    assert student.SerializeToString(deterministic=True) == before
    assert np.array_equal(run(made, image=images), run(student, image=images))


def test_quantizers_without_zero_point_mean_uint8_from_zero():
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[6] x) => (float[6] y) <float s = {0.3}> { q = QuantizeLinear(x, s)  y = DequantizeLinear(q, s) }"""
    model = onnx.parser.parse_model(text)
    x = np.array([-1, 0, 0.44, 0.46, 76.4, 100], np.float32)
    assert np.array_equal(run(converted(model).model, x=x), run(model, x=x))


# ---- quantizers repeated behind a layout operator


@pytest.mark.parametrize("bits", BITS)
def test_quantizing_twice_changes_nothing(bits):
    rng = np.random.default_rng(bits)
    integers = activation_range(bits)
    for _ in range(200):
        scale = np.float32(rng.uniform(1e-4, 10))
        x = telling_values(scale, (50,), None, integers, rng)
        once = numerics.fake_quantize(x, scale, zero_point_of(integers), integers.qmin, integers.qmax)
        assert np.array_equal(
            numerics.fake_quantize(once, scale, zero_point_of(integers), integers.qmin, integers.qmax), once
        )


def repeated(second_scale: str) -> onnx.ModelProto:
    text = f"""<ir_version: 8, opset_import: ["": 17]>
    g (float[2,6] x) => (float[6,2] y) <float s = {{0.3}}, float t = {{0.4}}, uint8 z = {{7}}, int64[2] shape = {{3, 4}}, int64[2] flat = {{6, 2}}> {{
        q = QuantizeLinear(x, s, z)  dq = DequantizeLinear(q, s, z)
        r = Reshape(dq, shape)  turned = Transpose<perm = [1, 0]>(r)  back = Reshape(turned, flat)
        q2 = QuantizeLinear(back, {second_scale}, z)  y = DequantizeLinear(q2, {second_scale}, z)
    }}"""
    return onnx.parser.parse_model(text)


def test_a_quantizer_repeated_behind_layout_operators_is_dropped():
    model = repeated("s")
    made = converted(model)
    assert [node.op_type for node in made.model.graph.node].count("FakeQuantize") == 1
    assert list(made.quantizers) == ["dq"]
    x = np.random.default_rng(0).normal(0, 20, (2, 6)).astype(np.float32)
    assert np.array_equal(run(made.model, x=x), run(model, x=x))


def test_a_second_quantizer_of_another_scale_is_kept():
    assert list(converted(repeated("t")).quantizers) == ["dq", "y"]


# ---- gradient, against the formulas in numpy


def reference_gradient(x, scale, axis, low: int, high: int, dy):
    """(y, dx, ds, bound) of the docstring; masks in float32 as the runtime forms them, sums in float64.

    bound: of the rounding of ds in float32, where the large x is taken from the large y, and dy is a softmax's.
    """
    s = broadcastable(scale, x.ndim, axis)
    least, most = numerics.rounds_into(low, high)
    inside = (least * s <= x) & (x <= most * s)
    y = s * np.clip(np.rint(x / s), low, high)
    factor = (y.astype(np.float64) - inside * x.astype(np.float64)) / s
    bound = FLOAT_ROUNDING * (np.abs(dy * x / s) + SOFTMAX_ROUNDING * np.abs(factor))
    others = tuple(d for d in range(x.ndim) if d != axis) if axis is not None else None
    return y, dy * inside, (dy * factor).sum(axis=others), bound.sum(axis=others)


def label_loss_gradient(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """d loss / d logits [n, classes] of the mean cross entropy, float64."""
    return (np.exp(log_softmax(logits)) - np.eye(logits.shape[1])[labels]) / len(labels)


# The quantized value reaches the logits unchanged: an identity matrix lies before or behind the quantizer.
GRAPHS = {
    "activation": ("float[n,k] x", (6, 4), None, "v = MatMul(x, w)", "logits = Identity(y)"),
    "weight of a MatMul": ("float[n,k] x", (7, 4), 1, "", "logits = MatMul(x, y)"),
    "weight of a Conv": ("float[n,3,2,2] x", (4, 3, 2, 2), 0, "", "c = Conv(x, y)  logits = Flatten(c)"),
}


def trained_quantizer(kind: str, scale, integers: IntegerRange, w: np.ndarray) -> tuple[onnx.ModelProto, np.ndarray]:
    """(student whose logits are the quantized w, transposed for a Conv; the images that make it so)."""
    head, shape, axis, before, after = GRAPHS[kind]
    q = Quantizer("v" if before else "w", "y", "s", "z", integers, axis)
    text = f"""<ir_version: 8, opset_import: ["": 17]> g ({head}) => (float[n,4] logits) {{ {before} {after} }}"""
    model = onnx.parser.parse_model(text)
    for place, node in enumerate(qdq.nodes(q), start=1 if before else 0):
        model.graph.node.insert(place, node)
    zero_point = np.full(np.shape(scale), zero_point_of(integers), integers.dtype)
    for name, values in (("w", w), ("s", scale), ("z", zero_point)):
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    model.graph.initializer.extend([] if integers.fills_container else qdq.bounds(integers))
    if kind == "weight of a Conv":
        return model, np.eye(w[0].size, dtype=np.float32).reshape(-1, *shape[1:])
    return model, np.eye(len(w), dtype=np.float32)


@pytest.mark.parametrize("lowered", [True, False], ids=["lowered", "as function"])
@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("seed", range(2))
def test_gradients_of_value_and_step_equal_the_formulas(kind, integers, seed, lowered, make_step):
    head, shape, axis, _, _ = GRAPHS[kind]
    rng = np.random.default_rng(seed)
    scale = scale_of(shape, axis, integers, rng)
    w = telling_values(scale, shape, axis, integers, rng)
    model, images = trained_quantizer(kind, scale, integers, w)
    labels = rng.integers(0, 4, len(images))
    step = make_step(model, LABELS_ALONE, lowered=lowered)
    _, logits = step.run(images, None, labels)

    as_weight = (lambda rows: rows.T.reshape(shape)) if kind == "weight of a Conv" else (lambda rows: rows)
    dy = as_weight(label_loss_gradient(logits, labels))
    zero_point = zero_point_of(integers)
    y, dw, ds, bound = reference_gradient(w, scale, axis, integers.qmin - zero_point, integers.qmax - zero_point, dy)
    assert np.array_equal(as_weight(logits), y)
    np.testing.assert_allclose(step.gradients["w"], dw, rtol=0, atol=SOFTMAX_ROUNDING * FLOAT_ROUNDING)
    assert (np.abs(step.gradients["s"] - ds) <= bound).all()


def test_values_that_round_into_the_range_pass_their_gradient_and_others_do_not(make_step):
    scale = np.float32(0.5)
    values = (
        np.array([-0.5, 15.25, -0.625, 15.5], np.float32) - 5
    ) * scale  # 15.5 - 5 rounds to 10, which is in the range: below
    inside = np.isin(np.rint(values / scale) + 5, np.arange(16))
    model, images = trained_quantizer("activation", scale, activation_range(4), values[None])
    step = make_step(model, LABELS_ALONE)
    step.run(images, None, np.array([2]))
    assert ((step.gradients["w"] != 0) == [inside]).all() and 0 < inside.sum() < 4


def test_a_step_shared_by_two_quantizers_gets_the_sum_of_both_gradients(make_step):
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,4] x) => (float[n,4] logits) <float s = {0.3}, uint8 z = {100}> {
        v = MatMul(x, w)  q1 = QuantizeLinear(v, s, z)  y1 = DequantizeLinear(q1, s, z)
        u = MatMul(x, k)  q2 = QuantizeLinear(u, s, z)  y2 = DequantizeLinear(q2, s, z)
        logits = Add(y1, y2)
    }"""
    model, rng = onnx.parser.parse_model(text), np.random.default_rng(0)
    w, k = rng.normal(0, 3, (2, 4, 4)).astype(np.float32)
    model.graph.initializer.extend([numpy_helper.from_array(w, "w"), numpy_helper.from_array(k, "k")])
    labels = np.arange(4)
    step = make_step(model, LABELS_ALONE)
    _, logits = step.run(np.eye(4, dtype=np.float32), None, labels)
    dy = label_loss_gradient(logits, labels)
    wanted = sum(reference_gradient(v, np.float32(0.3), None, -100, 155, dy)[2] for v in (w, k))
    assert step.gradients["s"] == pytest.approx(wanted, abs=FLOAT_ROUNDING * 20)


# ---- biases


def test_biases_are_rounded_to_the_grid_and_pass_their_gradient_straight(make_step, set_values, tiny_student):
    student = tiny_student()
    constants = {t.name: numpy_helper.to_array(t) for t in student.graph.initializer}
    grid = constants["d/scale"] * constants["w3/scale"]
    off = set_values(student, {"b3": constants["b3"] + np.float32(0.3) * grid})
    images, labels = np.random.default_rng(0).uniform(-1, 1, (8, 1, 4, 4)).astype(np.float32), np.arange(8) % 3
    steps = [make_step(model, LABELS_ALONE) for model in (student, off)]
    (_, logits), (_, moved) = (step.run(images, None, labels) for step in steps)
    assert np.array_equal(logits, moved)
    assert all(np.array_equal(steps[0].gradients[name], steps[1].gradients[name]) for name in steps[0].gradients)
    inside = (np.abs(logits) < 2.9).all(axis=1, keepdims=True)
    assert inside.all()  # so that the quantizer behind the bias masks nothing
    wanted = label_loss_gradient(logits, labels).sum(axis=0)
    np.testing.assert_allclose(steps[1].gradients["b3"], wanted, rtol=0, atol=FLOAT_ROUNDING * 4)


def test_bias_rounding_equals_the_int32_bias_of_the_export(set_values, tiny_student):
    student = tiny_student()
    constants = {t.name: numpy_helper.to_array(t) for t in student.graph.initializer}
    bias = constants["b1"] + np.random.default_rng(0).normal(0, 1e-4, 4).astype(np.float32)
    model = converted(set_values(student, {"b1": bias})).model
    node = next(node for node in model.graph.node if node.op_type == "FakeQuantizeBias" and node.input[0] == "b1")
    model.graph.output.append(onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, [4]))
    session = runtime.open_session(model, threads=1, optimized=False)
    found = session.run([node.output[0]], {"image": np.zeros((1, 1, 4, 4), np.float32)})[0]
    scales = constants["image/scale"], constants["w1/scale"]
    assert np.array_equal(found, numerics.quantize_bias(bias, *scales).astype(np.float32) * (scales[0] * scales[1]))


# ---- which steps are learned


@pytest.mark.parametrize(
    "choice, wanted",
    [("none", set()), ("weights", {"w1", "w2", "w3"}), ("all", {"w1", "w2", "w3", "a1", "c2", "d", "logits"})],
)
def test_learn_steps_chooses_the_parameters_and_never_the_image(choice, wanted, tiny_student, make_step):
    step = make_step(tiny_student(), learn_steps=choice)
    assert set(step.parameters) == {"w1", "b1", "w2", "b2", "w3", "b3"} | {f"{name}/scale" for name in wanted}


def test_unlearned_steps_cost_no_gradient_nodes(tiny_student, training_graph):
    """The step's gradient is the only place where something is divided behind the loss; masks are needed either way."""
    counts = {}
    for choice in ("none", "weights", "all"):
        nodes = training_graph(tiny_student(), choice).node
        counts[choice] = sum(node.op_type == "Div" for node in nodes)
    assert counts["all"] - counts["none"] == 7 and counts["weights"] - counts["none"] == 3


def test_domain_is_declared_once_with_a_function_for_each_operator(tiny_student):
    model = converted(tiny_student()).model
    assert [entry.domain for entry in model.opset_import].count(DOMAIN) == 1
    used = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    assert {function.name for function in model.functions} == used
    onnx.checker.check_model(model, full_check=True)


def test_an_activation_quantized_per_channel_is_an_input_error():
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,2] x) => (float[n,2] y) <float[2] s = {0.3, 0.4}, uint8[2] z = {0, 0}> {
        q = QuantizeLinear<axis = 1>(x, s, z)  y = DequantizeLinear<axis = 1>(q, s, z)
    }"""
    with pytest.raises(InputError, match="activation 'x' is quantized per channel; wanted one scale"):
        converted(onnx.parser.parse_model(text))


def test_channels_with_zero_points_of_their_own_are_an_input_error():
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[n,2] x) => (float[n,2] y) <float[2] s = {0.3, 0.4}, uint8[2] z = {0, 9}, float[2,2] w = {1, 2, 3, 4}> {
        q = QuantizeLinear<axis = 1>(w, s, z)  d = DequantizeLinear<axis = 1>(q, s, z)  y = MatMul(x, d)
    }"""
    with pytest.raises(InputError, match="channels of 'w' have zero points of their own"):
        converted(onnx.parser.parse_model(text))


def test_weights_stored_as_integers_are_an_input_error(tiny_student):
    with pytest.raises(InputError, match="'w1.*' holds integers; only float weights can be trained"):
        converted(export(tiny_student()))
