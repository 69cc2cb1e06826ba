"""Training speed: images a second of a distillation step, with and without lowering, against the teacher's inference.

make bench
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from onnx_distill import artifacts, pipeline, runtime
from onnx_distill import model as models
from onnx_distill.config import DistillConfig, QuantizeConfig, TrainConfig
from onnx_distill.cut import cut
from onnx_distill.data import ArrayImages
from onnx_distill.optimizer import Optimizer
from onnx_distill.step import Step

BATCH, WARM_UP, ROUNDS = 64, 3, 25


def step_table(teacher: str, threads: int) -> str:
    """A Markdown table; the rows take turns in one run, medians and quartiles over the rounds."""
    logits_model = cut(models.load(teacher))
    shape = [int(d) for d in models.shape_of(models.image_input(logits_model))[1:]]
    rng = np.random.default_rng(0)
    images = rng.standard_normal((BATCH, *shape), np.float32)
    labels = rng.integers(0, artifacts.class_count(logits_model.graph.output[0]), BATCH)
    session = runtime.open_session(logits_model, threads)
    config = QuantizeConfig(weight_bits=4, activation_bits=4)
    student = pipeline.quantize_with_images(logits_model, ArrayImages(images), config, BATCH, threads=threads)
    rows = {"teacher inference": lambda: runtime.run(session, images)}
    for learned, text in (("all", "steps learned"), ("none", "steps fixed")):
        for lowered in (True, False):
            name = f"distillation step, {text}" + ("" if lowered else ", depthwise not lowered")
            rows[name] = _step(student, session, images, labels, learned, BATCH if lowered else None, threads)
    samples = {name: [] for name in rows}
    for turn in range(WARM_UP + ROUNDS):
        for name, action in rows.items():
            action()  # untimed: its own caches, and the other rows' threads asleep
            started = time.perf_counter()
            action()
            if turn >= WARM_UP:
                samples[name].append(time.perf_counter() - started)
    base = np.median(samples["teacher inference"])
    lines = [
        f"Batch {BATCH}, W4A4, {threads} threads; a step is teacher, student forward and backward, and the optimiser.",
        "",
    ]
    lines += ["| | ms, median (quartiles) | images/s | teacher inferences |", "|---|---|---|---|"]
    for name, seconds in samples.items():
        low, middle, high = np.percentile(seconds, (25, 50, 75))
        lines.append(
            f"| {name} | {1e3 * middle:.1f} ({1e3 * low:.1f} to {1e3 * high:.1f}) | {BATCH / middle:.0f} | {middle / base:.1f} |"
        )
    return "\n".join(lines)


def _step(student, session, images, labels, learned: str, batch_size, threads: int):
    with tempfile.TemporaryDirectory() as folder:
        made = artifacts.build(student, DistillConfig(), learned, Path(folder), batch_size)
        step = Step(made, threads)
    optimizer = Optimizer(
        step.parameters, made.parameters.weights, made.parameters.biases, made.parameters.steps, TrainConfig()
    )

    def act():
        step.run(images, runtime.run(session, images)[0], labels)
        optimizer.update(step.gradients, 0.1)

    return act


if __name__ == "__main__":
    print(step_table("models/mobilenetv2-fashion.onnx", 2))
