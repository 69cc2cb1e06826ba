"""Graphs in the manner of exporters that are not installed here, written with onnx.helper: tf2onnx, Paddle and Caffe2.

A graph's docstring begins with what the README says of it.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

CLASSES = 7


class Writer:
    """Appends nodes: write("Relu", x) returns the name of the output. constants: where values go, "initializer" or "node"."""

    def __init__(self, seed: int, constants: str = "initializer"):
        self.rng, self.constants, self.nodes, self.initializers = np.random.default_rng(seed), constants, [], []

    def __call__(self, op: str, *inputs: str, output: str | None = None, **attributes) -> str:
        name = output or f"{op.lower()}_{len(self.nodes)}.tmp_0"
        self.nodes.append(
            helper.make_node(
                op, list(inputs), [name], "" if self.constants == "node" else f"{op}_{len(self.nodes)}", **attributes
            )
        )
        return name

    def constant(self, values, dtype=np.float32) -> str:
        name = f"constant_{len(self.nodes) + len(self.initializers)}"
        tensor = numpy_helper.from_array(np.asarray(values, dtype), name)
        if self.constants == "node":
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.initializers.append(tensor)
        return name

    def weight(self, *shape: int) -> str:
        """Random, so that what goes in with variance 1 comes out with about 2: half of it is lost in the Relu behind."""
        return self.constant(self.rng.normal(0, np.sqrt(2 / max(1, np.prod(shape[1:]))), shape))

    def near(self, value: float, *shape: int, spread: float = 0.2) -> str:
        return self.constant(self.rng.uniform(value - spread, value + spread, shape))

    def batch_norm(self, x: str, channels: int, variance: float = 1.0, **attributes) -> str:
        statistics = [
            self.near(1, channels),
            self.near(0, channels),
            self.near(0, channels),
            self.near(variance, channels, spread=0.4),
        ]
        return self("BatchNormalization", x, *statistics, epsilon=1e-3, **attributes)

    def model(
        self, opset: int, ir: int, image: list, output: str, producer: str, listed: bool = False, batch="N"
    ) -> onnx.ModelProto:
        """listed: initializers are graph inputs too."""
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, image)]
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in self.initializers] if listed else []
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, CLASSES])]
        graph = helper.make_graph(self.nodes, producer, inputs, outputs, self.initializers)
        opsets = [helper.make_opsetid("", opset)]
        return _settled(helper.make_model(graph, opset_imports=opsets, ir_version=ir, producer_name=producer))


def _settled(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its last weight and last bias such that the logits lie around 0 and spread by 1.5."""
    values = {t.name: t for t in model.graph.initializer}
    values.update({node.output[0]: node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"})
    read = [name for node in model.graph.node if node.op_type != "Reshape" for name in node.input if name in values]
    weight, bias = values[read[-2]], values[read[-1]]
    scores = _log_probabilities(model)
    weight.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.5 / scores.std(axis=0).mean()), weight.name)
    )
    centre = _log_probabilities(model).mean(axis=0)
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) - centre, bias.name))
    return model


def _log_probabilities(model: onnx.ModelProto) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = session.get_inputs()[0]
    shape = [size if isinstance(size, int) and size > 0 else 16 for size in wanted.shape[1:]]
    images = np.random.default_rng(0).standard_normal((64, 1, *shape)).astype(np.float32)
    return np.log(np.concatenate([session.run(None, {wanted.name: image})[0] for image in images]))


