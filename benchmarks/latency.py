"""Latency of our int8 beside float and quantize_static's, under the newest stock onnxruntime and under OpenVINO.

    make latency            (20 minutes on 2 cores)

The weights of MobileNetV2 and ResNet-50 are random, calibrated on random images: only time is measured. In each runtime's process the models
take turns. Prints the tables of docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnx
from nets import ROOT, mobilenet_v2, resnet50

from onnx_distill import pipeline
from onnx_distill.config import QuantizeConfig
from onnx_distill.cut import cut
from onnx_distill.data import open_images
from onnx_distill.verify import find_runtime

NETS = {
    "MobileNetV2 1.0, 224": (mobilenet_v2, (3, 224, 224)),
    "ResNet-50, 224": (resnet50, (3, 224, 224)),
    "models/ teacher, 28": (lambda: onnx.load(str(ROOT / "models/mobilenetv2-fashion.onnx")), (1, 28, 28)),
}
BATCHES = (1, 64)
RUNTIMES = ("onnxruntime", "openvino")
CALIBRATION = 32  # images
FLOAT, STATIC = "float", "quantize_static"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--deploy-python", default=".venv-deploy/bin/python", help="a Python with the newest onnxruntime and onnx"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=30, help="for each network, batch and runtime")
    args = parser.parse_args()
    print(
        f"| network | batch | runtime | {FLOAT}, ms | {STATIC} W8A8 | ours W8A8 | float / ours | static / ours |\n|---|---|---|---|---|---|---|---|"
    )
    for title, (make, shape) in NETS.items():
        with tempfile.TemporaryDirectory() as folder:
            paths = _models(make(), shape, Path(folder), args)
            for batch in BATCHES:
                for runtime in RUNTIMES:
                    print(_row(title, batch, runtime, paths, shape, args), flush=True)


def _models(teacher: onnx.ModelProto, shape, folder: Path, args) -> dict[str, str]:
    """Name -> file: float, quantize_static's, and ours for each runtime."""
    images = np.random.default_rng(0).standard_normal((CALIBRATION, *shape)).astype(np.float32)
    np.save(folder / "images.npy", images)
    onnx.save(teacher, str(folder / "float.onnx"))
    command = [
        args.deploy_python,
        str(ROOT / "benchmarks/peer_static.py"),
        *(str(folder / n) for n in ("float.onnx", "images.npy")),
    ]
    subprocess.run([*command, str(folder), "w8a8-per-channel", "minmax"], check=True, capture_output=True)
    paths = {FLOAT: str(folder / "float.onnx"), STATIC: str(folder / "static-w8a8-per-channel-minmax.onnx")}
    for runtime, target in zip(RUNTIMES, ("ort-x86", "openvino")):
        student = pipeline.quantize_with_images(
            cut(teacher), open_images(folder / "images.npy"), QuantizeConfig(target=target), CALIBRATION
        )
        paths[runtime] = str(folder / f"{target}.onnx")
        onnx.save(pipeline.deployable(student, teacher), paths[runtime])
    return paths


def _row(title: str, batch: int, runtime: str, paths: dict[str, str], shape, args) -> str:
    models = {FLOAT: paths[FLOAT], STATIC: paths[STATIC], "ours": paths[runtime]}
    job = {
        "models": models,
        "shape": shape,
        "batch": batch,
        "threads": args.threads,
        "rounds": args.rounds,
        "seconds": args.seconds,
    }
    python = find_runtime(runtime).command[0]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(job, file)
        file.flush()
        command = [python, str(ROOT / "benchmarks/latency_worker.py"), runtime, file.name]
        said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    seconds = {name: 1000 * np.asarray(values) for name, values in said["seconds"].items()}
    cells = [f"{np.median(v):.4g} ({np.percentile(v, 25):.4g}..{np.percentile(v, 75):.4g})" for v in seconds.values()]
    ratios = [np.median(seconds[name] / seconds["ours"]) for name in (FLOAT, STATIC)]
    return f"| {title} | {batch} | {runtime} {said['version']} | {' | '.join(cells)} | {ratios[0]:.2f}x | {ratios[1]:.2f}x |"


if __name__ == "__main__":
    main()
