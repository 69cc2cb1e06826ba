"""Does every runtime answer as the simulation that was trained: the models/ teacher and the text-direction classifier, three bit widths.

    python scripts/acceptance_runtimes.py [--net teacher|text]      # `make accept-deploy`

The students are PTQ ones, or with --distilled trained (deploy_students.py; the classifier's as acceptance_text.py trains it). What is
compared is the simulation of a student with what runtimes make of its exported file, not its accuracy. OpenVINO gets the student of
its own target.
Every image that differs by more than an output step is traced, and more of those that differ. The reference evaluator is slow:
it gets the first images. Exit code 1 below 99.9 % of top-1, and where a departure is unexplained.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import acceptance_text as text
import numpy as np
from deploy_students import BITS, EXACT_ON, arguments, data, student

from onnx_distill import model
from onnx_distill.data import Images, Preprocess, open_images
from onnx_distill.verify import find_runtime, verify
from onnx_distill.verify.agree import SIMULATION
from onnx_distill.verify.trace import TIED

ORT, OPENVINO = EXACT_ON
RUNTIMES = {ORT: ("wheel", "onnxruntime", "onnxruntime==1.17.3", "onnxruntime-web"), OPENVINO: ("openvino",)}
WANTED = 0.999  # of top-1
FEW = {"teacher": 500, "text": 200}  # images for the reference evaluator
TRAINING = {run.name: (run.lines, run.options) for run in text.RUNS}  # the classifier's: lines and options
TRAINING["W4A4"] = 6000, ("--epochs", "2", "--units", "plain", "--lr", "1e-3", "--warmup", "0.05")


def of_text(case: str, target: str, args: argparse.Namespace) -> tuple[Path, Path]:
    folder = args.runs / f"text-{case.lower()}-{target}{'-distilled' if args.distilled else ''}"
    made, trained, shipped = (folder / name for name in ("student.qdq.onnx", "trained.qdq.onnx", "student.int8.onnx"))
    if not shipped.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        count, options = TRAINING[case]
        teacher, lines = text.get_teacher(args.text_data, None), _lines(args, "train", args.train_lines or count)
        images = ["--data", lines, "--input-shape", text.SHAPE, "--threads", args.threads]
        _onnx_distill("quantize", teacher, *images, *BITS[case].split(), *text.CALIBRATION, "--target", target, "-o", made)
        if args.distilled:
            training = [*text.DISTILLATION, *options, "--validation", text.VALIDATION, "--resume"]
            _onnx_distill("train", made, "--teacher", teacher, *images, *training, "-o", folder)
        else:
            _onnx_distill("export", made, "--teacher", teacher, "-o", shipped)
    return trained if args.distilled else made, shipped


def _lines(args: argparse.Namespace, part: str, count: int) -> Path:
    args.text_data.mkdir(parents=True, exist_ok=True)
    return text.get_lines(args.text_data, part, count, text.get_fonts(args.text_data))


def _onnx_distill(*words: object) -> None:
    command = [str(word) for word in words]
    print("$ onnx-distill", *command, file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "onnx_distill", *command], check=True, stdout=sys.stderr)


NETS = {  # name -> files of a student, and the images
    "teacher": (student, lambda args: data(args, "t10k")),
    "text": (of_text, lambda args: _lines(args, "test", 2000)),
}


def rows(net: str, case: str, args: argparse.Namespace) -> bool:
    """Print a line for each runtime; whether all are good."""
    make, source = NETS[net]
    passed = True
    for target, all_runtimes in RUNTIMES.items():
        runtimes = tuple(one for one in all_runtimes if one in (args.only or all_runtimes))
        slow = target == ORT and "reference" in (args.only or ["reference"])
        if not (runtimes or slow):
            continue
        trained, shipped = (model.load(path) for path in make(case, target, args))
        images = open_images(source(args), preprocess=Preprocess.of(shipped))
        images = images.subset(np.arange(min(args.samples or len(images), len(images))))
        if runtimes:
            passed &= _row(f"{net} {case}", target, trained, shipped, images, runtimes, args)
        if slow:
            few = images.subset(np.arange(min(FEW[net], len(images))))
            passed &= _row(f"{net} {case}", target, trained, shipped, few, ("reference",), args)
    return passed


def _row(name: str, target: str, trained, shipped, images: Images, runtimes: tuple[str, ...], args) -> bool:
    found = verify(
        shipped, [find_runtime(one) for one in runtimes], images, simulation=trained, trace=args.trace, threads=args.threads
    )
    beside = {pair.second: pair for pair in found.pairs if pair.first == SIMULATION}
    simulated = list(found.runners[0].departures)
    good = found.beyond_a_step <= found.traced and all(one.explained for one in simulated)
    for runner in found.runners[1:]:
        pair, own = beside[runner.name], [*simulated, *runner.departures]
        unexplained = sum(not one.explained for one in own)
        ties = [one for one in own if one.kind == TIED]
        causes = (
            f"{sum(one.count for one in ties)} ties within {max(one.tie_distance for one in ties):.0e}" if ties else "none"
        )
        causes = runner.untraceable or causes + (f", {unexplained} UNEXPLAINED" if unexplained else "")
        print(
            f"| {name} | {target} | {runner.name.split('==')[0]} {runner.version.split('-')[0]} | {found.images:,} | {100 * pair.agreement:.2f} "
            f"| {pair.differing_images} | {pair.largest_steps:.0f} | {causes} |",
            flush=True,
        )
        good &= pair.agreement >= WANTED and not unexplained and not (runner.untraceable and pair.largest_steps > 1.001)
    print(f"  {found.beyond_a_step} images beyond a step, {found.traced} traced", file=sys.stderr)
    return good


def main() -> int:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--text-data", type=Path, default=Path("data/text"))
    parser.add_argument("--train-lines", type=int, help="of text  [default: as acceptance_text.py]")
    parser.add_argument("--net", choices=list(NETS), action="append")
    parser.add_argument("--samples", type=int, help="images, the first ones  [default: all]")
    parser.add_argument("--trace", type=int, default=100, help="images, those that differ most  [default: 100]")
    parser.add_argument("--only", action="append", help="a runtime; may be repeated  [default: all]")
    parser.add_argument("--case", choices=list(BITS), action="append")
    args = parser.parse_args()
    print(
        "| student | target | runtime | images | top-1 agreement, % | images that differ | largest, steps | departures, traced |"
    )
    print("|---|---|---|---|---|---|---|---|")
    results = [rows(net, case, args) for net in args.net or NETS for case in args.case or BITS]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
