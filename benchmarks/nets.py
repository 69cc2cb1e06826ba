"""The three networks of the training benchmark, float ONNX with a Softmax, random weights where there is no teacher."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from seed_setting import mobilenet_v2  # noqa: E402


@dataclass(frozen=True)
class Setting:
    """A network, the batch it is trained with and its image shape [c, h, w]."""

    title: str
    model: Callable[[], onnx.ModelProto]
    batch: int
    image: tuple[int, int, int]


def resnet18(size: int = 64, classes: int = 200, seed: int = 0) -> onnx.ModelProto:
    """image float32 [n, 3, size, size] -> probabilities; He et al. 2015, table 1, BatchNorm folded. Random weights."""
    return _resnet("ResNet-18", (2, 2, 2, 2), 1, size, classes, seed)


def resnet50(size: int = 224, classes: int = 1000, seed: int = 0) -> onnx.ModelProto:
    """As resnet18, of bottleneck blocks."""
    return _resnet("ResNet-50", (3, 4, 6, 3), 4, size, classes, seed)


def _resnet(title: str, depth: tuple[int, ...], expansion: int, size: int, classes: int, seed: int) -> onnx.ModelProto:
    rng, nodes, weights = np.random.default_rng(seed), [], []

    def conv(x: str, name: str, inner: int, outer: int, kernel: int, stride: int) -> str:
        w = rng.normal(0, np.sqrt(2 / (inner * kernel * kernel)), (outer, inner, kernel, kernel)).astype(np.float32)
        weights.append(numpy_helper.from_array(w, f"{name}/weights"))
        weights.append(numpy_helper.from_array(rng.normal(0, 0.1, outer).astype(np.float32), f"{name}/biases"))
        attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
        nodes.append(helper.make_node("Conv", [x, f"{name}/weights", f"{name}/biases"], [name], name, **attributes))
        return name

    def node(kind: str, inputs: list[str], name: str, **attributes) -> str:
        nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def body(x: str, name: str, inner: int, width: int, stride: int) -> str:
        if expansion == 1:
            y = node("Relu", [conv(x, f"{name}/conv1", inner, width, 3, stride)], f"{name}/relu1")
            return conv(y, f"{name}/conv2", width, width, 3, 1)
        y = node("Relu", [conv(x, f"{name}/conv1", inner, width, 1, 1)], f"{name}/relu1")
        y = node("Relu", [conv(y, f"{name}/conv2", width, width, 3, stride)], f"{name}/relu2")
        return conv(y, f"{name}/conv3", width, width * expansion, 1, 1)

    x = node("Relu", [conv("input", "stem", 3, 64, 7, 2)], "stem/relu")
    x, inner = node("MaxPool", [x], "stem/pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), 64
    for stage, (width, blocks) in enumerate(zip((64, 128, 256, 512), depth)):
        for block in range(blocks):
            name, stride, outer = f"stage{stage}/block{block}", 2 if stage and not block else 1, width * expansion
            y = body(x, name, inner, width, stride)
            short = x if inner == outer else conv(x, f"{name}/short", inner, outer, 1, stride)
            x, inner = node("Relu", [node("Add", [y, short], f"{name}/add")], f"{name}/out"), outer
    weights.append(numpy_helper.from_array(rng.normal(0, 0.05, (inner, classes)).astype(np.float32), "head/weights"))
    weights.append(numpy_helper.from_array(np.zeros(classes, np.float32), "head/biases"))
    flat = node("Flatten", [node("GlobalAveragePool", [x], "pool")], "flat", axis=1)
    node("Softmax", [node("Gemm", [flat, "head/weights", "head/biases"], "logits")], "probabilities", axis=-1)
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, size, size])]
    outputs = [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", classes])]
    graph = helper.make_graph(nodes, title, inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


SETTINGS = {
    "mobilenetv2": Setting("MobileNetV2 1.0 at 224x224, 1,001 classes, batch 8", mobilenet_v2, 8, (3, 224, 224)),
    "teacher": Setting(
        "models/ teacher, batch 64", lambda: onnx.load(str(ROOT / "models/mobilenetv2-fashion.onnx")), 64, (1, 28, 28)
    ),
    "resnet18": Setting("ResNet-18 at 64x64, 200 classes, batch 32", resnet18, 32, (3, 64, 64)),
}
