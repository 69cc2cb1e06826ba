"""Does lowering change what training ends in? The same runs with and without it, seed by seed.

python benchmarks/lowering.py [--epochs 0.5] [--seeds 0,1,2] [--threads 2]       needs data/ (make data); prints Markdown

The models/ teacher, W4A4 and W3A3, through `onnx-distill run`; without lowering the same command, whose process leaves the
training model as the runtime generated it. Scores are top-1 on all 10,000 test images; the standard error of one is 0.23.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from nets import ROOT

DATA = ROOT / "data"
TEACHER = ROOT / "models" / "mobilenetv2-fashion.onnx"
UNLOWERED = """
import onnx_distill.artifacts as artifacts
from onnx_distill.cli import main
artifacts.lower = lambda training, *rest: training
main()
"""


def distilled(bits: int, seed: int, lowered: bool, epochs: float, threads: int, folder: Path) -> dict:
    """The row of `run --json` for the distilled student."""
    start = ["-m", "onnx_distill"] if lowered else ["-c", UNLOWERED]
    line = f"run {TEACHER} --data {DATA}/train-images-idx3-ubyte.gz --test-data {DATA}/t10k-images-idx3-ubyte.gz"
    line += (
        f" --target ort-x86 --weight-bits {bits} --activation-bits {bits} --epochs {epochs} --flip --shift 2 --seed {seed}"
    )
    line += f" --threads {threads} --no-report --json --overwrite -o {folder}"
    done = subprocess.run([sys.executable, *start, *line.split()], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=float, default=0.5)
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--bits", type=lambda text: [int(bits) for bits in text.split(",")], default=[4, 3])
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    print("| bits | seed | lowered, top-1 | not lowered, top-1 | difference |\n|---|---|---|---|---|", flush=True)
    for bits in given.bits:
        differences = []
        for seed in given.seeds:
            scores = []
            for lowered in (True, False):
                with tempfile.TemporaryDirectory() as folder:
                    row = distilled(bits, seed, lowered, given.epochs, given.threads, Path(folder))
                scores.append(100 * row["top1"])
            differences.append(scores[0] - scores[1])
            print(f"| W{bits}A{bits} | {seed} | {scores[0]:.2f} | {scores[1]:.2f} | {differences[-1]:+.2f} |", flush=True)
        print(f"| W{bits}A{bits} | mean | | | {np.mean(differences):+.2f} |", flush=True)


if __name__ == "__main__":
    main()
