"""Before a long training: does every parameter get a gradient on a real batch, and is it the right one?

The student without its rounding is compared with differences of its outputs; then the student itself takes one step. What is
wrong stops with the parameter's name, and with the operator to blame: the first one, on the way back from the logits, that takes
a right gradient and passes on a wrong one. A parameter without a gradient to which the logits do not answer
either is no error: its Relus are closed for these images, or the weights behind it are 0.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx

from onnx_distill import artifacts
from onnx_distill.config import DistillConfig, TrainConfig
from onnx_distill.errors import InputError
from onnx_distill.facts.logits import label
from onnx_distill.preflight.blame import blame
from onnx_distill.preflight.gradient_check import GradientCheck
from onnx_distill.preflight.unrounded import settled
from onnx_distill.trainable.trainability import refuse
from onnx_distill.training.step import Step

IMAGES = 16  # enough that kinks cancel out; each costs forward passes
PIXELS = 2**18  # of all images together (16 of 3x64x64, 2 of 3x224x224), so that large ones cost no more
SAME = 1e-3  # of the largest logit, between the two runtimes' forward passes
SKIP = "--no-preflight trains all the same."


def preflight(student: onnx.ModelProto, images: np.ndarray, config: TrainConfig = TrainConfig()) -> list[str]:
    """Names of the weights and biases that nothing moves on these images; float32 images [n, ...], at most IMAGES are used, fewer large ones.

    Raises InputError for a gradient that is missing, not finite or wrong, and names parameter and operator.
    """
    trained = artifacts.trainable(student, config.learn_steps, config.freeze)
    refuse(student, trained.all)
    parameters = trained.weights + trained.biases
    if not parameters:
        return []
    images = images[: max(2, min(IMAGES, PIXELS // max(1, images[0].size)))]
    return check_gradients(settled(student, images, config.threads), parameters, images, config.threads, student)


def check_gradients(
    model: onnx.ModelProto,
    parameters: tuple[str, ...],
    images: np.ndarray,
    threads: int,
    student: onnx.ModelProto | None = None,
) -> list[str]:
    """preflight of a float model; and where it is that of a student, of one step of it."""
    check = GradientCheck(model, parameters, images, threads)
    _check_forward(check)
    wrong = check.wrong()
    if wrong:  # once more, elsewhere: a right gradient beside many kinks is seldom taken for wrong twice
        again = GradientCheck(model, parameters, images, threads, seed=1)
        wrong = [name for name in wrong if not again.is_right(name)]
    for what, names in (("is not finite", check.broken()), ("is not the slope of the loss", wrong)):
        if names:
            raise InputError(_wrong(names, what, blame(model, names[0], images, threads, names[0] in wrong)))
    dead = check.zero()
    if len(dead) == len(parameters):
        raise InputError(
            f"none of the {len(parameters)} parameters moves the logits on these images; wanted images as the model reads them. "
            f"Check --mean and --scale. {SKIP}"
        )
    if student is not None:
        _check_step(student, parameters, images, threads, dead)
    return dead


def _check_forward(check: GradientCheck) -> None:
    difference = np.abs(check.output - check.trained_output).max(initial=0)
    if not difference <= SAME * max(1.0, np.abs(check.output).max(initial=0)):
        raise InputError(
            f"the training runtime computes other logits than inference does (off by {difference:.2g}): an operator that behaves "
            f"differently in training. See `onnx-distill inspect`. {SKIP}"
        )


def _wrong(names: list[str], what: str, node: onnx.NodeProto | None) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    blamed = f"; {node.op_type} {label(node)!r} passes it on wrongly" if node is not None else ""
    return f"the gradient of parameter {names[0]!r}{more} {what}{blamed}. Export the model without that operator. {SKIP}"


def _check_step(
    student: onnx.ModelProto, parameters: tuple[str, ...], images: np.ndarray, threads: int, dead: list[str]
) -> None:
    """One step of the student itself, quantizers and fast kernels included, towards random logits."""
    classes = artifacts.class_count(student.graph.output[0])
    wanted = np.random.default_rng(0).standard_normal((len(images), classes)).astype(np.float32)
    with tempfile.TemporaryDirectory(prefix="onnx-distill-") as folder:
        config = DistillConfig(alpha=1.0, temperature=1.0)
        step = Step(artifacts.build(student, config, "all", Path(folder), len(images)), threads)
        step.run(images, wanted, None)
        for name, gradient in step.gradients.items():
            if not np.isfinite(gradient).all():
                raise InputError(f"the gradient of parameter {name!r} is not finite in the quantized student. {SKIP}")
            if name in parameters and name not in dead and not gradient.any():
                raise InputError(
                    f"parameter {name!r} gets no gradient in the quantized student, though the float one does: its values, or those "
                    f"behind it, lie outside their quantizers' ranges. Quantize again, with more bits. {SKIP}"
                )
