"""Seconds and memory of normalizing the largest classifiers: a Markdown table. Wanted: under 5 s, and at most three times the model.

    python benchmarks/normalize.py [MODEL.onnx ...]

Without arguments, the largest of those that the onnx package ships, each in three forms: as shipped, where ConstantOfShape nodes make
the weights, `stored`, with random weights as initializers, and `constants`, with these as Constant nodes, as exporters write them. Each is read and normalized in a process of its own; the
memory is what that process held at most, less what it held before it read the file.
"""

from __future__ import annotations

import importlib.resources
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_distill import model as models
from onnx_distill.lookup import data_inputs, initializers
from onnx_distill.normalize import normalize_in_place

LARGEST = ("vgg19", "zfnet512", "bvlc_alexnet", "resnet50", "inception_v2", "densenet121")
ROUNDS = 3


def light(name: str) -> Path:
    return Path(str(importlib.resources.files("onnx"))) / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"


def as_constants(source: str, target: str) -> None:
    """The model with Constant nodes for its initializers."""
    model = onnx.load(source)
    nodes = [onnx.helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in model.graph.initializer]
    nodes += list(model.graph.node)
    for field, kept in (("node", nodes), ("input", data_inputs(model)), ("initializer", [])):
        copies = [type(item).FromString(item.SerializeToString()) for item in kept]
        model.graph.ClearField(field)
        getattr(model.graph, field).extend(copies)
    Path(target).write_bytes(model.SerializeToString())


def store_weights(source: str, target: str) -> None:
    """The model with random numbers for what its ConstantOfShape nodes make."""
    model, rng = onnx.load(source), np.random.default_rng(0)
    shapes = {name: numpy_helper.to_array(tensor) for name, tensor in initializers(model).items()}
    for node in [node for node in model.graph.node if node.op_type == "ConstantOfShape"]:
        values = rng.uniform(0.5, 1.5, tuple(shapes[node.input[0]])).astype(np.float32)  # a variance is among them
        model.graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
        model.graph.node.remove(node)
    model.ir_version = 4  # from which initializers need not be inputs
    Path(target).write_bytes(model.SerializeToString())


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(path: str) -> None:
    """Print the seconds of reading and of normalizing, and bytes: the normalized model, the peak of each above the start."""
    start, began = peak_bytes(), time.perf_counter()
    model = models.load(path)
    read, read_bytes = time.perf_counter() - began, peak_bytes() - start
    made, _ = normalize_in_place(model)
    seconds, most = time.perf_counter() - began - read, peak_bytes() - start
    size = sum(len(tensor.raw_data) for tensor in made.graph.initializer)
    print(read, seconds, size, read_bytes, most)


def measured(path: Path) -> list[float]:
    """The quickest of ROUNDS, each in its own process; the largest peak."""
    rows = [apart("--measure", path).split() for _ in range(ROUNDS)]
    columns = list(zip(*([float(part) for part in row] for row in rows)))
    return [min(columns[0]), min(columns[1]), columns[2][0], max(columns[3]), max(columns[4])]


def apart(*arguments: str | Path) -> str:
    """What this file prints, run with these arguments in a process of its own: a process starts with its parent's peak."""
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def table(paths: dict[str, Path]) -> None:
    print(
        "| model | MB | read, s | normalize, s | peak of reading / model | peak of both / model |\n|---|---|---|---|---|---|"
    )
    for name, path in paths.items():
        read, seconds, size, read_bytes, most = measured(path)
        print(
            f"| {name} | {size / 1e6:.0f} | {read:.2f} | {seconds:.2f} | {read_bytes / size:.1f} | {most / size:.1f} |",
            flush=True,
        )


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--measure"]:
        measure(arguments[1])
    elif arguments[:1] == ["--store"]:
        store_weights(*arguments[1:])
    elif arguments[:1] == ["--constants"]:
        as_constants(*arguments[1:])
    elif arguments:
        table({Path(path).name: Path(path) for path in arguments})
    else:
        with tempfile.TemporaryDirectory() as folder:
            stored = {name: Path(folder) / f"{name}.onnx" for name in LARGEST}
            for name, path in stored.items():
                apart("--store", light(name), path)
            table({f"{name}, stored": path for name, path in stored.items()})
            for path in stored.values():
                apart("--constants", path, path)
            table({f"{name}, constants": path for name, path in stored.items()})
            table({f"{name}, as shipped": light(name) for name in LARGEST})


if __name__ == "__main__":
    main(sys.argv[1:])
