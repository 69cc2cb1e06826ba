"""docs/results.md: accuracy, size, latency and training speed on the models/ teacher, beside onnxruntime's quantize_static.

    make results            (under an hour on 2 cores)

Every student is made by the command that the document shows. The test images are looked at once for each, at the end;
calibration, training and the choice of the best student use training images only.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

import onnx_distill
from onnx_distill import model as models
from onnx_distill import runtime
from onnx_distill.data import Preprocess, open_images
from onnx_distill.evaluate import latency, predict, top_k, with_output
from onnx_distill.facts.logits import find_logits
from onnx_distill.kernels import machine
from onnx_distill.verify import find_runtime, verify
from onnx_distill.verify.agree import HEAVY, SIMULATION

RECIPE = ""  # no option but the bits
LATENCY_BATCHES = (1, 64)
RUNTIMES = ("wheel", "onnxruntime", "onnxruntime==1.17.3")  # the reference evaluator takes minutes: docs/acceptance.md


@dataclass(frozen=True)
class Case:
    slug: str  # of its folder
    name: str
    options: str
    seeds: tuple[int, ...]
    bound: float  # points of top-1 below float, at most
    agreement: float  # of simulation and deployment, at least


CASES = (
    Case("w8a8-per-channel", "W8A8 per-channel", "--target ort-x86", (0,), 0.1, 0.999),
    Case("w8a8-no-vnni", "W8A8 per-channel, no VNNI", "--target ort-x86-novnni", (0,), 0.1, 0.999),
    Case("w8a8-per-tensor", "W8A8 per-tensor weights", "--target ort-x86 --per-tensor", (0,), 0.5, 0.999),
    Case("w4a8-per-channel", "W4A8 per-channel", "--target ort-x86 --weight-bits 4", (0,), 0.3, 0.999),
    Case(
        "w4a4-per-channel", "W4A4 per-channel", "--target ort-x86 --weight-bits 4 --activation-bits 4", (0, 1, 2), 0.6, 0.999
    ),
    Case(
        "w3a3-per-channel", "W3A3 per-channel", "--target ort-x86 --weight-bits 3 --activation-bits 3", (0, 1, 2), 2.0, 0.995
    ),
    Case(
        "w2a4-per-channel", "W2A4 per-channel", "--target ort-x86 --weight-bits 2 --activation-bits 4", (0, 1, 2), 2.0, 0.995
    ),
)
SATURATING = [
    "This machine has no VNNI and adds two products of 8 bits in 16: full-range weights (`ort-x86`) saturate in stock sessions, which",
    "`verify` names as the cause. `--target auto` takes `ort-x86-novnni` here.",
]
BY_SLUG = {case.slug: case for case in CASES}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="models/mobilenetv2-fashion.onnx")
    parser.add_argument("--data", default="data")
    parser.add_argument("--runs", type=Path, default=Path("runs/results"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--deploy-python", default=".venv-deploy/bin/python")
    parser.add_argument("--reuse", action="store_true", help="take the runs that are there already")
    parser.add_argument("--seeds", type=int, default=3, help="at most so many for each case")
    parser.add_argument("--only", nargs="+", choices=list(BY_SLUG), help="some of the cases")
    parser.add_argument("--accuracy-only", action="store_true", help="neither runtimes beside each other nor latency")
    parser.add_argument("--out", type=Path, default=Path("docs/results.md"))
    args = parser.parse_args()
    started = time.time()
    cases = [BY_SLUG[slug] for slug in args.only or BY_SLUG]
    runs = [(case, seed, _run(case, seed, args)) for case in cases for seed in case.seeds[: args.seeds]]
    peers = _peers(args)
    sections = [
        _heading(args),
        _accuracy(runs, peers, args),
        _seeds(runs),
        *([] if args.accuracy_only else [_deployment(runs, args), _latency(args, peers)]),
        _commands(runs, args),
        f"\nMade by `make results` in {(time.time() - started) / 60:.0f} minutes.\n",
    ]
    args.out.write_text("\n\n".join(sections))
    print(args.out.read_text())


def _folder(case: Case, seed: int, args) -> Path:
    return args.runs / f"{case.slug}-{seed}"


def _command(case: Case, seed: int, args) -> list[str]:
    data = [f"--data {args.data}/train-images-idx3-ubyte.gz --test-data {args.data}/t10k-images-idx3-ubyte.gz"]
    text = f"run {args.teacher} {data[0]} {case.options} {RECIPE} --seed {seed} --threads {args.threads} -o {_folder(case, seed, args)}"
    return shlex.split(text)


def _run(case: Case, seed: int, args) -> dict[str, dict]:
    command, kept = _command(case, seed, args), _folder(case, seed, args) / "result.json"
    if args.reuse and kept.exists():
        return {row["name"]: row for row in json.loads(kept.read_text())["rows"]}
    print("onnx-distill", shlex.join(command), file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "onnx_distill", *command, "--json", "--overwrite"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return {row["name"]: row for row in json.loads(done.stdout)}


@dataclass(frozen=True)
class Peer:
    path: Path
    method: str
    top1: float


def _peers(args) -> dict[str, Peer]:
    """Case name -> the better of quantize_static's minmax and percentile by top-1 on the test images (a favour to the peer)."""
    teacher = models.load(args.teacher)
    preprocess, value = Preprocess.of(teacher), find_logits(teacher).value
    train, test = (
        open_images(f"{args.data}/{part}-images-idx3-ubyte.gz", preprocess=preprocess) for part in ("train", "t10k")
    )
    calibration = args.runs / "calibration.npy"
    np.save(calibration, train.read(np.random.default_rng(0).permutation(len(train))[:512]))
    command = [args.deploy_python, "benchmarks/peer_static.py", args.teacher, str(calibration), str(args.runs)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Peer] = {}
    for path in (Path(line) for line in printed.splitlines() if line.endswith(".onnx")):
        session = runtime.open_session(with_output(onnx.load(str(path)), value), args.threads)
        top1 = top_k(predict(session, test, output=value), test.labels, 1)
        case = BY_SLUG[path.stem.split("-", 1)[1].rsplit("-", 1)[0]].name
        if case not in found or top1 > found[case].top1:
            found[case] = Peer(path, path.stem.rsplit("-", 1)[1], top1)
    return found


