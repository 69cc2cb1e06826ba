"""10,000 images in a folder: seconds to decode them once, memory, and the share of a training step that waits for images.

python benchmarks/folder.py [COUNT]
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from onnx_distill import pipeline
from onnx_distill.artifacts import build
from onnx_distill.config import DistillConfig, QuantizeConfig
from onnx_distill.cut import cut
from onnx_distill.data import Augment, Decoding, Preprocess, open_images
from onnx_distill.data.preprocess import PRESETS
from onnx_distill.training.order import Order
from onnx_distill.training.step import Step

SIZE, BATCH, STEPS = 96, 16, 40


def write_folder(root: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(count):
        folder = root / f"class{number % 10}"
        folder.mkdir(exist_ok=True, parents=True)
        rough = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
        rough.resize((400, 300), Image.Resampling.BICUBIC).save(folder / f"{number:05}.jpg", quality=90)


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(count: int) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
    from seed_setting import mobilenet_v2

    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), count)
        before, started = megabytes(), time.perf_counter()
        images = open_images(
            folder, preprocess=Preprocess(**PRESETS["mobilenet"]), shape=(3, SIZE, SIZE), decoding=Decoding(2)
        )
        print(f"{count} images of 400x300 decoded to {SIZE}x{SIZE} on 2 processes in {time.perf_counter() - started:.1f} s")
        model = cut(mobilenet_v2(SIZE, 10))
        student = pipeline.quantize_with_images(model, images, QuantizeConfig(), 32)
        with tempfile.TemporaryDirectory() as artifacts:
            step = Step(build(student, DistillConfig(), "all", Path(artifacts), BATCH))
        order, augment, waits, steps = Order(len(images), BATCH, 0), Augment(flip=True, shift=4), [], []
        teacher = np.zeros((BATCH, 10), np.float32)
        for number in range(STEPS):
            started = time.perf_counter()
            index = order.batch(number)
            batch = augment(images.read(index), order.rng(number), images.fill)
            waits.append(time.perf_counter() - started)
            step.run(batch, teacher, images.labels[index])
            steps.append(time.perf_counter() - started)
        share = np.median(waits) / np.median(steps)
        print(
            f"a step waits {1e3 * np.median(waits):.1f} of {1e3 * np.median(steps):.0f} ms for images: {100 * share:.1f} %"
        )
        print(
            f"memory: {before:.0f} MB before, {megabytes():.0f} MB after; the decoded images are {count * 3 * SIZE**2 / 2**20:.0f} MB on disk"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
