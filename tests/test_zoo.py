"""Every classifier of tests/zoo goes the whole way: normalized, gradients checked, quantized, trained for twenty steps, exported."""

from __future__ import annotations

import functools
import hashlib
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from faulty import Faulty

from onnx_distill import artifacts, runtime
from onnx_distill.config import DistillConfig, QuantizeConfig, TrainConfig
from onnx_distill.cut import cut
from onnx_distill.data import Images
from onnx_distill.evaluate import agreement
from onnx_distill.lookup import image_input, initializers, shape_of
from onnx_distill.normalize import normalize
from onnx_distill.normalize.image_form import as_images, is_nhwc
from onnx_distill.normalize.prepare import prepare
from onnx_distill.pipeline import quantize_with_images
from onnx_distill.placement import with_node_names
from onnx_distill.preflight import preflight
from onnx_distill.ready.calibrated import ready
from onnx_distill.ready.deployable import deployable
from onnx_distill.train import with_parameters
from onnx_distill.trainable.units import natural_units
from onnx_distill.training.optimizer import Optimizer
from onnx_distill.training.step import Step

FOLDER = Path(__file__).with_name("zoo")
ZOO = sorted(path.stem for path in FOLDER.glob("*.onnx"))
FAMILIES = (
    "audio convnext densenet efficientnet mlp mobilenetv1 mobilenetv2 mobilenetv3 regnet resnet shufflenetv2 vgg vit".split()
)
SIZE = 16  # of an image whose height and width the model leaves open
W4A4 = QuantizeConfig(weight_bits=4, activation_bits=4)
RECIPE = TrainConfig(learning_rate=3e-4, units="plain", schedule="constant", warmup=0.0)
TEACHER_ALONE = DistillConfig(temperature=2, alpha=1)

each_of_the_zoo = pytest.mark.parametrize("name", ZOO)


class Arrays(Images):
    """Images of any rank, as they are."""

    labels = None

    def __init__(self, values: np.ndarray):
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def read(self, indices: np.ndarray) -> np.ndarray:
        return self.values[indices]

    def subset(self, indices: np.ndarray) -> Arrays:
        return Arrays(self.values[indices])

    @property
    def fill(self) -> np.ndarray:
        raise NotImplementedError("nothing here is shifted")


def original(name: str) -> onnx.ModelProto:
    return onnx.load(str(FOLDER / f"{name}.onnx"))


@functools.cache
def normalized(name: str) -> onnx.ModelProto:
    return normalize(prepare(original(name), as_taken(name, random_images(name, 1)).shape[1:]))[0]


@functools.cache
def float_model(name: str) -> onnx.ModelProto:
    """Cut at its logits and ready to be trained on images with channels first."""
    return with_node_names(ready(cut(original(name)), random_images(name, 1).shape[1:]))


@functools.cache
def student(name: str) -> onnx.ModelProto:
    return quantize_with_images(cut(original(name)), Arrays(random_images(name, 64)), W4A4, threads=1)


def nearest_student(name: str) -> onnx.ModelProto:
    nearest = replace(W4A4, rounding="nearest")
    return quantize_with_images(cut(original(name)), Arrays(random_images(name, 64)), nearest, threads=1)


def random_images(name: str, count: int, seed: int = 0) -> np.ndarray:
    """Channels first."""
    shape = shape_of(image_input(as_images(prepare(original(name)))))[1:]
    sizes = [size if isinstance(size, int) else SIZE for size in shape]
    return np.random.default_rng(seed).standard_normal((count, *sizes)).astype(np.float32)


def as_taken(name: str, images: np.ndarray) -> np.ndarray:
    """In the layout of the model's input."""
    return images.transpose(0, 2, 3, 1) if is_nhwc(image_input(original(name))) else images


