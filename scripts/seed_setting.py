"""The setting of the idea's source, made here: MobileNetV2 1.0 at 224x224 with 1,001 outputs, and a list file of images.

python scripts/seed_setting.py FOLDER      writes mobilenetv2.onnx (random weights), images/ (100 of them) and list.txt
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

# (expansion, channels, blocks, stride of the first), Sandler et al. 2018, table 2
BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class _Net:
    def __init__(self, seed: int):
        self.rng, self.nodes, self.weights = np.random.default_rng(seed), [], []
        for name, value in (("zero", 0.0), ("six", 6.0)):
            self.weights.append(numpy_helper.from_array(np.float32(value), name))

    def conv(
        self, x: str, name: str, inner: int, outer: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True
    ) -> str:
        """A convolution with what BatchNorm leaves when folded: weights and a bias."""
        fan = kernel * kernel * inner // groups
        gain = 2.0 if relu else 1.0
        w = self.rng.normal(0, np.sqrt(gain / fan), (outer, inner // groups, kernel, kernel)).astype(np.float32)
        b = self.rng.normal(0, 0.1, outer).astype(np.float32)
        self.weights += [numpy_helper.from_array(w, f"{name}/weights"), numpy_helper.from_array(b, f"{name}/biases")]
        pads = [kernel // 2] * 4
        inputs, node = [x, f"{name}/weights", f"{name}/biases"], f"{name}/Conv2D"
        attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": pads, "group": groups}
        self.nodes.append(helper.make_node("Conv", inputs, [node], node, **attributes))
        if not relu:
            return node
        self.nodes.append(helper.make_node("Clip", [node, "zero", "six"], [f"{name}/Relu6"], f"{name}/Relu6"))
        return f"{name}/Relu6"

    def block(self, x: str, name: str, inner: int, outer: int, expansion: int, stride: int) -> str:
        y = self.conv(x, f"{name}/expand", inner, inner * expansion, 1) if expansion > 1 else x
        y = self.conv(y, f"{name}/depthwise", inner * expansion, inner * expansion, 3, stride, inner * expansion)
        y = self.conv(y, f"{name}/project", inner * expansion, outer, 1, relu=False)
        if stride > 1 or inner != outer:
            return y
        self.nodes.append(helper.make_node("Add", [x, y], [f"{name}/add"], f"{name}/add"))
        return f"{name}/add"


def mobilenet_v2(size: int = 224, classes: int = 1001, seed: int = 0) -> onnx.ModelProto:
    """image float32 [n, 3, size, size] -> probabilities; logits at MobilenetV2/Predictions/Reshape. Random weights."""
    net, root = _Net(seed), "MobilenetV2"
    x, inner, number = net.conv("input", f"{root}/Conv", 3, 32, 3, 2), 32, 0
    for expansion, outer, count, stride in BLOCKS:
        for place in range(count):
            name = f"{root}/expanded_conv" + (f"_{number}" if number else "")
            x = net.block(x, name, inner, outer, expansion, stride if place == 0 else 1)
            inner, number = outer, number + 1
    x = net.conv(x, f"{root}/Conv_1", inner, 1280, 1)
    net.nodes.append(helper.make_node("GlobalAveragePool", [x], [f"{root}/Logits/AvgPool"], f"{root}/Logits/AvgPool"))
    x = net.conv(f"{root}/Logits/AvgPool", f"{root}/Logits/Conv2d_1c_1x1", 1280, classes, 1, relu=False)
    net.weights.append(numpy_helper.from_array(np.array([0, classes], np.int64), "rows"))
    logits, answer = f"{root}/Predictions/Reshape", f"{root}/Predictions/Softmax"
    net.nodes.append(helper.make_node("Reshape", [x, "rows"], [logits], logits))
    net.nodes.append(helper.make_node("Softmax", [logits], [answer], answer, axis=-1))
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, size, size])]
    outputs = [helper.make_tensor_value_info(answer, TensorProto.FLOAT, ["n", classes])]
    graph = helper.make_graph(net.nodes, "MobilenetV2", inputs, outputs, net.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_images(folder: Path, count: int = 100, classes: int = 1000, seed: int = 0) -> None:
    """images/NNN.jpg of several sizes, smooth random colours, and list.txt with `name label` lines, labels 0..classes - 1."""
    rng, lines = np.random.default_rng(seed), []
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rough = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
        width, height = (int(side) for side in rng.integers(200, 500, 2))
        rough.resize((width, height), Image.Resampling.BICUBIC).save(folder / "images" / f"{number:03}.jpg", quality=90)
        lines.append(f"{number:03}.jpg {rng.integers(classes)}")
    (folder / "list.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    write_images(target)
    onnx.save(mobilenet_v2(), str(target / "mobilenetv2.onnx"))
    print(f"{target}: mobilenetv2.onnx, images/, list.txt")
