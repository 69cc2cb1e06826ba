"""Small float graphs as ONNX text with random weights, and what quantizing them takes."""

from __future__ import annotations

import collections

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper, parser

from onnx_distill import runtime
from onnx_distill.calibrate import calibrate, choose_range
from onnx_distill.config import QuantizeConfig
from onnx_distill.integer_form import integer_form
from onnx_distill.placement import plan, with_node_names
from onnx_distill.quantize import quantize, with_quantizable_opset

IMAGES = "float[N, 3, 8, 8] x"
FEATURES = "float[N, C, H, W] y"
ROWS = "float[N, 5] y"
CONV = "a = Conv<pads = [1, 1, 1, 1]>(x, w, b) "
SHAPES = {  # of the weights that a graph may name
    "w": (4, 3, 3, 3), "b": (4,), "w2": (4, 4, 3, 3), "b2": (4,), "w3": (4, 4, 3, 3), "b3": (4,), "point": (4, 4, 1, 1),
    "depthwise": (4, 1, 3, 3), "gain": (1, 4, 1, 1), "left": (8, 8), "f": (256, 5), "ft": (5, 256), "fb": (5,), "fb_row": (1, 5),
    "short": (4, 5), "vector": (256,), "batched": (1, 8, 8), "right": (8, 8), "one_channel": (4, 1, 3, 3), "square": (5, 5),
}  # fmt: skip
VALUES = {
    "zero": np.float32(0), "half": np.float32(0.5), "six": np.float32(6), "minus": np.float32(-0.5), "quarter": np.float32(0.25),
    "axis": np.int64([2]), "spatial": np.int64([2, 3]), "rows": np.int64([-1, 4, 4, 16]), "flat": np.int64([0, -1]),
    "first": np.int64(0), "front": np.int64([0]), "rest": np.int64([-1]), "four": np.int64([4]), "halves": np.int64([4, 4]),
    "ones": np.int64([1, 1, 1, 1]), "doubled": np.float32([1, 1, 2, 2]), "picked": np.int64([1, 3, 4, 6]),
    "pairs": np.int64([0, 2, 2, 8, 8]), "whole": np.int64([0, 4, 8, 8]), "eights": np.linspace(0.5, 1.2, 8, dtype=np.float32), "by_ones": np.eye(256, dtype=np.float32),
}  # fmt: skip


def net(
    body: str, outputs: str = FEATURES, inputs: str = IMAGES, opset: int = 17, ir: int = 8, seed: int = 0, **values
) -> onnx.ModelProto:
    """A float model; names that it reads and nobody makes are initializers: from `values`, VALUES or random of SHAPES."""
    model = parser.parse_model(
        f'<ir_version: {ir}, opset_import: ["" : {opset}]> net ({inputs}) => ({outputs}) {{ {body} }}'
    )
    made = {name for node in model.graph.node for name in node.output} | {value.name for value in model.graph.input}
    rng = np.random.default_rng(seed)
    for name in dict.fromkeys(name for node in model.graph.node for name in node.input if name and name not in made):
        content = {**VALUES, **values}.get(name)
        content = random_weights(SHAPES[name], rng) if content is None else np.asarray(content)
        model.graph.initializer.append(numpy_helper.from_array(content, name))
    return with_node_names(model)


def random_weights(shape, rng: np.random.Generator) -> np.ndarray:
    return (rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))).astype(np.float32)


def random_images(model: onnx.ModelProto, count: int = 16, seed: int = 1) -> np.ndarray:
    dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    return np.random.default_rng(seed).standard_normal((count, *dims)).astype(np.float32)


def student_of(model: onnx.ModelProto, **choices) -> onnx.ModelProto:
    """The QDQ form, calibrated by the smallest and largest values on random images."""
    config = QuantizeConfig(**choices)
    prepared = integer_form(with_quantizable_opset(model), config.exclude, bool(config.symmetric))
    sites = plan(prepared, config)
    found = calibrate(prepared, [site.value for site in sites.activations], [random_images(model)], threads=1)
    ranges = {s.value: choose_range(found[s.value], "minmax", s.integers, config.symmetric) for s in sites.activations}
    return quantize(prepared, sites, ranges, config)


def simulated(model: onnx.ModelProto, images: np.ndarray) -> list[np.ndarray]:
    """Outputs of the nodes exactly as they stand."""
    return runtime.run(runtime.open_session(model, 1, optimized=False), images)


def deployed(model: onnx.ModelProto, images: np.ndarray) -> list[np.ndarray]:
    """Outputs of the runtime's integer kernels, exact on any machine."""
    return runtime.run(runtime.open_session(model, 1), images)


def operators(model: onnx.ModelProto, path, int8: bool = False) -> collections.Counter:
    """How often each operator occurs in the graph that the runtime makes of the model; int8: its option that lets int8
    activations be fused on x86 too, where it fuses only uint8 by default."""
    options = ort.SessionOptions()
    options.log_severity_level, options.optimized_model_filepath = 3, str(path)
    options.add_session_config_entry("session.qdqisint8allowed", "1" if int8 else "0")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return collections.Counter(node.op_type for node in onnx.load(str(path)).graph.node)


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    """Squared error over the mean square of what is wanted."""
    return float(np.square(found - wanted, dtype=np.float64).sum() / np.square(wanted, dtype=np.float64).sum())