def one_by_one(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """The first output for each image, run alone, as models with a fixed batch want it and stock runtimes optimize them."""
    session = runtime.open_session(model, 1)
    return np.concatenate([runtime.run(session, image[None])[0] for image in images])


def make_step(
    model: onnx.ModelProto, learn_steps: str = "all", batch_size: int | None = None
) -> tuple[artifacts.Artifacts, Step]:
    with tempfile.TemporaryDirectory() as folder:
        made = artifacts.build(model, TEACHER_ALONE, learn_steps, Path(folder), batch_size)
        return made, Step(made, threads=1)


# ---- the files


def test_the_readme_has_the_checksum_of_every_file():
    listed = dict(re.findall(r"\| ([\w.-]+)\.onnx \|.*?`([0-9a-f]{64})`", (FOLDER / "README.md").read_text()))
    assert listed == {name: hashlib.sha256((FOLDER / f"{name}.onnx").read_bytes()).hexdigest() for name in ZOO}


def test_every_family_is_there_in_opsets_from_7_to_20_and_small():
    assert sorted({name.partition("-")[0] for name in ZOO}) == FAMILIES
    assert {7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 18, 20} <= {original(name).opset_import[0].version for name in ZOO}
    assert max((FOLDER / f"{name}.onnx").stat().st_size for name in ZOO) < 200_000


# ---- normalize


@each_of_the_zoo
def test_normalizing_keeps_the_outputs(name):
    images = as_taken(name, random_images(name, 8))
    after = runtime.open_session(normalized(name), 1, optimized=False)
    wanted = one_by_one(prepare(original(name)), images)
    np.testing.assert_allclose(runtime.run(after, images)[0], wanted, rtol=1e-5, atol=1e-5)


@each_of_the_zoo
def test_normalizing_keeps_names_and_frees_the_batch(name):
    before, after = original(name), normalized(name)
    onnx.checker.check_model(after, full_check=True)
    assert image_input(after).name == image_input(before).name
    assert [value.name for value in after.graph.output] == [value.name for value in before.graph.output]
    assert isinstance(shape_of(image_input(after))[0], str)


@each_of_the_zoo
def test_normalizing_twice_is_normalizing_once(name):
    again, done = normalize(normalized(name))
    assert not done
    assert [node.op_type for node in again.graph.node] == [node.op_type for node in normalized(name).graph.node]


# ---- gradients


def slope_error(step: Step, given, signs: np.ndarray) -> float:
    """|slope of the loss along the signed unit gradients of all parameters - what the gradients say|, relative to their sum."""
    step.run(*given)
    kept = {name: values.copy() for name, values in step.parameters.items()}
    norms = {name: float(np.linalg.norm(gradient)) for name, gradient in step.gradients.items()}
    assert min(norms.values()) > 0, f"no gradient reaches {min(norms, key=lambda name: norms[name])}"
    direction = {name: step.gradients[name] * np.float32(sign / norms[name]) for name, sign in zip(kept, signs)}
    ends, size = [], np.float32(1e-4)
    for side in (size, -size):
        for name, values in step.parameters.items():
            values[...] = kept[name] + side * direction[name]
        ends.append(step.run(*given)[0])
    for name, values in step.parameters.items():
        values[...] = kept[name]
    wanted = sum(sign * norms[name] for name, sign in zip(kept, signs))
    return abs((ends[0] - ends[1]) / (2 * float(size)) - wanted) / sum(norms.values())


@each_of_the_zoo
def test_gradients_of_the_float_network_agree_with_central_differences(name):
    made, step = make_step(float_model(name), "none")
    rng, images = np.random.default_rng(0), random_images(name, 16)
    logits = runtime.run(runtime.open_session(float_model(name), 1), images)[0]
    teacher = logits + rng.normal(0, 2, logits.shape).astype(np.float32)
    signs = [np.ones(len(made.parameters.all)), *rng.choice([-1.0, 1.0], (2, len(made.parameters.all)))]
    # kinks and curvature within a step of 1e-4 of each parameter, and float32 rounding of the loss
    assert max(slope_error(step, (images, teacher, None), sign) for sign in signs) < 0.005


@pytest.mark.parametrize("name", ["mobilenetv2-12-preserve", "vit-18-dynamo"])
def test_the_slopes_notice_each_weight_with_a_wrong_gradient(name):
    made, step = make_step(float_model(name), "none")
    given = (random_images(name, 16), np.zeros((16, 7), np.float32), None)
    signs = np.ones(len(made.parameters.all))
    assert slope_error(step, given, signs) < 0.005
    assert min(slope_error(Faulty(step, wrong, -1), given, signs) for wrong in made.parameters.weights) > 0.005


@each_of_the_zoo
def test_preflight_finds_every_gradient_right_and_none_missing(name):
    assert preflight(student(name), random_images(name, 16), replace(RECIPE, threads=1)) == []


# ---- quantize, train, export


@each_of_the_zoo
def test_twenty_steps_train_every_parameter(name):
    """From weights rounded to the nearest: from those that are rounded together, so few steps at such a rate lead away. The last five
    together: a single loss of 4-bit weights that flip goes up and down by a third."""
    images, student = random_images(name, 32, seed=1), nearest_student(name)
    made, step = make_step(student, batch_size=len(images))
    groups = (made.parameters.weights, made.parameters.biases, made.parameters.steps)
    optimizer, start = Optimizer(step.parameters, *groups, RECIPE), {n: v.copy() for n, v in step.parameters.items()}
    teacher = runtime.run(runtime.open_session(float_model(name), 1), images)[0]
    losses = []
    for _ in range(20):
        losses.append(step.run(images, teacher, None)[0])
        optimizer.update(step.gradients, 1.0)
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < 0.9 * losses[0]
    assert [n for n, values in step.parameters.items() if np.array_equal(values, start[n])] == []
    check_export(name, with_parameters(student, step.parameters), images)


@each_of_the_zoo
def test_every_parameter_has_a_natural_unit(name):
    """Finite, above 0, of a shape that broadcasts to the parameter's own."""
    parameters, constants = artifacts.trainable(student(name), "all"), initializers(student(name))
    units = natural_units(student(name), parameters.weights + parameters.biases, parameters.steps)
    assert set(units) == set(parameters.all)
    for parameter, unit in units.items():
        shape = tuple(constants[parameter].dims)
        assert np.broadcast_shapes(unit.shape, shape) == shape and np.isfinite(unit).all() and (unit > 0).all(), parameter


def check_export(name: str, trained: onnx.ModelProto, images: np.ndarray) -> None:
    """What takes the teacher's place, as the runtime optimizes it, answers as the simulation of the student's nodes does."""
    exported = one_by_one(deployable(trained, original(name)), as_taken(name, images))
    logits = runtime.run(runtime.open_session(trained, 1, optimized=False), images)[0]
    simulated = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert agreement(simulated, exported) >= 0.9
    assert np.abs(exported - simulated).mean() < 0.01
