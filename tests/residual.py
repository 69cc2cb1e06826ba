"""A small residual network, and what OpenVINO makes of it."""

from __future__ import annotations

import json
import subprocess

import graphs
import numpy as np
import onnx

from onnx_distill import qdq
from onnx_distill.lookup import array, initializers, producers
from onnx_distill.model import save
from onnx_distill.verify import find_runtime
from onnx_distill.verify.environments import answers

STEM = "x0 = Conv<pads = [1, 1, 1, 1]>(x, w, b) r0 = Relu(x0) "
SMALLER = """
    c1 = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(r0, w2, b2) d1 = Relu(c1) e1 = Conv(d1, point, b3)
    f1 = Conv<strides = [2, 2]>(r0, point2, b4) s1 = Add(e1, f1)
"""
SAME = "c2 = Conv<pads = [1, 1, 1, 1]>(r1, w3, b5) d2 = Relu(c2) e2 = Conv(d2, point3, b6) s2 = Add(e2, r1) "
AGAIN = "c3 = Conv<pads = [1, 1, 1, 1]>(r2, w4, b7) d3 = Relu(c3) e3 = Conv(d3, point4, b8) s3 = Add(r2, e3) "
HEAD = "y = Conv(r3, point5, b9)"
CLASSES = " g = GlobalAveragePool(y) h = Flatten(g) logits = Gemm(h, head, fb) p = Softmax(logits)"
RELU, LINEAR = ("r1 = Relu(s1) ", "r2 = Relu(s2) ", "r3 = Relu(s3) "), ("", "", "")
SHAPES = {
    **{f"b{i}": (16,) for i in ("", *range(2, 10))},
    **{f"w{i}": (16, 16, 3, 3) for i in range(2, 5)},
    **{f"point{i}": (16, 16, 1, 1) for i in ("", *range(2, 6))},
    "w": (16, 3, 3, 3),
    "head": (16, 5),
    "fb": (5,),
}
EXECUTED = """
import json, sys
import numpy as np, openvino
core = openvino.Core()
model = core.read_model(sys.argv[1])
model.reshape([int(size) for size in sys.argv[2].split(",")])
ran = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).get_runtime_model()
told = lambda op, key: getattr(op.get_rt_info()[key], "value", op.get_rt_info()[key])
print(json.dumps([[told(op, "layerType"), told(op, "originalLayersNames").split(",")] for op in ran.get_ordered_ops()]))
"""


def residual(linear: bool, tail: str = "", outputs: str = graphs.FEATURES) -> onnx.ModelProto:
    """A stem, a block whose sum joins two convolutions, two whose sum joins one and what it read, and a layer behind the last."""
    rng = np.random.default_rng(3)
    weights = {name: 1.4 * graphs.random_weights(shape, rng) for name, shape in SHAPES.items()}
    ends = LINEAR if linear else RELU
    body = STEM + SMALLER + ends[0] + SAME + ends[1] + AGAIN + ends[2] + HEAD
    if linear:
        for i in (1, 2, 3):
            body = body.replace(f"r{i}", f"s{i}")
    return graphs.net(body + tail, outputs, inputs="float[N, 3, 16, 16] x", **weights)


def operands(model: onnx.ModelProto) -> list[set[str]]:
    """What makes the operands of each sum."""
    made_by = producers(model)
    sums = [node for node in model.graph.node if node.op_type == "Add" and all(name in made_by for name in node.input)]
    return [{made_by[name].op_type for name in node.input} for node in sums]


def sums(model: onnx.ModelProto) -> dict[str, str]:
    """Name of the node -> its sum, for s1, s2 and s3."""
    return {made.name: value for value, made in producers(model).items() if value in ("s1", "s2", "s3")}


def run_in(model: onnx.ModelProto, images: np.ndarray, folder) -> dict[str, str]:
    """Sum -> type of the node that runs it in OpenVINO."""
    save(model, str(folder / "model.onnx"))
    python, named = find_runtime("openvino").command[0], sums(model)
    command = [python, "-c", EXECUTED, str(folder / "model.onnx"), ",".join(map(str, images.shape))]
    ran = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {named[name]: kind for kind, names in ran for name in names if name in named}


def steps_off(model: onnx.ModelProto, images: np.ndarray, meaning: onnx.ModelProto | None = None) -> np.ndarray:
    """Steps between what OpenVINO makes of the model's output, which is quantized, and the reference evaluator of its meaning's;
    None: its own."""
    (made,) = (output.name for output in model.graph.output)
    step = next(float(array(initializers(model)[q.scale])) for q in qdq.find(model) if q.result == made)
    found = answers(find_runtime("openvino"), model, images).outputs[made]
    wanted = answers(find_runtime("reference"), meaning or model, images).outputs[made]
    return np.abs(found - wanted) / step
