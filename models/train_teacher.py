"""Train the Fashion-MNIST teacher and write it as ONNX: models/mobilenetv2-fashion.onnx.

    python models/train_teacher.py --data data --epochs 45

Needs PyTorch (the `teacher` extra); nothing else in this repository does. The network is MobileNetV2
(Sandler et al. 2018) scaled to 28x28 grey images: inverted residuals, depthwise 3x3, Relu6, linear bottlenecks.
Eleven outputs: a background class at 0 that no image has, then the ten classes, as in the 1,001-class original.
The test images are looked at once, after the last epoch; nothing is chosen by them.
"""

import argparse
import gzip
import hashlib
import json
import math
import time
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import nn

MEAN, SCALE = 0.2860, 0.3530  # of the 60,000 training images, pixels in 0..1
CLASSES = 11
BLOCKS = [  # expansion, channels, repeats, stride
    (1, 16, 1, 1),
    (4, 32, 2, 2),
    (4, 64, 3, 2),
    (4, 96, 3, 2),
]
STEM, HEAD = 16, 384


def read_idx(path):
    with gzip.open(path) as file:
        raw = file.read()
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(raw[3])]
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape).copy()


class ConvBN(nn.Sequential):
    def __init__(self, inputs, outputs, kernel=1, stride=1, groups=1, relu=True):
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs), *([nn.ReLU6()] if relu else []))


class InvertedResidual(nn.Module):
    def __init__(self, inputs, outputs, stride, expansion):
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        expand = [ConvBN(inputs, hidden)] if expansion != 1 else []
        self.layers = nn.Sequential(*expand, ConvBN(hidden, hidden, 3, stride, hidden), ConvBN(hidden, outputs, relu=False))

    def forward(self, x):
        return x + self.layers(x) if self.residual else self.layers(x)


