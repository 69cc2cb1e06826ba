"""The loss graph equals its numpy definition, and its gradient the difference of softmaxes."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnx_distill import runtime
from onnx_distill.config import DistillConfig
from onnx_distill.loss import LABELS, TEACHER, add_loss, distillation_loss, log_softmax

CLASSES, COUNT = 7, 16
CONFIGS = [DistillConfig(t, a, kl) for t, a, kl in itertools.product((0.5, 1, 4, 20), (0, 0.9, 1), ("forward", "reverse"))]
CONFIGS += [DistillConfig(2, 0.5, label_smoothing=0.1)]
configs = pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"T{c.temperature}-alpha{c.alpha}-{c.kl}")


def loss_session(config: DistillConfig):
    """A session of the loss alone, its inputs logits and whatever the loss added."""
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)  # noqa: E731
    graph = helper.make_graph([], "loss", [value("logits", ["batch", CLASSES])], [])
    result = add_loss(graph, "logits", CLASSES, config)
    graph.output.append(value(result, []))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return runtime.open_session(model, threads=1)


def loss_of(session, student, teacher, labels) -> float:
    given = {"logits": student, TEACHER: teacher, LABELS: labels}
    return float(session.run(None, {value.name: given[value.name] for value in session.get_inputs()})[0])


@pytest.fixture
def batch():
    """(student logits, teacher logits, labels)."""
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(0, 5, (2, COUNT, CLASSES)).astype(np.float32)
    return student, teacher, rng.integers(0, CLASSES, COUNT)


@configs
def test_graph_equals_numpy(config, batch):
    student, teacher, labels = batch
    wanted = distillation_loss(student, teacher, labels, config)
    # float32 sums of terms p * (log p - log q), each log rounded relative to its size, below 30 / T: 2^-24 * T^2 * 30 / T
    bound = 2.0**-24 * 30 * max(1, config.temperature) * 4
    assert loss_of(loss_session(config), *batch) == pytest.approx(wanted, rel=1e-5, abs=bound)


def test_numpy_equals_the_formula_written_out():
    student, teacher, labels = np.array([[1.0, 2.0, 0.0]]), np.array([[0.0, 3.0, 1.0]]), np.array([2])
    softmax = lambda z: np.exp(z) / np.exp(z).sum()  # noqa: E731
    p, q = softmax(teacher[0] / 2), softmax(student[0] / 2)
    entropy = -np.log(softmax(student[0])[2])
    forward = 0.7 * 4 * (p * np.log(p / q)).sum() + 0.3 * entropy
    reverse = 0.7 * 4 * (q * np.log(q / p)).sum() + 0.3 * entropy
    assert distillation_loss(student, teacher, labels, DistillConfig(2, 0.7)) == pytest.approx(forward, rel=1e-12)
    assert distillation_loss(student, teacher, labels, DistillConfig(2, 0.7, "reverse")) == pytest.approx(reverse, rel=1e-12)


@configs
@pytest.mark.parametrize("gap", [1_000, 30_000])
def test_loss_is_finite_and_right_for_confident_logits(config, gap):
    student, teacher = np.zeros((2, 3, CLASSES), np.float32)
    student[0, 1], student[1, 1], teacher[0, 2], teacher[2, 1] = gap, -gap, gap, gap
    labels = np.array([2, 1, 1])
    found = loss_of(loss_session(config), student, teacher, labels)
    assert np.isfinite(found)
    assert found == pytest.approx(distillation_loss(student, teacher, labels, config), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("kl", ["forward", "reverse"])
def test_loss_of_a_student_that_answers_as_its_teacher_is_zero(kl, batch):
    student, _, labels = batch
    shifted = student + np.float32(3)  # the same distribution
    assert loss_of(loss_session(DistillConfig(4, 1, kl)), student, shifted, labels) == pytest.approx(0, abs=1e-5)


def test_the_two_directions_differ(batch):
    found = [loss_of(loss_session(DistillConfig(4, 1, kl)), *batch) for kl in ("forward", "reverse")]
    assert abs(found[0] - found[1]) > 0.01


@pytest.mark.parametrize("alpha, wanted", [(0, {LABELS}), (0.9, {TEACHER, LABELS}), (1, {TEACHER})])
def test_alpha_0_needs_no_teacher_and_alpha_1_no_labels(alpha, wanted):
    names = [value.name for value in loss_session(DistillConfig(alpha=alpha)).get_inputs()]
    assert set(names) == {"logits"} | wanted


# ---- gradient, through a model whose logits are its weights


def analytic_gradient(student, teacher, labels, config: DistillConfig) -> np.ndarray:
    """d loss / d student logits, float64: differences of softmaxes."""
    t, n = config.temperature, len(student)
    p, q = np.exp(log_softmax(teacher / t)), np.exp(log_softmax(student / t))
    if config.kl == "forward":
        part = q - p
    else:
        ratio = log_softmax(student / t) - log_softmax(teacher / t)
        part = q * (ratio - (q * ratio).sum(axis=1, keepdims=True))
    smooth = config.label_smoothing
    answer = np.exp(log_softmax(student)) - (1 - smooth) * np.eye(student.shape[1])[labels] - smooth / student.shape[1]
    return (config.alpha * t * part + (1 - config.alpha) * answer) / n


def logits_as_weights(logits: np.ndarray) -> onnx.ModelProto:
    rows, classes = logits.shape
    text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[n,{rows}] x) => (float[n,{classes}] logits) {{ logits = MatMul(x, w) }}"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(logits, "w"))
    return model


@configs
def test_gradient_equals_the_analytic_one(config, batch, make_step):
    student, teacher, labels = batch
    step = make_step(logits_as_weights(student), config)
    loss, logits = step.run(np.eye(COUNT, dtype=np.float32), teacher, labels)
    assert np.array_equal(logits, student)
    assert loss == pytest.approx(distillation_loss(student, teacher, labels, config), rel=1e-5, abs=1e-4)
    wanted = analytic_gradient(student, teacher, labels, config)
    # float32 softmaxes, each 2^-24 relative to logits below 30 / T, times T, or in reverse times the log ratio, below 60 / T
    np.testing.assert_allclose(
        step.gradients["w"], wanted, rtol=1e-5, atol=2.0**-24 * 60 * max(1, config.temperature) / COUNT
    )


@pytest.mark.parametrize("kl", ["forward", "reverse"])
def test_gradient_is_finite_for_confident_logits(kl, make_step):
    student = np.array([[1000, 0, 0], [0, 1000, 0]], np.float32)
    teacher = np.array([[0, 1000, 0], [0, 1000, 0]], np.float32)
    config = DistillConfig(1, 0.9, kl)
    step = make_step(logits_as_weights(student), config)
    step.run(np.eye(2, dtype=np.float32), teacher, np.array([1, 1]))
    wanted = analytic_gradient(student, teacher, np.array([1, 1]), config)
    np.testing.assert_allclose(step.gradients["w"], wanted, rtol=0, atol=2.0**-24 * 1000)  # the rounding of a gap of 1000


def test_analytic_gradient_is_the_slope_of_the_numpy_loss(batch):
    student, teacher, labels = (values.astype(np.float64) if values.dtype == np.float32 else values for values in batch)
    direction = np.random.default_rng(1).normal(size=student.shape)
    for config in CONFIGS:
        ends = [distillation_loss(student + h * direction, teacher, labels, config) for h in (1e-5, -1e-5)]
        slope = (analytic_gradient(student, teacher, labels, config) * direction).sum()
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_label_smoothing_spreads_a_share_of_the_label_over_all_classes():
    logits, labels = np.array([[2.0, 0.0, -1.0]]), np.array([0])
    probability = np.exp(logits) / np.exp(logits).sum()
    wanted = -(np.array([[0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3]]) * np.log(probability)).sum()
    assert distillation_loss(logits, logits, labels, DistillConfig(alpha=0, label_smoothing=0.1)) == pytest.approx(wanted)
