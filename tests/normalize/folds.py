"""What tests of folding share: nets of a few lines with random weights, and what normalizing makes of them."""

from __future__ import annotations

import numpy as np
import onnx
from equal import same_outputs
from onnx import numpy_helper

from onnx_distill.normalize import normalize

IMAGES = "float[n,4,6,6] x"
WEIGHTS = {  # shapes
    "w": (6, 4, 3, 3), "b": (6,), "after": (5, 6, 3, 3), "depthwise": (6, 1, 3, 3), "grouped": (6, 2, 3, 3), "line": (6, 4, 3),
    "transposed": (4, 6, 2, 2), "transposed_grouped": (4, 3, 2, 2), "rows": (4, 6), "columns": (6, 4), "more": (6, 5),
    "gain": (6,), "offset": (6,), "mean": (6,), "variance": (6,), "gain4": (4,), "offset4": (4,), "mean4": (4,), "variance4": (4,),
    "channels": (6, 1, 1), "channels4": (1, 4, 1, 1), "vector": (6,), "vector4": (4,), "row": (1, 6), "plane": (6, 6), "one": (1,),
    "eight": (8,),
}  # fmt: skip
NORM = "BatchNormalization({}, gain, offset, mean, variance)"
NORM4 = "BatchNormalization({}, gain4, offset4, mean4, variance4)"


def net(body: str, image: str = IMAGES, outputs: str = "y", opset: int = 17, **given: np.ndarray) -> onnx.ModelProto:
    """A float model; names that it reads and nobody makes are initializers: `given`, or random of WEIGHTS."""
    declared = ", ".join(f"float[n] {name}" for name in outputs.split(", "))
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> g ({image}) => ({declared}) {{ {body} }}')
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    made = {name for node in model.graph.node for name in node.output} | {value.name for value in model.graph.input}
    rng = np.random.default_rng(0)
    for name in dict.fromkeys(name for node in model.graph.node for name in node.input if name and name not in made):
        content = np.asarray(given[name]) if name in given else weights(name, rng)
        model.graph.initializer.append(numpy_helper.from_array(content, name))
    model = onnx.shape_inference.infer_shapes(model)  # of the outputs
    del model.graph.value_info[:]
    return model


def weights(name: str, rng: np.random.Generator) -> np.ndarray:
    """Of channels from 0.5 to 1.5, so that a layer behind them may take them in; else normal."""
    shape = WEIGHTS[name]
    is_layer = len(shape) > 1 and max(shape[-2:]) > 1 and np.prod(shape) > 6
    made = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])) if is_layer else rng.uniform(0.5, 1.5, shape)
    return made.astype(np.float32)


def images(model: onnx.ModelProto, seed: int = 1) -> dict[str, np.ndarray]:
    dims = [d.dim_value or 2 for d in model.graph.input[0].type.tensor_type.shape.dim]
    return {"x": np.random.default_rng(seed).standard_normal(dims).astype(np.float32)}


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The normalized model, checked: the same outputs, and nothing left to do."""
    made, _ = normalize(model)
    same_outputs(model, made, images(model))
    assert not normalize(made)[1]
    return made


def sequence(model: onnx.ModelProto) -> list[str]:
    """Operators in graph order."""
    return [node.op_type for node in model.graph.node]