def tf2onnx_mobilenetv2() -> onnx.ModelProto:
    """hand-written as by tf2onnx: NHWC input with Transpose, auto_pad, Relu6 as Min and Relu, ReduceMean, MatMul + Add."""
    w = Writer(1)

    def conv(x, i, o, kernel=1, stride=1, group=1):
        attributes = {
            "strides": [stride, stride],
            "group": group,
            "kernel_shape": [kernel, kernel],
            "auto_pad": "SAME_UPPER",
        }
        return w.batch_norm(w("Conv", x, w.weight(o, i // group, kernel, kernel), **attributes), o)

    def relu6(x):
        return w("Min", w("Relu", x), w.constant(6.0))

    x = w("Transpose", w("Mul", "x", w.constant(1.2)), perm=[0, 3, 1, 2])
    x = relu6(conv(x, 3, 16, 3, 2))
    x = relu6(conv(x, 16, 16, 3, 1, 16))
    short = x = conv(x, 16, 24)
    x = relu6(conv(x, 24, 72))
    x = conv(relu6(conv(x, 72, 72, 3, 1, 72)), 72, 24)
    x = w("Add", short, x)
    padded = w("Pad", x, w.constant([0, 0, 0, 0, 0, 0, 1, 1], np.int64), mode="constant")
    valid = w("Conv", padded, w.weight(24, 1, 3, 3), strides=[2, 2], group=24, kernel_shape=[3, 3], auto_pad="VALID")
    x = relu6(conv(relu6(w.batch_norm(valid, 24)), 24, 48))
    x = w("Transpose", x, perm=[0, 2, 3, 1])
    x = w("Squeeze", w("ReduceMean", x, axes=[1, 2], keepdims=1), w.constant([1, 2], np.int64))
    logits = w("Add", w("MatMul", x, w.weight(48, CLASSES)), w.near(0, CLASSES))
    w("Softmax", logits, output="Identity:0")
    return w.model(13, 7, ["unk__100", 16, 16, 3], "Identity:0", "tf2onnx", batch="unk__101")


def paddle_mobilenetv3() -> onnx.ModelProto:
    """hand-written as by Paddle: Constant nodes, no names, HardSigmoid attributes, hard swish as Add Clip Mul Div, size free."""
    w = Writer(2, "node")

    def conv(x, i, o, kernel=1, stride=1, group=1):
        pad = kernel // 2
        attributes = {
            "strides": [stride] * 2,
            "group": group,
            "kernel_shape": [kernel] * 2,
            "pads": [pad] * 4,
            "dilations": [1, 1],
        }
        return w.batch_norm(w("Conv", x, w.weight(o, i // group, kernel, kernel), **attributes), o, momentum=0.9)

    def hard_swish(x):
        gate = w("Clip", w("Add", x, w.constant(3.0)), w.constant(0.0), w.constant(6.0))
        return w("Div", w("Mul", x, gate), w.constant(6.0))

    def biased(x, i, o):
        y = w("Conv", x, w.weight(o, i, 1, 1), kernel_shape=[1, 1], pads=[0] * 4)
        bias = w("Reshape", w.near(0, o), w.constant([1, -1, 1, 1], np.int64))
        return w("Add", y, bias)

    def excite(x, channels):
        s = w("Relu", biased(w("GlobalAveragePool", x), channels, channels // 4))
        return w("Mul", x, w("HardSigmoid", biased(s, channels // 4, channels), alpha=0.2, beta=0.5))

    def block(x, i, o, act, excited=True):
        y = act(conv(act(conv(x, i, 3 * i)), 3 * i, 3 * i, 3, 1, 3 * i))
        y = conv(excite(y, 3 * i) if excited else y, 3 * i, o)
        return w("Add", x, y) if i == o else y

    def relu(x):
        return w("Relu", x)

    x = hard_swish(conv("x", 3, 16, 3, 2))
    x = block(block(x, 16, 16, relu), 16, 24, hard_swish, excited=False)
    x = hard_swish(conv(block(x, 24, 24, hard_swish), 24, 48))
    x = w("GlobalAveragePool", w("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], pads=[0] * 4))
    batch = w(
        "Slice",
        w("Cast", w("Shape", x), to=TensorProto.INT32),
        w.constant([0], np.int64),
        w.constant([1], np.int64),
        w.constant([0], np.int64),
    )
    rows = w(
        "Cast", w("Concat", w("Cast", batch, to=TensorProto.INT64), w.constant([-1], np.int64), axis=0), to=TensorProto.INT64
    )
    x = w("MatMul", w("Reshape", x, rows), w.weight(48, CLASSES))
    w("Identity", w("Softmax", w("Add", x, w.near(0, CLASSES)), axis=1), output="save_infer_model/scale_0.tmp_1")
    return w.model(11, 7, [-1, 3, "?", "?"], "save_infer_model/scale_0.tmp_1", "PaddlePaddle", batch=-1)


def _caffe2_block(w: Writer, x: str, i: int, o: int) -> str:
    a = w("Relu", w.batch_norm(w("Conv", x, w.weight(o, i, 3, 3), kernel_shape=[3, 3], pads=[1] * 4), o))
    b = w.batch_norm(w("Conv", a, w.weight(o, o, 3, 3), kernel_shape=[3, 3], pads=[1] * 4), o)
    short = w.batch_norm(w("Conv", x, w.weight(o, i, 1, 1), kernel_shape=[1, 1]), o) if i != o else x
    return w("Relu", w("Sum", b, short))


def caffe2_resnet() -> onnx.ModelProto:
    """hand-written as by Caffe2: IR 3, initializers are inputs too, Sum, AveragePool to 1x1, Reshape by a constant, batch 1."""
    w = Writer(3)
    stem = w(
        "Relu", w.batch_norm(w("Conv", "x", w.weight(16, 3, 3, 3), kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2]), 16)
    )
    x = w("MaxPool", stem, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    x = _caffe2_block(w, _caffe2_block(w, x, 16, 16), 16, 24)
    x = w("AveragePool", x, kernel_shape=[4, 4], strides=[1, 1])
    x = w("Reshape", x, w.constant([1, 24], np.int64))
    logits = w("Gemm", x, w.weight(CLASSES, 24), w.near(0, CLASSES), transB=1)
    w("Softmax", logits, output="prob_1")
    return w.model(9, 3, [1, 3, 16, 16], "prob_1", "onnx-caffe2", listed=True, batch=1)


def caffe2_mobilenetv2() -> onnx.ModelProto:
    """hand-written as by Caffe2: opset 7, IR 3, initializers are inputs too, attribute Clip, SpatialBN, Dropout."""
    w = Writer(4)

    def conv(x, i, o, kernel=1, stride=1, group=1):
        attributes = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4, "strides": [stride] * 2, "group": group}
        return w.batch_norm(w("Conv", x, w.weight(o, i // group, kernel, kernel), **attributes), o)

    def relu6(x):
        return w("Clip", x, min=0.0, max=6.0)

    x = relu6(conv("x", 3, 16, 3, 2))
    y = relu6(conv(relu6(conv(x, 16, 48)), 48, 48, 3, 1, 48))
    x = w("Add", x, conv(y, 48, 16))
    x = relu6(conv(relu6(conv(x, 16, 48)), 48, 48, 3, 2, 48))
    x = w("Dropout", w("GlobalAveragePool", conv(x, 48, 32)), ratio=0.5)
    x = w("Conv", x, w.weight(CLASSES, 32, 1, 1), w.near(0, CLASSES), kernel_shape=[1, 1])
    w("Softmax", w("Flatten", x), output="prob_1")
    return w.model(7, 3, [1, 3, 16, 16], "prob_1", "onnx-caffe2", listed=True, batch=1)


GRAPHS = {
    "mobilenetv2-13-tf2onnx": tf2onnx_mobilenetv2,
    "mobilenetv3-11-paddle": paddle_mobilenetv3,
    "resnet-9-caffe2": caffe2_resnet,
    "mobilenetv2-7-caffe2": caffe2_mobilenetv2,
}
