"""The distillation loss (Hinton et al. 2015) as a graph, and in numpy as its definition.

    loss = alpha * T^2 * mean_batch KL(softmax(teacher / T) || softmax(student / T)) + (1 - alpha) * CE(student, labels)

From LogSoftmax, never the log of a softmax, so that it stays finite for logits a thousand apart. `kl = reverse` takes
KL(student || teacher) instead, as MNN does. T^2 keeps the gradient's size independent of T.

With features (Romero et al. 2015), pairs of inner values (s, t) of student and teacher, it is that plus

    feature_weight * mean_pairs sum (s - t)^2 / sum t^2

each sum over the whole batch: the mean squared error as a share of the teacher's mean square.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_distill.config import DistillConfig
from onnx_distill.numerics import log_softmax
from onnx_distill.trainable.fake_quant import DOMAIN
from onnx_distill.trainable.feature_error import NAME, feature_error
from onnx_distill.trainable.features import Feature

TEACHER, LABELS, FEATURE = "onnx_distill/teacher_logits", "onnx_distill/labels", "onnx_distill/teacher_feature_{}"


def add_loss(
    graph: onnx.GraphProto, logits: str, classes: int, config: DistillConfig, features: Sequence[Feature] = ()
) -> str:
    """Put the loss behind `logits` [n, classes] into the graph; returns the scalar's name.

    New graph inputs: TEACHER float [n, classes] where alpha > 0, LABELS int64 [n] where alpha < 1, and for each feature the
    teacher's value as FEATURE float [n, c * h * w]; the model then needs feature_error_function.
    """
    write = _Writer(graph)
    parts = []
    if config.teacher_share > 0:
        graph.input.append(helper.make_tensor_value_info(TEACHER, TensorProto.FLOAT, ["batch", classes]))
        parts.append(_teacher_part(write, logits, config))
    if config.teacher_share < 1:
        graph.input.append(helper.make_tensor_value_info(LABELS, TensorProto.INT64, ["batch"]))
        parts.append(_label_part(write, logits, classes, config))
    if features:
        parts.append(_feature_part(write, features, config))
    return write.sum(parts)


def _feature_part(write: _Writer, features: Sequence[Feature], config: DistillConfig) -> str:
    """The teacher's values come in flat: an input in the student's own shape would keep its neighbours out of blocked layout."""
    errors = []
    for place, feature in enumerate(features):
        flat, shape = FEATURE.format(place), np.array([-1, *feature.size], np.int64)
        write.graph.input.append(helper.make_tensor_value_info(flat, TensorProto.FLOAT, ["batch", math.prod(feature.size)]))
        teacher = write("Reshape", flat, write.constant(shape))
        errors.append(write(NAME, feature.student, teacher, domain=DOMAIN))
    return write("Mul", write.sum(errors), write.scalar(config.feature_weight / len(features)))


def _teacher_part(write: _Writer, logits: str, config: DistillConfig) -> str:
    cool = write.scalar(1.0 / config.temperature)
    student = write("LogSoftmax", write("Mul", logits, cool), axis=-1)
    teacher = write("LogSoftmax", write("Mul", TEACHER, cool), axis=-1)
    p, q = (teacher, student) if config.kl == "forward" else (student, teacher)
    divergence = write("Mul", write("Exp", p), write("Sub", p, q))
    return write("Mul", _mean_of_rows(write, divergence), write.scalar(config.teacher_share * config.temperature**2))


def _label_part(write: _Writer, logits: str, classes: int, config: DistillConfig) -> str:
    log_probability = write("LogSoftmax", logits, axis=-1)
    target = write(
        "OneHot",
        LABELS,
        write.constant(np.array([classes], np.int64)),
        write.constant(np.array(_targets(classes, config), np.float32)),
        axis=-1,
    )
    return write(
        "Mul", _mean_of_rows(write, write("Mul", target, log_probability)), write.scalar(config.teacher_share - 1.0)
    )


def _targets(classes: int, config: DistillConfig) -> tuple[float, float]:
    """What the wrong classes and the right one are to get (Szegedy et al. 2016)."""
    spread = config.label_smoothing / classes
    return spread, 1.0 - config.label_smoothing + spread


def _mean_of_rows(write: _Writer, values: str) -> str:
    sums = write("ReduceSum", values, write.constant(np.array([1], np.int64)), keepdims=0)
    return write("ReduceMean", sums, keepdims=0)


class _Writer:
    """Appends nodes to a graph: write("Mul", a, b) returns the name of the product."""

    def __init__(self, graph: onnx.GraphProto):
        self.graph, self.count = graph, 0

    def _name(self, kind: str) -> str:
        self.count += 1
        return f"onnx_distill/loss/{kind}_{self.count}"

    def __call__(self, operator: str, *inputs: str, **attributes) -> str:
        name = self._name(operator)
        self.graph.node.append(helper.make_node(operator, list(inputs), [name], name, **attributes))
        return name

    def sum(self, values: Sequence[str]) -> str:
        """A chain of Add; the runtime has no gradient for Sum (1.19.2)."""
        total = values[0]
        for value in values[1:]:
            total = self("Add", total, value)
        return total

    def constant(self, values: np.ndarray) -> str:
        name = self._name("constant")
        self.graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def scalar(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))


def distillation_loss(
    student: np.ndarray,
    teacher: np.ndarray,
    labels: np.ndarray | None,
    config: DistillConfig,
    features: Sequence[tuple[np.ndarray, np.ndarray]] = (),
) -> float:
    """The same loss in float64 numpy; logits [n, classes], labels int [n] (unused where alpha = 1), features (student's, teacher's)."""
    loss = 0.0
    if config.teacher_share > 0:
        p, q = log_softmax(teacher / config.temperature), log_softmax(student / config.temperature)
        p, q = (p, q) if config.kl == "forward" else (q, p)
        loss += config.teacher_share * config.temperature**2 * (np.exp(p) * (p - q)).sum(axis=1).mean()
    if config.teacher_share < 1:
        wrong, right = _targets(student.shape[1], config)
        target = np.where(np.arange(student.shape[1]) == np.asarray(labels)[:, None], right, wrong)
        loss -= (1 - config.teacher_share) * (target * log_softmax(student)).sum(axis=1).mean()
    if features:
        loss += config.feature_weight * sum(feature_error(s, t) for s, t in features) / len(features)
    return float(loss)
