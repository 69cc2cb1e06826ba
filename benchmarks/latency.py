"""Latency of our int8 beside float and quantize_static's, under the newest stock onnxruntime and under OpenVINO.

    make latency            (20 minutes on 2 cores, of which 12 are timed)

The weights of MobileNetV2 and ResNet-50 are random, calibrated on random images: only time is measured. In a process of the runtime the models
take turns, in sessions as users open them. The ratios of one process differ from another's by up to a fifth, likely by how memory happens to lie in each: so
each row has six processes, one for each order of the three, and a ratio is the median of theirs. Ours are for this machine: `--target auto`, and OpenVINO's row of the same kind. Prints the table
of docs/performance.md. With --models the files are kept, and --make-only ends before anything is timed.
"""

from __future__ import annotations

import argparse
import itertools
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
from onnx_distill.kernels import machine
from onnx_distill.ready.deployable import deployable
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
    parser.add_argument("--seconds", type=float, default=60, help="for each network, batch and runtime")
    parser.add_argument("--models", type=Path, help="a folder that keeps the models; those that are there are taken")
    parser.add_argument("--make-only", action="store_true")
    parser.add_argument("--runtimes", default=",".join(RUNTIMES), help="as verify's; onnxruntime=PYTHON takes that Python's")
    parser.add_argument("--net", choices=list(NETS), action="append", help="one of them; may be repeated  [default: all]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = {
            title: _models(title, *net, args.models or Path(folder), args)
            for title, net in NETS.items()
            if title in (args.net or NETS)
        }
        if not args.make_only:
            _time(made, args)


def _time(made: dict[str, dict[str, str]], args) -> None:
    print(f"vector neural network instructions: {'no' if machine.sums_saturate() else 'yes'}\n")
    print(
        f"| network | batch | runtime | {FLOAT}, ms | {STATIC} W8A8 | ours W8A8 | float / ours | static / ours |\n|---|---|---|---|---|---|---|---|"
    )
    for title, paths in made.items():
        for batch in BATCHES:
            for runtime in args.runtimes.split(","):
                print(_row(title, batch, runtime, paths, NETS[title][1], args), flush=True)


def _models(title: str, make, shape, parent: Path, args) -> dict[str, str]:
    """Name -> file: float, quantize_static's, and ours for each runtime."""
    folder = parent / title.split()[0].strip("/,")
    folder.mkdir(parents=True, exist_ok=True)
    own = {"onnxruntime": machine.own_target(), "openvino": "openvino-novnni" if machine.sums_saturate() else "openvino"}
    paths = {FLOAT: folder / "float.onnx", STATIC: folder / "static-w8a8-per-channel-minmax.onnx"}
    paths.update({runtime: folder / f"{own[runtime]}.onnx" for runtime in RUNTIMES})
    if not all(path.is_file() for path in paths.values()):
        teacher, images = make(), folder / "images.npy"
        np.save(images, np.random.default_rng(0).standard_normal((CALIBRATION, *shape)).astype(np.float32))
        onnx.save(teacher, str(paths[FLOAT]))
        command = [args.deploy_python, str(ROOT / "benchmarks/peer_static.py"), str(paths[FLOAT]), str(images), str(folder)]
        subprocess.run([*command, "w8a8-per-channel", "minmax"], check=True, capture_output=True)
        for runtime in RUNTIMES:
            config = QuantizeConfig(target=own[runtime])
            student = pipeline.quantize_with_images(cut(teacher), open_images(images), config, CALIBRATION)
            onnx.save(deployable(student, teacher), str(paths[runtime]))
    return {name: str(path) for name, path in paths.items()}


def _row(title: str, batch: int, runtime: str, paths: dict[str, str], shape, args) -> str:
    kind = runtime.partition("=")[0]
    orders = list(itertools.permutations([(FLOAT, paths[FLOAT]), (STATIC, paths[STATIC]), ("ours", paths[kind])]))
    job = {
        "shape": shape,
        "batch": batch,
        "threads": args.threads,
        "rounds": args.rounds,
        "seconds": args.seconds / len(orders),
    }
    said = [_process(runtime, {**job, "models": dict(order)}) for order in orders]
    seconds = {
        name: [1000 * np.asarray(one["seconds"][name]) for one in said] for name in (FLOAT, STATIC, "ours")
    }  # of each process
    cells = []
    for parts in seconds.values():
        low, middle, high = np.percentile(np.concatenate(parts), (25, 50, 75))
        cells.append(f"{middle:.4g} ({low:.4g}..{high:.4g})")
    for name in (FLOAT, STATIC):
        ratios = [np.median(theirs / ours) for theirs, ours in zip(seconds[name], seconds["ours"])]
        cells.append(f"{np.median(ratios):.2f}x ({min(ratios):.2f}..{max(ratios):.2f})")
    return f"| {title} | {batch} | {kind} {said[0]['version']} | {' | '.join(cells)} |"


def _process(runtime: str, job: dict) -> dict:
    """What one process of the runtime measured."""
    kind = runtime.partition("=")[0]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(job, file)
        file.flush()
        command = [find_runtime(runtime).command[0], str(ROOT / "benchmarks/latency_worker.py"), kind, file.name]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
