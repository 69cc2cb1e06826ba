"""One row of benchmarks/training.py in its own process: each line "go" on stdin is answered with the seconds of one step.

training_row.py ROW FOLDER THREADS       ROW: ours, ours-plain, limit, torch-eager, torch-channels-last, torch-compile; with
                                         -fixed behind it the quantization steps are not learned
FOLDER holds logits.onnx, student.onnx, images.npy and labels.npy. Before the first go it prints "ready SECONDS_TO_BUILD";
"end" is answered with the peak memory in bytes.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np


def ours(folder: Path, threads: int, learned: str, lowered: bool):
    import tempfile

    import onnx

    from onnx_distill import artifacts
    from onnx_distill.config import DistillConfig, TrainConfig
    from onnx_distill.trainable.units import natural_units
    from onnx_distill.training.optimizer import Optimizer
    from onnx_distill.training.step import Step
    from onnx_distill.training.teacher import Teacher

    images, labels = np.load(folder / "images.npy"), np.load(folder / "labels.npy")
    model = onnx.load(str(folder / "logits.onnx"))
    teacher = Teacher(model, threads, artifacts.class_count(model.graph.output[0]))
    del model
    with tempfile.TemporaryDirectory() as build:
        batch = len(images) if lowered else None
        student = onnx.load(str(folder / "student.onnx"))
        made = artifacts.build(student, DistillConfig(), learned, Path(build), batch)
        step = Step(made, threads)
    p, everything = made.parameters, np.arange(len(images))
    units = natural_units(student, p.weights + p.biases, p.steps)
    del student
    optimizer = Optimizer(step.parameters, p.weights, p.biases, p.steps, TrainConfig(threads=threads), units)

    def act() -> None:
        step.run(images, teacher.logits(images, everything), labels)
        optimizer.update(step.gradients, 0.1)

    return act


def limit(folder: Path, threads: int):
    """Teacher once and three times the student's network in floats, which is what simulated quantization computes in."""
    import onnx

    from onnx_distill import runtime

    images = np.load(folder / "images.npy")
    session = runtime.open_session(onnx.load(str(folder / "logits.onnx")), threads)
    return lambda: [runtime.run(session, images) for _ in range(4)]


def pytorch(folder: Path, threads: int, learned: bool, variant: str):
    import torch
    from torch.nn import functional as F
    from torch_net import Net

    torch.set_num_threads(threads)
    layout = torch.contiguous_format if variant == "eager" else torch.channels_last
    images = torch.from_numpy(np.load(folder / "images.npy")).to(memory_format=layout)
    labels = torch.from_numpy(np.load(folder / "labels.npy"))
    teacher = Net(str(folder / "logits.onnx")).eval().to(memory_format=layout)
    student = Net(str(folder / "student.onnx"), learned, formula=variant == "compile").to(memory_format=layout)
    groups = [
        {"params": [w for w in student.weights if w.dim() > 1], "weight_decay": 4e-5},
        {"params": [w for w in student.weights if w.dim() < 2], "weight_decay": 0.0},
        {"params": [q.scale for q in student.quantizers if q.scale is not None], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=1e-4, fused=True)
    if variant == "compile":
        teacher, student = torch.compile(teacher), torch.compile(student)

    def loss_of(logits, guide):
        soft = F.kl_div(F.log_softmax(logits / 20, 1), F.log_softmax(guide / 20, 1), reduction="batchmean", log_target=True)
        return 0.9 * 400 * soft + 0.1 * F.cross_entropy(logits, labels)

    def act() -> None:
        with torch.no_grad():
            guide = teacher(images)
        optimizer.zero_grad(set_to_none=True)
        loss_of(student(images), guide).backward()
        optimizer.step()

    return act


def row(name: str, folder: Path, threads: int):
    fixed = name.endswith("-fixed")
    name = name[: -len("-fixed")] if fixed else name
    if name == "limit":
        return limit(folder, threads)
    if name.startswith("torch-"):
        return pytorch(folder, threads, not fixed, name[len("torch-") :])
    return ours(folder, threads, "none" if fixed else "all", lowered=name == "ours")


def peak_memory() -> int:
    """Bytes; Linux's VmHWM, for getrusage counts the parent that this process was forked from."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def main() -> None:
    started = time.perf_counter()
    act = row(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    built = time.perf_counter() - started
    act()  # the first step of a compiled network compiles it
    print(f"ready {built:.3f}", flush=True)
    for line in sys.stdin:
        if line.strip() == "end":
            print(peak_memory(), flush=True)
            return
        act()  # untimed: caches of its own, and the other rows' threads asleep
        started = time.perf_counter()
        act()
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
