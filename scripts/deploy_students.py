"""Students of the models/ teacher for several targets, quantized and shortly distilled; what acceptance_targets.py and
acceptance_runtimes.py look at. A student that is there already is taken as it is.

    python scripts/deploy_students.py [--threads 2]         # nine of them, each on 3,200 images: 10 minutes on 2 cores
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEACHER = ROOT / "models" / "mobilenetv2-fashion.onnx"
BITS = {"W8A8": "", "W4A8": "--weight-bits 4", "W4A4": "--weight-bits 4 --activation-bits 4"}
RATES = {"W8A8": "--lr 2e-4 --step-rate 2e-4", "W4A8": "--lr 5e-4", "W4A4": ""}
RECIPE = "--epochs 0.06 --validation 2000 --flip --shift 2 --seed 0"  # what is compared are targets and runtimes
EXACT_ON = "ort-x86-novnni", "openvino-novnni"  # on any x86-64: full-range weights answer differently without VNNI
WANTED = [("W8A8", name) for name in ("ort-x86", *EXACT_ON, "tensorrt", "qnn")]
WANTED += [(case, name) for case in ("W4A8", "W4A4") for name in EXACT_ON]


def data(args: argparse.Namespace, part: str) -> str:
    return f"{args.data}/{part}-images-idx3-ubyte.gz"


def student(case: str, target: str, args: argparse.Namespace) -> Path:
    """The folder of that student, made where there is none: student.qdq.onnx (PTQ), trained.qdq.onnx, student.int8.onnx."""
    folder = args.runs / f"{case.lower()}-{target}"
    if not (folder / "student.int8.onnx").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        images = f"--data {data(args, 'train')} --threads {args.threads}"
        made = f"{folder}/student.qdq.onnx"
        _onnx_distill(f"quantize {TEACHER} {images} --target {target} {BITS[case]} -o {made}")
        _onnx_distill(f"train {made} --teacher {TEACHER} {images} {RATES[case]} {RECIPE} --resume -o {folder}")
    return folder


def _onnx_distill(line: str) -> None:
    print("$ onnx-distill", line, file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "onnx_distill", *shlex.split(line)], check=True, stdout=sys.stderr)


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that the scripts share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", default="data", help="folder of Fashion-MNIST")
    parser.add_argument("--runs", type=Path, default=Path("runs/deploy"))
    parser.add_argument("--threads", type=int, default=2)
    return parser


if __name__ == "__main__":
    options = arguments(__doc__.splitlines()[0]).parse_args()
    for wanted in WANTED:
        student(*wanted, options)
