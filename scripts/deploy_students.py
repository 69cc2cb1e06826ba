"""Students of the models/ teacher for several targets, which acceptance_targets.py and acceptance_runtimes.py look at.

    python scripts/deploy_students.py [--distilled]     # nine of them: 2 minutes on 2 cores, 10 with --distilled

PTQ students, or with --distilled those that were trained on 3,200 images besides: what is compared are targets and runtimes, and
those do not care how good a student is. A student that is there already is taken as it is.
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
TRAINING = {"W8A8": "--train always", "W4A8": "", "W4A4": ""}
RECIPE = "--epochs 0.06 --validation 2000 --flip --shift 2 --seed 0"
EXACT_ON = "ort-x86-novnni", "openvino-novnni"  # on any x86-64: full-range weights answer differently without VNNI
WANTED = [("W8A8", name) for name in ("ort-x86", *EXACT_ON, "tensorrt", "qnn")]
WANTED += [(case, name) for case in ("W4A8", "W4A4") for name in EXACT_ON]


def data(args: argparse.Namespace, part: str) -> str:
    return f"{args.data}/{part}-images-idx3-ubyte.gz"


def student(case: str, target: str, args: argparse.Namespace) -> tuple[Path, Path]:
    """Files, made where there are none: the QDQ student, which is simulated, and the exported one, which is shipped."""
    folder = args.runs / f"{case.lower()}-{target}{'-distilled' if args.distilled else ''}"
    made, trained, shipped = (folder / name for name in ("student.qdq.onnx", "trained.qdq.onnx", "student.int8.onnx"))
    images = f"--data {data(args, 'train')} --threads {args.threads}"
    if not shipped.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _onnx_distill(f"quantize {TEACHER} {images} --target {target} {BITS[case]} -o {made}")
        train = f"train {made} --teacher {TEACHER} {images} {TRAINING[case]} {RECIPE} --resume -o {folder}"
        _onnx_distill(train if args.distilled else f"export {made} --teacher {TEACHER} -o {shipped}")
    return trained if args.distilled else made, shipped


def _onnx_distill(line: str) -> None:
    print("$ onnx-distill", line, file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "onnx_distill", *shlex.split(line)], check=True, stdout=sys.stderr)


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that the scripts share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", default="data", help="folder of Fashion-MNIST")
    parser.add_argument("--runs", type=Path, default=Path("runs/deploy"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--distilled", action="store_true", help="trained students, not PTQ ones")
    return parser


if __name__ == "__main__":
    options = arguments(__doc__.splitlines()[0]).parse_args()
    for wanted in WANTED:
        student(*wanted, options)