class MobileNetV2(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = ConvBN(1, STEM, 3)
        blocks, channels = [], STEM
        for expansion, outputs, repeats, stride in BLOCKS:
            for i in range(repeats):
                blocks.append(InvertedResidual(channels, outputs, stride if i == 0 else 1, expansion))
                channels = outputs
        self.blocks = nn.ModuleList(blocks)
        self.head = ConvBN(channels, HEAD)
        self.classifier = nn.Linear(HEAD, CLASSES)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        x = self.head(x).mean((2, 3))
        return self.classifier(F.dropout(x, 0.2, self.training))


def augment(images, generator):
    """Random shift by up to 2 pixels, horizontal flip, and a grey square of up to 12 pixels (Cutout)."""
    n, _, h, w = images.shape
    padded = F.pad(images, (2, 2, 2, 2), value=-MEAN / SCALE)
    dy, dx = torch.randint(0, 5, (2, n), generator=generator)
    rows = dy[:, None, None] + torch.arange(h)[None, :, None]
    columns = torch.arange(w)[None, None, :].repeat(n, 1, 1)
    flip = torch.rand(n, generator=generator) < 0.5
    columns = torch.where(flip[:, None, None], w - 1 - columns, columns) + dx[:, None, None]
    images = padded[torch.arange(n)[:, None, None], 0, rows, columns][:, None]
    side = torch.randint(0, 13, (n, 1, 1), generator=generator)
    y0, x0 = (
        torch.randint(-6, h - 6, (n, 1, 1), generator=generator),
        torch.randint(-6, w - 6, (n, 1, 1), generator=generator),
    )
    y, x = torch.arange(h)[None, :, None], torch.arange(w)[None, None, :]
    hole = (y >= y0) & (y < y0 + side) & (x >= x0) & (x < x0 + side)
    return images.masked_fill(hole[:, None], 0.0)


def accuracy(model, images, labels):
    model.eval()
    hits = 0
    with torch.no_grad():
        for i in range(0, len(images), 500):
            logits = model(images[i : i + 500].contiguous(memory_format=torch.channels_last))
            hits += int((logits.argmax(1) == labels[i : i + 500]).sum())
    return hits / len(images)


def train(model, images, labels, args):
    generator = torch.Generator().manual_seed(args.seed)
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": args.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=args.lr, momentum=0.9, nesterov=True)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999), use_buffers=True
    )
    steps_per_epoch = len(images) // args.batch
    total, step, start = args.epochs * steps_per_epoch, 0, time.time()
    for epoch in range(args.epochs):
        model.train()
        order = torch.randperm(len(images), generator=generator)
        running = 0.0
        for i in range(steps_per_epoch):
            warm = min(1.0, (step + 1) / (2 * steps_per_epoch))
            rate = args.lr * warm * 0.5 * (1 + math.cos(math.pi * step / total))
            for group in optimizer.param_groups:
                group["lr"] = rate
            index = order[i * args.batch : (i + 1) * args.batch]
            batch = augment(images[index], generator).contiguous(memory_format=torch.channels_last)
            loss = F.cross_entropy(model(batch), labels[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            average.update_parameters(model)
            running += float(loss)
            step += 1
        print(f"epoch {epoch + 1} loss {running / steps_per_epoch:.4f} minutes {(time.time() - start) / 60:.1f}", flush=True)
    return average.module


def folded(layer):
    """(weight, bias) of a convolution with its BatchNorm folded in."""
    conv, norm = layer[0], layer[1]
    gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    weight = conv.weight.double() * gain[:, None, None, None]
    bias = norm.bias.double() - norm.running_mean.double() * gain
    return weight.detach().float().numpy(), bias.detach().float().numpy()


def to_onnx(model):
    nodes, initializers = [], []

    def constant(name, array):
        initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def conv(x, weight, bias, scope, stride=1, groups=1):
        k = weight.shape[2]
        inputs = [x, constant(f"{scope}/weights", weight), constant(f"{scope}/biases", bias)]
        nodes.append(
            helper.make_node(
                "Conv",
                inputs,
                [f"{scope}/Conv2D"],
                f"{scope}/Conv2D",
                kernel_shape=[k, k],
                strides=[stride] * 2,
                pads=[k // 2] * 4,
                group=groups,
                dilations=[1, 1],
            )
        )
        return f"{scope}/Conv2D"

    def layer(x, module, scope):
        y = conv(x, *folded(module), scope, module[0].stride[0], module[0].groups)
        if len(module) == 3:
            nodes.append(helper.make_node("Clip", [y, "zero", "six"], [f"{scope}/Relu6"], f"{scope}/Relu6"))
            y = f"{scope}/Relu6"
        return y

    constant("zero", np.float32(0))
    constant("six", np.float32(6))
    x = layer("input", model.stem, "MobilenetV2/Conv")
    for i, block in enumerate(model.blocks):
        scope = "MobilenetV2/expanded_conv" + (f"_{i}" if i else "")
        names = ["expand", "depthwise", "project"][-len(block.layers) :]
        y = x
        for name, module in zip(names, block.layers):
            y = layer(y, module, f"{scope}/{name}")
        if block.residual:
            nodes.append(helper.make_node("Add", [y, x], [f"{scope}/add"], f"{scope}/add"))
            y = f"{scope}/add"
        x = y
    x = layer(x, model.head, "MobilenetV2/Conv_1")
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["MobilenetV2/Logits/AvgPool"], "MobilenetV2/Logits/AvgPool"))
    weight = model.classifier.weight.detach().numpy()[:, :, None, None]
    bias = model.classifier.bias.detach().numpy()
    x = conv("MobilenetV2/Logits/AvgPool", weight, bias, "MobilenetV2/Logits/Conv2d_1c_1x1")
    constant("MobilenetV2/Predictions/shape", np.array([-1, CLASSES], np.int64))
    logits, softmax = "MobilenetV2/Predictions/Reshape", "MobilenetV2/Predictions/Softmax"
    nodes.append(helper.make_node("Reshape", [x, "MobilenetV2/Predictions/shape"], [logits], logits))
    nodes.append(helper.make_node("Softmax", [logits], [softmax], softmax, axis=-1))
    graph = helper.make_graph(
        nodes,
        "MobilenetV2",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 1, 28, 28])],
        [helper.make_tensor_value_info(softmax, TensorProto.FLOAT, ["N", CLASSES])],
        initializers,
    )
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
        producer_name="onnx-distill models/train_teacher.py",
    )
    preprocess = {"mean": [255 * MEAN], "scale": [1 / (255 * SCALE)], "layout": "NCHW", "label_offset": 1}
    helper.set_model_props(made, {"onnx_distill.preprocess": json.dumps(preprocess)})
    onnx.checker.check_model(made, full_check=True)
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "mobilenetv2-fashion.onnx")
    parser.add_argument("--epochs", type=int, default=45)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.2, help="peak learning rate of SGD with momentum 0.9")
    parser.add_argument("--weight-decay", type=float, default=2e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=60000, help="train on the first so many images")
    args = parser.parse_args()
    torch.manual_seed(args.seed)

    def load(part):
        pixels = read_idx(args.data / f"{part}-images-idx3-ubyte.gz")[:, None]
        images = (torch.from_numpy(pixels).float() / 255 - MEAN) / SCALE
        return images, torch.from_numpy(read_idx(args.data / f"{part}-labels-idx1-ubyte.gz")).long() + 1

    images, labels = load("train")
    model = MobileNetV2().to(memory_format=torch.channels_last)
    print(sum(p.numel() for p in model.parameters()), "parameters, BatchNorm included", flush=True)
    model = train(model, images[: args.limit], labels[: args.limit], args)
    print(f"test top-1 {100 * accuracy(model, *load('t10k')):.2f} %")
    onnx.save(to_onnx(model.eval()), args.out)
    print(args.out, "sha256", hashlib.sha256(args.out.read_bytes()).hexdigest())


if __name__ == "__main__":
    main()
