"""FeatureError in the runtime equals its numpy definition, its gradient the formula's, in the loss of a whole student too."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnx_distill import compare, runtime
from onnx_distill.config import DistillConfig
from onnx_distill.loss import distillation_loss
from onnx_distill.trainable import features
from onnx_distill.trainable.fake_quant import DOMAIN
from onnx_distill.trainable.feature_error import LEAST, NAME, feature_error, feature_error_function
from onnx_distill.trainable.features import Feature

AS_WEIGHT = Feature("t", "s", (5, 2, 3))  # the student's feature is a weight: its gradient is the feature's


def session() -> object:
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)  # noqa: E731
    node = helper.make_node(NAME, ["s", "t"], ["y"], domain=DOMAIN)
    graph = helper.make_graph([node], "error", [value("s", ["n", 5, 2, 3]), value("t", ["n", 5, 2, 3])], [value("y", [])])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=[feature_error_function(17)])
    onnx.checker.check_model(model, full_check=True)
    return runtime.open_session(model, threads=1)


def pair(seed: int = 0, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    s, t = scale * np.random.default_rng(seed).normal(0, 1, (2, 4, 5, 2, 3))
    return s.astype(np.float32), t.astype(np.float32)


@pytest.mark.parametrize("scale", [1e-4, 1, 1e4])
def test_graph_equals_numpy_whatever_the_unit(scale):
    s, t = pair(scale=scale)
    found = float(session().run(None, {"s": s, "t": t})[0])
    assert found == pytest.approx(feature_error(s, t), rel=1e-6)
    assert feature_error(s, t) == pytest.approx(feature_error(s / scale, t / scale), rel=1e-6)


def test_numpy_equals_the_formula_written_out():
    assert feature_error(np.array([[1.0, 2.0]]), np.array([[3.0, -1.0]])) == pytest.approx((4 + 9) / (9 + 1))


def test_feature_that_is_zero_everywhere_stays_finite():
    s, t = pair()
    found = float(session().run(None, {"s": 1e-4 * s, "t": 0 * t})[0])
    assert found == pytest.approx(np.square(np.float64(1e-4) * s).sum() / LEAST, rel=1e-5)


# ---- gradients


def a_student_whose_feature_is_its_weight(values: np.ndarray) -> onnx.ModelProto:
    """image [n, 1] -> s [n, 5, 2, 3], the row of `values` that the image's one-hot picks, -> logits, zeros that s does not move."""
    rows, inner = len(values), values[0].size
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]>
    g (float[n,{rows}] image) => (float[n,2] logits) <int64[4] shape = {{-1, 5, 2, 3}}> {{
        flat = MatMul(image, w)  s = Reshape(flat, shape)  f = Flatten(s)  logits = MatMul(f, v)
    }}""")
    for name, array in (("w", values.reshape(rows, inner)), ("v", np.zeros((inner, 2), np.float32))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def test_gradient_is_the_one_of_the_formula(make_step):
    s, t = pair()
    config = DistillConfig(alpha=1, feature_weight=3.0)
    step = make_step(a_student_whose_feature_is_its_weight(s), config, features=(AS_WEIGHT,))
    loss, _ = step.run(np.eye(4, dtype=np.float32), np.zeros((4, 2), np.float32), None, features=[t])
    assert loss == pytest.approx(3 * feature_error(s, t), rel=1e-6)
    wanted = 3 * 2 * (s - t).astype(np.float64) / np.square(t.astype(np.float64)).sum()
    # float32: one subtraction, two products and a sum of 120 squares
    np.testing.assert_allclose(step.gradients["w"], wanted.reshape(4, -1), rtol=1e-5, atol=1e-8)


def test_formula_of_the_gradient_is_the_slope_of_the_numpy_definition():
    s, t = (values.astype(np.float64) for values in pair())
    direction = np.random.default_rng(1).normal(size=s.shape)
    ends = [feature_error(s + h * direction, t) for h in (1e-5, -1e-5)]
    slope = (2 * (s - t) / np.square(t).sum() * direction).sum()
    assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(slope, rel=1e-7)


# ---- in the loss of a quantized student


@pytest.fixture
def batch():
    rng = np.random.default_rng(3)
    images = rng.uniform(-1, 1, (16, 1, 4, 4)).astype(np.float32)
    return images, rng.normal(0, 2, (16, 3)).astype(np.float32), rng.integers(0, 3, 16)


FEATURES = (Feature("a1", "a1/dequantized", (4, 4, 4)), Feature("d", "d/dequantized", (4, 4, 4)))


@pytest.fixture
def inner(batch):
    """What a teacher might have there."""
    return [np.random.default_rng(k).normal(0, 1, (16, 4, 4, 4)).astype(np.float32) for k in range(2)]


def test_loss_of_a_student_is_the_numpy_definition(tiny_student, make_step, batch, inner):
    config = DistillConfig(feature_weight=0.5)
    loss, logits = make_step(tiny_student(), config, features=FEATURES).run(*batch, features=inner)
    ours = compare._Values(tiny_student(), [f.student for f in FEATURES], 1)(batch[0])
    pairs = [(ours[f.student], t) for f, t in zip(FEATURES, inner)]
    assert loss == pytest.approx(distillation_loss(logits, *batch[1:], config, pairs), rel=1e-5)


def test_lowered_gradients_equal_the_plain_ones(tiny_student, make_step, batch, inner):
    """The features' gradients join those of the logits behind and before blocked kernels."""
    found = []
    for options in (dict(batch_size=16), dict(batch_size=None), dict(lowered=False)):
        step = make_step(tiny_student(), DistillConfig(), features=FEATURES, **options)
        step.run(*batch, features=inner)
        found.append({name: gradient.copy() for name, gradient in step.gradients.items()})
    for name, wanted in found[2].items():
        for gradients in found[:2]:
            np.testing.assert_allclose(gradients[name], wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max(), err_msg=name)


def test_weight_of_zero_gives_the_gradients_of_a_student_without_features(tiny_student, make_step, batch, inner):
    """The whole of the feature's influence goes through its weight."""
    with_features = make_step(tiny_student(), DistillConfig(feature_weight=0.0), features=FEATURES)
    with_features.run(*batch, features=inner)
    without = make_step(tiny_student(), DistillConfig())
    without.run(*batch)
    for name, wanted in without.gradients.items():
        np.testing.assert_allclose(with_features.gradients[name], wanted, rtol=1e-4, atol=1e-6, err_msg=name)


def test_features_of_the_real_teacher_are_close_before_training(w3a3_student, teacher, make_step, fashion_train):
    """On the real net, in blocked layout: the loss is that of its values, computed by inference."""
    found = features.choose(teacher, w3a3_student, ("auto",))
    images = fashion_train.read(np.arange(8))
    theirs, ours = (
        compare._Values(model, [*names, model.graph.output[0].name], 1)(images)
        for model, names in ((teacher, [f.teacher for f in found]), (w3a3_student, [f.student for f in found]))
    )
    logits = [values[teacher.graph.output[0].name] for values in (ours, theirs)]
    step = make_step(w3a3_student, DistillConfig(alpha=1), batch_size=8, features=found)
    loss, _ = step.run(images, logits[1], None, features=[theirs[f.teacher] for f in found])
    pairs = [(ours[f.student], theirs[f.teacher]) for f in found]
    assert loss == pytest.approx(distillation_loss(*logits, None, DistillConfig(alpha=1), pairs), rel=1e-4)