def _heading(args) -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip() or "?"
    versions = f"onnx-distill {onnx_distill.__version__} at {commit}, onnxruntime-training {ort.__version__}, onnx {onnx.__version__}, "
    versions += f"numpy {np.__version__}, click {metadata.version('click')}, Python {platform.python_version()}"
    return (
        "# Results on the models/ teacher\n\n"
        "Fashion-MNIST, all 10,000 test images. Calibration (512 images), training and the choice of the best student use training\n"
        f"images only. {args.threads} threads of {_cpu()}. {versions}."
    )


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} cores)" if names else platform.processor()


def _accuracy(runs, peers, args) -> str:
    lines = [
        "## Accuracy",
        "",
        "Top-1 in %, every file run with exact sums of 8-bit products (session.x64quantprecision), as machines with VNNI have them by",
        "themselves; `ort-x86-novnni` students compute the same on machines without. `gap` is float minus distilled, in points (median over",
        "seeds). `quantize_static` is the better of minmax and percentile calibration on the same 512 images.",
        "",
        "| Case | target | float | quantize_static | our PTQ | distilled | gap | wanted |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in dict.fromkeys(case for case, _, _ in runs):
        found = [rows for c, _, rows in runs if c is case]
        top1 = {
            name: float(np.median([100 * _row(rows, name)["top1"] for rows in found]))
            for name in ("float", "PTQ", "distilled")
        }
        spread = [100 * _row(rows, "distilled")["top1"] for rows in found]
        distilled = f"**{top1['distilled']:.2f}**" + (
            f" ({min(spread):.2f} to {max(spread):.2f})" if len(spread) > 1 else ""
        )
        peer = peers.get(case.name)
        static = f"{100 * peer.top1:.2f} ({peer.method})" if peer else "-"
        gap = top1["float"] - top1["distilled"]
        lines.append(
            f"| {case.name} | {_target(case)} | {top1['float']:.2f} | {static} | {top1['PTQ']:.2f} | {distilled} | {gap:.2f} | <= {case.bound} |"
        )
    return "\n".join(lines)


def _row(rows: dict, name: str) -> dict:
    """The row of that name; of a run that kept its PTQ student that is the distilled one."""
    return rows.get(name, rows["PTQ"])


def _target(case: Case) -> str:
    words = case.options.split()
    return words[words.index("--target") + 1]


def _seeds(runs) -> str:
    lines = [
        "## Every run",
        "",
        "| Case | seed | PTQ top-1 | distilled top-1 | agreement with float | KL | size, kB |",
        "|---|---|---|---|---|---|---|",
    ]
    for case, seed, rows in runs:
        ptq, best = rows["PTQ"], _row(rows, "distilled")
        lines.append(
            f"| {case.name} | {seed} | {100 * ptq['top1']:.2f} | {100 * best['top1']:.2f} | {100 * best['agreement']:.2f} "
            f"| {best['kl']:.4f} | {best['size_bytes'] / 1000:.0f} (float {rows['float']['size_bytes'] / 1000:.0f}) |"
        )
    return "\n".join(lines)


def _deployment(runs, args) -> str:
    """What `onnx-distill verify` finds for each student, on all test images."""
    lines = [
        "## Simulation and deployment",
        "",
        "The trained QDQ student run node by node against the exported file, all test images; by `onnx-distill verify`,",
        "which traces images that differ. A step is that of the quantized logits.",
        *(SATURATING if machine.sums_saturate() else []),
        "",
        "| Student | runtime | top-1 agreement | images that differ | largest, steps | departures from exact rounding |",
        "|---|---|---|---|---|---|",
    ]
    for folder in (_folder(case, seed, args) for case, seed, _ in runs):
        student = models.load(folder / "student.int8.onnx")
        images = open_images(f"{args.data}/t10k-images-idx3-ubyte.gz", preprocess=Preprocess.of(student))
        trained = models.load(folder / "trained.qdq.onnx")
        found = verify(student, [find_runtime(name) for name in RUNTIMES], images, simulation=trained)
        beside = {pair.second: pair for pair in found.pairs if pair.first == SIMULATION}
        for runner in found.runners[1:]:
            pair = beside[runner.name]
            furthest = max((one.tie_distance for one in runner.departures), default=0)
            kinds = sorted({one.kind for one in runner.departures})
            text = runner.untraceable or (f"{', '.join(kinds)}, at most {furthest:.0e} from a tie" if kinds else "none")
            lines.append(
                f"| {folder.name} | {runner.name} {runner.version.split('-')[0]} | {100 * pair.agreement:.2f} "
                f"| {pair.differing_images} | {pair.largest_steps:.0f} | {text} |"
            )
    return "\n".join(lines)


def _latency(args, peers) -> str:
    ours = {slug: _folder(BY_SLUG[slug], 0, args) / "student.int8.onnx" for slug in ("w8a8-per-channel", "w4a4-per-channel")}
    chosen = {
        "float": args.teacher,
        "quantize_static W8A8 per-channel": peers["W8A8 per-channel"].path,
        "ours W8A8": ours["w8a8-per-channel"],
        "ours W4A4 (4 bits in int8)": ours["w4a4-per-channel"],
    }
    loaded = {name: models.load(path) for name, path in chosen.items()}
    timings = latency(loaded, (1, 28, 28), LATENCY_BATCHES, args.threads, rounds=400, seconds=5, spread=0)
    lines = [
        "## Latency",
        "",
        f"Milliseconds a batch, median (quartiles), interleaved in one process (performance.md has six for each network), onnxruntime {ort.__version__}.",
        "",
    ]
    lines += ["| Model | batch 1 | x float | batch 64 | x float | heavy nodes left in float |", "|---|---|---|---|---|---|"]
    for name, model in loaded.items():
        cells = []
        for size in LATENCY_BATCHES:
            timing, base = timings[name][size], timings["float"][size]
            cells += [
                f"{1e3 * timing.median_seconds:.3f} ({1e3 * timing.p25:.3f} to {1e3 * timing.p75:.3f})",
                f"{base.median_seconds / timing.median_seconds:.2f}",
            ]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {heavy_float_nodes(model, args.runs) if name != 'float' else 'all'} |"
        )
    return "\n".join(lines)


def heavy_float_nodes(model: onnx.ModelProto, folder: Path) -> int:
    """Float Conv, MatMul and Gemm nodes in the graph that the runtime makes of the model."""
    path = folder / "optimized.onnx"
    runtime.open_session(model, log_path=str(path), exact=False)
    optimized = onnx.load(str(path))
    path.unlink()
    return sum(node.op_type in HEAVY for node in optimized.graph.node)


def _commands(runs, args) -> str:
    lines = ["## Commands", "", "```"]
    lines += ["onnx-distill " + shlex.join(_command(case, seed, args)) for case, seed, _ in runs]
    return "\n".join([*lines, "```"])


if __name__ == "__main__":
    main()
