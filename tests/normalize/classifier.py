"""A classifier round a few lines of ONNX text, and how wrong the gradients that flow through those lines are."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import onnx
from equal import outputs, same_outputs
from onnx import helper, numpy_helper

from onnx_distill import _ort, artifacts, gradients, loss
from onnx_distill.config import DistillConfig
from onnx_distill.normalize import normalize
from onnx_distill.trainable import fake_quant
from onnx_distill.training.step import Step

BATCH = 3
CONV = {3: "float[n,4,9]", 4: "float[n,4,8,8]", 5: "float[n,4,4,5,6]"}


def classifier(
    body: str, image: str = "float[n,4,8,8] x", opset: int = 17, head: bool = True, first: str | None = None, **values
) -> onnx.ModelProto:
    """x -> Conv or MatMul (weight `w`), or `first` -> a -> `body` -> b -> logits. values: arrays, or shapes of random weights."""
    rng, rank = np.random.default_rng(0), image.count(",") + 1
    first = (
        first if first is not None else "a = MatMul(x, w)" if rank == 2 else f"a = Conv<pads = {[1] * 2 * (rank - 2)}>(x, w)"
    )
    text = f'<ir_version: 8, opset_import: ["": {opset}]> g ({image}) => (float[n] b) {{ {first} {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}{number}"
    weights = {"w": (4, 4) if rank == 2 else (4, 4, *[3] * (rank - 2)), **values}
    for name, content in weights.items():
        made = random_weights(content, rng) if isinstance(content, tuple) else np.asarray(content)
        model.graph.initializer.append(numpy_helper.from_array(made, name))
    return _with_head(model, rng) if head else model


def with_output_shape(model: onnx.ModelProto, *shape: int | str) -> onnx.ModelProto:
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("b", 1, shape))
    return model


def random_weights(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    return (rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))).astype(np.float32)


def _with_head(model: onnx.ModelProto, rng: np.random.Generator) -> onnx.ModelProto:
    features = outputs(model, {"x": images(model)})[0].size // BATCH
    constants = {"head": random_weights((features, 3), rng), "flat": np.array([-1, features])}
    model.graph.initializer.extend(numpy_helper.from_array(content, name) for name, content in constants.items())
    model.graph.node.append(helper.make_node("Reshape", ["b", "flat"], ["flattened"], "reshape"))
    model.graph.node.append(helper.make_node("MatMul", ["flattened", "head"], ["logits"], "classify"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("logits", 1, ["n", 3]))
    return model


def images(model: onnx.ModelProto, seed: int = 1) -> np.ndarray:
    """Standard normal, or pixels where the model wants uint8; BATCH of them."""
    kind, rng = model.graph.input[0].type.tensor_type, np.random.default_rng(seed)
    sizes = [dim.dim_value or BATCH for dim in kind.shape.dim]
    if kind.elem_type == onnx.TensorProto.UINT8:
        return rng.integers(0, 256, sizes).astype(np.uint8)
    return rng.standard_normal(sizes).astype(np.float32)


def slope_error(model: onnx.ModelProto) -> float:
    """The largest, over the parameters, of |slope of the loss along a direction - gradient . direction| / |gradient|."""
    with tempfile.TemporaryDirectory() as folder:
        step = Step(_artifacts(model, Path(folder)), threads=1)
    rng, given = np.random.default_rng(2), images(model)
    given = (given, rng.normal(0, 2, (len(given), 3)).astype(np.float32), None)
    step.run(*given)
    gradients = {name: values.copy() for name, values in step.gradients.items()}
    return max(_slope_error(step, given, name, gradient, rng) for name, gradient in gradients.items())


def _artifacts(model: onnx.ModelProto, folder: Path) -> artifacts.Artifacts:
    """What artifacts.build makes, of models too that it would refuse."""
    config, parameters = DistillConfig(1, 1.0), artifacts.trainable(model, "none")
    prepared = fake_quant.fake_quantized(model, ())
    add_loss = functools.partial(loss.add_loss, classes=3, config=config)
    trained = gradients.differentiable(prepared.model, parameters.all)
    _ort.generate_artifacts(trained, parameters.all, add_loss, folder, ["logits"])
    return artifacts.Artifacts(folder, parameters, config)


def _slope_error(step: Step, given: tuple, name: str, gradient: np.ndarray, rng, size: float = 2e-3) -> float:
    norm, values, kept = float(np.linalg.norm(gradient)), step.parameters[name], step.parameters[name].copy()
    directions, errors = [gradient / max(norm, 1e-9), *rng.standard_normal((2, *kept.shape)) / np.sqrt(kept.size)], []
    for direction in directions:
        ends = []
        for sign in (size, -size):
            values[...] = kept + np.float32(sign) * direction.astype(np.float32)
            ends.append(step.run(*given)[0])
        values[...] = kept
        errors.append(abs((ends[0] - ends[1]) / (2 * size) - float((gradient * direction).sum())))
    return max(errors) / max(norm, 1e-3)


SLOPE = 0.01  # curvature and the kinks of a maximum within a step of 2e-3; a wrong gradient is off by 0.1 and more


def becomes(model: onnx.ModelProto, rule: str, trains: bool = True) -> onnx.ModelProto:
    """The normalized model, checked: `rule` fired, outputs and names stay, twice is once, gradients agree with differences."""
    made, done = normalize(model)
    assert rule in {rewrite.rule for rewrite in done}
    same_outputs(model, made, {"x": images(model)})
    assert not normalize(made)[1]
    assert not trains or slope_error(made) < SLOPE
    return made


def stays(model: onnx.ModelProto, rule: str) -> None:
    assert rule not in {rewrite.rule for rewrite in normalize(model)[1]}
