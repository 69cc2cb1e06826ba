"""Training artifacts: the QDQ student with the loss behind it, its gradient graph, and a checkpoint of its parameters."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from onnx_distill import _ort, qdq, runtime
from onnx_distill.closest import closest
from onnx_distill.config import DistillConfig
from onnx_distill.errors import InputError
from onnx_distill.gradients import differentiable
from onnx_distill.lookup import array, initializers, opset, producers, shape_of
from onnx_distill.loss import add_loss
from onnx_distill.lower import lower
from onnx_distill.trainable.fake_quant import fake_quantized
from onnx_distill.trainable.feature_error import feature_error_function
from onnx_distill.trainable.features import Feature
from onnx_distill.trainable.parameters import fixed
from onnx_distill.trainable.trainability import refuse

TRAINING_MODEL = "training_model.onnx"


@dataclass(frozen=True)
class Parameters:
    """Names of what is trained: weights (rank 2 and more), biases (the rest), and quantization steps."""

    weights: tuple[str, ...]
    biases: tuple[str, ...]
    steps: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        return self.weights + self.biases + self.steps


@dataclass(frozen=True)
class Artifacts:
    """A folder with training_model.onnx and checkpoint, and what they hold."""

    folder: Path
    parameters: Parameters
    config: DistillConfig


def build(
    student: onnx.ModelProto,
    config: DistillConfig,
    learn_steps: str,
    folder: Path,
    batch_size: int | None = None,
    freeze: tuple[str, ...] = (),
    features: Sequence[Feature] = (),
) -> Artifacts:
    """Write the artifacts that train a QDQ student to `folder`; with a batch size, for batches of that size alone and faster.

    features: inner values that are to be like the teacher's. freeze: patterns of parameter names that are not trained. Raises InputError where one fits none, or nothing is left.
    """
    parameters = trainable(student, learn_steps, freeze)
    refuse(student, parameters.all)  # before the runtime, which would train it wrongly or kill the process, sees the graph
    _write(student, parameters, config, folder, batch_size, features)
    runtime.give_back_memory()
    return Artifacts(folder, parameters, config)


def _write(
    student: onnx.ModelProto,
    parameters: Parameters,
    config: DistillConfig,
    folder: Path,
    batch_size: int | None,
    features: Sequence[Feature],
) -> None:
    prepared = fake_quantized(student, parameters.steps, frozen(student, parameters))
    logits = prepared.model.graph.output[0]
    classes = class_count(logits)
    trained = differentiable(prepared.model, parameters.all)
    if features:
        trained.functions.append(feature_error_function(opset(trained)))
    _ort.generate_artifacts(
        trained, parameters.all, lambda graph, name: add_loss(graph, name, classes, config, features), folder, [logits.name]
    )
    training = onnx.load(str(folder / TRAINING_MODEL))
    onnx.save(lower(training, prepared, batch_size), str(folder / TRAINING_MODEL))


def class_count(logits: onnx.ValueInfoProto) -> int:
    """Number of classes of a logits output [n, classes]. Raises InputError for any other shape, and for one class."""
    shape = shape_of(logits)
    if len(shape) != 2 or not isinstance(shape[1], int):
        raise InputError(
            f"logits {logits.name!r} have shape {shape}; wanted [batch, number of classes]. Cut at another value with --logits."
        )
    if shape[1] == 1:
        raise InputError(
            f"logits {logits.name!r} are of one class, whose softmax is always 1; wanted two or more, one answer an image. "
            "A model that answers by a threshold cannot be distilled yet."
        )
    return shape[1]


def trainable(student: onnx.ModelProto, learn_steps: str, freeze: tuple[str, ...] = ()) -> Parameters:
    """Float initializers of a QDQ student that feed the network: weights and biases, and the steps chosen by none | weights | all.

    freeze: patterns (shell style: * and ?) of names that stay as they are. Raises InputError where one fits no parameter, or
    none is left.
    """
    constants = initializers(student)
    steps = {q.scale: q for q in reversed(qdq.find(student))}  # of quantizers that share a scale the first counts
    apart = {*steps, *fixed(student)}
    values = [t.name for t in constants.values() if t.data_type == onnx.TensorProto.FLOAT and t.name not in apart]
    all_weights = [name for name in values if len(constants[name].dims) > 1 and array(constants[name]).size > 1]
    all_biases = [name for name in values if len(constants[name].dims) == 1]
    _check_patterns(freeze, [*all_weights, *all_biases, *steps])
    weights, biases = (tuple(_thawed(names, freeze)) for names in (all_weights, all_biases))
    moving, made_by = _fed_by(student, {*weights, *biases}), producers(student)
    learned = [
        name
        for name, q in reversed(steps.items())
        if q.source in moving
        and (learn_steps == "all" or (learn_steps == "weights" and q.source in constants))
        and not qdq.wants_power_of_two(made_by.get(q.source))
    ]
    found = Parameters(weights, biases, tuple(_thawed(learned, freeze)))
    if freeze and not found.all:
        raise InputError(f"--freeze {' '.join(freeze)} leaves no parameter to train.")
    return found


def frozen(student: onnx.ModelProto, parameters: Parameters) -> set[str]:
    """Float initializers that are not trained."""
    return {name for name, t in initializers(student).items() if t.data_type == onnx.TensorProto.FLOAT} - set(parameters.all)


def _check_patterns(freeze: tuple[str, ...], names: list[str]) -> None:
    for pattern in freeze:
        if not fnmatch.filter(names, pattern):
            hint = closest(pattern, names) or f"; there are {', '.join(map(repr, names[:3]))} and others"
            raise InputError(f"no parameter is named like {pattern!r}{hint}")


def _thawed(names: list[str], freeze: tuple[str, ...]) -> list[str]:
    return [name for name in names if not any(fnmatch.fnmatchcase(name, pattern) for pattern in freeze)]


def _fed_by(model: onnx.ModelProto, values: set[str]) -> set[str]:
    """Everything computed from `values`. The step of the image's quantizer is not learned: the image stands still, its
    grid is that of its pixels, and the runtime gives no gradient for an operator whose first input has none (1.19.2)."""
    reached = set(values)
    for node in model.graph.node:
        if reached & set(node.input):
            reached |= set(node.output)
    return reached
