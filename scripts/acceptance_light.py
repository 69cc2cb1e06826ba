"""Ten training steps of each of the nine classifiers that the onnx package ships (backend/test/data/light).

    python scripts/acceptance_light.py [names ...]

The files hold no weights: every tensor is a ConstantOfShape, 0.02 everywhere, so that all channels of a layer are alike, and a gradient that
tells one from the other does not exist. They are drawn at random here (He et al. 2015 for convolutions and Gemm, about 1 for gains
and variances; --as-shipped leaves them). Each is inspected, normalized, cut where it has a Softmax, quantized (W8A8) on random images
and trained on the teacher's answers and random labels, in a process of its own: loss, parameters that moved, seconds, memory.
Exit code 1 unless every loss is finite and fell and every trainable parameter moved.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_distill import artifacts, runtime
from onnx_distill.config import DistillConfig, QuantizeConfig, TrainConfig
from onnx_distill.cut import cut
from onnx_distill.data import ArrayImages, Preprocess
from onnx_distill.inspection import inspect
from onnx_distill.normalize import normalize_in_place
from onnx_distill.normalize.prepare import prepare
from onnx_distill.pipeline import quantize_with_images
from onnx_distill.training.optimizer import Optimizer
from onnx_distill.training.step import Step

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NAMES = sorted(path.stem[len("light_") :] for path in LIGHT.glob("light_*.onnx"))
STEPS, BATCH = 10, 2
GAINS = {"BatchNormalization": (1, 4), "Mul": (1,)}  # inputs that scale: near 1, as in a trained network
WEIGHTED = ("Conv", "Gemm")
WEIGHTS = {"weight": 2.0, "head": 0.1}  # variance times fan-in
RANGES = {"gain": (0.8, 1.2), "branch": (0.2, 0.4)}
RECIPE = TrainConfig(epochs=1, units="plain", learning_rate=3e-5, schedule="constant", warmup=0.0)


def with_weights(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """The model, in place, with random initializers where its ConstantOfShape nodes stood; those that only shift stay."""
    rng = np.random.default_rng(seed)
    shapes = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    filled = {node.output[0]: shapes[node.input[0]] for node in model.graph.node if node.op_type == "ConstantOfShape"}
    kind = _kinds(model, filled)
    for node in [node for node in model.graph.node if node.op_type == "ConstantOfShape"]:
        model.graph.node.remove(node)
    for name, shape in filled.items():
        tensor = numpy_helper.from_array(_draw(rng, kind.get(name, "shift"), shape), name)
        model.graph.initializer.append(tensor)
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))  # IR 3 wants it
    return model


def _kinds(model: onnx.ModelProto, filled) -> dict[str, str]:
    """What a tensor is for: weight, head (the last weight), gain, or branch: a gain before a residual sum, smaller, or the sums grow without end."""
    source, kinds = {name: name for name in filled}, {}
    summed = {name for node in model.graph.node if node.op_type == "Sum" for name in node.input}
    for node in model.graph.node:
        if node.op_type in ("Unsqueeze", "Reshape") and node.input[0] in source:
            source[node.output[0]] = source[node.input[0]]
        names = [source.get(name) for name in node.input]
        kinds.update({names[i]: "gain" for i in GAINS.get(node.op_type, ()) if names[i]})
        if node.op_type == "BatchNormalization" and node.output[0] in summed:
            kinds[names[1]] = "branch"
        if node.op_type in WEIGHTED:
            last = names[1]
            kinds[last] = "weight"
    return {**kinds, last: "head"}


def _draw(rng: np.random.Generator, kind: str, shape: np.ndarray) -> np.ndarray:
    if kind in WEIGHTS:
        values = rng.standard_normal(tuple(shape), dtype=np.float32)
        values *= np.float32(np.sqrt(WEIGHTS[kind] / np.prod(shape[1:])))
        return values
    low, high = RANGES.get(kind, (0.02, 0.02))
    return rng.uniform(low, high, shape).astype(np.float32)


def train(name: str, as_shipped: bool, threads: int) -> dict:
    """One classifier the whole way; what was measured."""
    started = time.perf_counter()
    model = onnx.load(str(LIGHT / f"light_{name}.onnx"))
    model = model if as_shipped else with_weights(model)
    found = inspect(model)
    began = time.perf_counter()
    model, rewrites = normalize_in_place(prepare(model))
    normalized = time.perf_counter() - began
    teacher = cut(model, None if found.logits else model.graph.output[0].name)
    del model
    pixels = np.random.default_rng(1).standard_normal((BATCH, 3, 224, 224), dtype=np.float32)
    labels = np.random.default_rng(2).integers(0, 1000, BATCH)
    images = ArrayImages(pixels, preprocess=Preprocess(layout="NCHW"))
    student = quantize_with_images(teacher, images, QuantizeConfig(), threads=threads)
    wanted = runtime.run(runtime.open_session(teacher, threads), pixels)[0]
    del teacher
    with tempfile.TemporaryDirectory() as folder:
        made = artifacts.build(student, DistillConfig(temperature=4, alpha=0.5), "weights", Path(folder), BATCH)
        del student
        step = Step(made, threads)
    parameters = made.parameters
    optimizer = Optimizer(step.parameters, parameters.weights, parameters.biases, parameters.steps, RECIPE)
    start = {key: values.copy() for key, values in step.parameters.items()}
    losses = []
    for _ in range(STEPS):
        losses.append(step.run(pixels, wanted, labels)[0])
        optimizer.update(step.gradients, 1.0)
    losses.append(step.run(pixels, wanted, labels)[0])
    moved = sum(not np.array_equal(values, start[key]) for key, values in step.parameters.items())
    return {
        "name": name,
        "obstacles": len(found.obstacles),
        "rewrites": len(rewrites),
        "normalize_seconds": round(normalized, 1),
        "first": losses[0],
        "last": losses[-1],
        "moved": moved,
        "trainable": len(parameters.all),
        "seconds": round(time.perf_counter() - started, 1),
        "gigabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 1),
    }


def passed(row: dict) -> bool:
    return bool(
        np.isfinite([row["first"], row["last"]]).all() and row["last"] < row["first"] and row["moved"] == row["trainable"]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help="default: all nine")
    parser.add_argument("--as-shipped", action="store_true", help="leave every weight at 0.02")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # in this process, as JSON
    options = parser.parse_args()
    if options.here:
        print(json.dumps(train(options.names[0], options.as_shipped, options.threads)))
        return 0
    failures = 0
    print(
        "| classifier | loss first | last | moved / trainable | normalize s | all s | GB | |\n|---|---|---|---|---|---|---|---|"
    )
    for name in options.names or NAMES:
        command = [sys.executable, __file__, name, "--here", "--threads", str(options.threads)]
        done = subprocess.run(command + ["--as-shipped"] * options.as_shipped, capture_output=True, text=True)
        if done.returncode:
            why = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
            print(f"| {name} | {why[:300]} |", flush=True)
            failures += 1
            continue
        row = json.loads(done.stdout.splitlines()[-1])
        failures += not passed(row)
        print(
            f"| {name} | {row['first']:.4g} | {row['last']:.4g} | {row['moved']} / {row['trainable']} | {row['normalize_seconds']} "
            f"| {row['seconds']} | {row['gigabytes']} | {'ok' if passed(row) else 'FAILED'} |",
            flush=True,
        )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
