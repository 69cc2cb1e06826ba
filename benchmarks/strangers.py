"""docs/strangers.md: students of networks that nobody here made, with no option but the bits, beside PTQ and quantize_static.

    make strangers                                            (hours on 2 cores; each row is kept in runs/strangers and not made twice)
    python benchmarks/strangers.py --only text age --bits W8A8 W4A8 --seeds 1

Each teacher trains on images of one seed and is measured on fresh images of another, at which nothing was chosen. A paired
test says whether the student that a run exports is better or worse than the PTQ student: sign test on the images where one
of the two gives the teacher's answer (with labels: the right one) and the other does not.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import onnx
from onnx import numpy_helper

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import strangers  # noqa: E402

import onnx_distill  # noqa: E402
from onnx_distill import model as models  # noqa: E402
from onnx_distill.config import DistillConfig, QuantizeConfig, TrainConfig  # noqa: E402
from onnx_distill.cut import cut  # noqa: E402
from onnx_distill.data import Images, Preprocess, open_images  # noqa: E402
from onnx_distill.evaluate import agreement, mean_kl, top_k  # noqa: E402
from onnx_distill.lookup import array, consumers, initializers  # noqa: E402
from onnx_distill.normalize.prepare import prepare  # noqa: E402
from onnx_distill.pipeline import quantize_with_images  # noqa: E402
from onnx_distill.ready.calibrated import drawn  # noqa: E402
from onnx_distill.ready.deployable import deployable  # noqa: E402
from onnx_distill.ready.distillation import distill  # noqa: E402
from onnx_distill.ready.measure import logits_of  # noqa: E402
from onnx_distill.run.watch import Watch  # noqa: E402

TRAIN_SEED, TEST_SEED = 1, 3  # of the images; 2 is what the teachers were looked at with
BITS = {"W8A8": (8, 8), "W4A8": (4, 8), "W4A4": (4, 4)}
SAMPLES = 512  # images to calibrate on, as `run` takes
KINDS = ("nearest", "PTQ", "student")  # PTQ with weights rounded to the nearest, PTQ as it comes, and what a run exports


@dataclass(frozen=True)
class Task:
    """A teacher with the images that it is trained on and measured on."""

    name: str
    source: str
    role: str
    teacher: onnx.ModelProto
    logits: str | None
    train: Images
    test: Images


def task_of(name: str, folder: Path, train: int, test: int) -> Task:
    if name in FILES:
        return _of_files(name, train)
    stranger = {one.name: one for one in strangers.STRANGERS}[name]
    path, train_images = stranger.prepare(folder, train, TRAIN_SEED)
    _, test_images = stranger.prepare(folder, test, TEST_SEED)
    options = _options(stranger.options)
    shape = tuple(int(size) for size in options.pop("input_shape").split("x"))
    teacher = prepare(models.load(path), shape, {})
    how = Preprocess.of(teacher).replace(**options)
    images = [open_images(source, preprocess=how) for source in (train_images, test_images)]
    return Task(name, stranger.source, stranger.role, teacher, stranger.logits or None, *images)


FILES = {  # teachers of scripts/ and models/: file, images to train on, images to measure on, source
    "models": ("models/mobilenetv2-fashion.onnx", "data/train-images-idx3-ubyte.gz", "data/t10k-images-idx3-ubyte.gz"),
    "heldout": ("data/heldout/mobilenetv2-050.onnx", "data/train-images-idx3-ubyte.gz", "data/t10k-images-idx3-ubyte.gz"),
    "photos": ("data/photos/photos-folded-softmax.onnx", "data/photos/train-2500.npz", "data/photos/test-2000.npz"),
    "photos-batchnorm": (
        "data/photos/photos-batchnorm-softmax.onnx",
        "data/photos/train-2500.npz",
        "data/photos/test-2000.npz",
    ),
}
SOURCES = {
    "models": "models/: MobileNetV2 on Fashion-MNIST, ours",
    "heldout": "scripts/heldout_teacher.py: MobileNetV2 0.5 on Fashion-MNIST, 6 epochs",
    "photos": "scripts/photos_teacher.py: ResNet-18 of 64x64 rendered objects, 2,500 images, torch, BatchNorm folded",
    "photos-batchnorm": "the same, BatchNorm not folded",
}
FILES["photos-rescaled"] = FILES["photos"]
SOURCES["photos-rescaled"] = "the first, each channel between two convolutions of a block times 1/100 to 100, and back"
PHOTOS = {"mean": (123.675, 116.28, 103.53), "scale": tuple(1 / deviation for deviation in (58.395, 57.12, 57.375))}


def _of_files(name: str, train: int) -> Task:
    teacher, *images = (ROOT / path for path in FILES[name])
    model = prepare(models.load(teacher))
    model = rescaled(model) if name.endswith("rescaled") else model
    how = Preprocess.of(model).replace(**(PHOTOS if name.startswith("photos") else {}))
    rest, test = (open_images(path, preprocess=how) for path in images)
    return Task(
        name,
        SOURCES[name],
        "measure" if name == "heldout" else "tune",
        model,
        None,
        drawn(rest, train, 0) if train < len(rest) else rest,
        test,
    )


def rescaled(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """The same function: where one Conv alone reads, through a Relu, what another makes, random factors per channel go in between."""
    made, rng = onnx.ModelProto(), np.random.default_rng(seed)
    made.CopyFrom(model)
    constants, readers, count = initializers(made), consumers(made), 0
    for first in made.graph.node:
        after = readers.get(first.output[0], [])
        last = readers.get(after[0].output[0], []) if len(after) == 1 and after[0].op_type == "Relu" else []
        if first.op_type != "Conv" or len(first.input) < 3 or [node.op_type for node in last] != ["Conv"]:
            continue
        w, b, v = (array(constants[name]) for name in (*first.input[1:3], last[0].input[1]))
        factors = np.exp(rng.uniform(np.log(0.01), np.log(100), len(b))).astype(np.float32)
        new = {
            first.input[1]: w * factors[:, None, None, None],
            first.input[2]: b * factors,
            last[0].input[1]: v / factors[:, None, None],
        }
        for name, values in new.items():
            constants[name].CopyFrom(numpy_helper.from_array(values, name))
        count += 1
    assert count, "no two convolutions with a Relu between"
    return made


def _options(words: tuple[str, ...]) -> dict:
    """{"mean": (1.0, 2.0), "order": "BGR"} of ("--mean", "1", "--mean", "2", "--order", "BGR")."""
    found: dict = {}
    for flag, value in zip(words[::2], words[1::2]):
        name = flag.lstrip("-").replace("-", "_")
        found[name] = (*found.get(name, ()), float(value)) if name in ("mean", "scale") else value
    return found


def measured(task: Task, bits: str, seed: int, folder: Path, more: dict, labels: bool) -> dict:
    """A row: what PTQ and the exported student of one training are worth on the test images."""
    began = time.perf_counter()
    weight_bits, activation_bits = BITS.get(bits) or (int(bits[1]), int(bits[3]))
    config = QuantizeConfig(weight_bits, activation_bits, target="ort-x86")
    images = task.train if labels else _unlabelled(task.train)
    float_model = cut(task.teacher, task.logits)
    ptq = quantize_with_images(float_model, images, config, SAMPLES, seed, more["threads"])
    notes: list[str] = []
    watch = Watch(note=notes.append, warning=notes.append)
    trained = distill(ptq, task.teacher, images, None, DistillConfig(), TrainConfig(seed=seed, **more), watch)
    seconds = time.perf_counter() - began
    plain = quantize_with_images(float_model, images, replace(config, rounding="nearest"), SAMPLES, seed, more["threads"])
    shipped = {"nearest": plain, "PTQ": ptq, "student": trained.best.student}
    value = float_model.graph.output[0].name
    theirs = logits_of(task.teacher, task.test, more["threads"], value)
    scores = {
        name: logits_of(deployable(model, task.teacher), task.test, more["threads"], value)
        for name, model in shipped.items()
    }
    row = {
        "name": task.name,
        "bits": bits,
        "seed": seed,
        "seconds": seconds,
        "notes": notes,
        "kept": trained.kept,
        "images": len(images),
    }
    truth = task.test.labels if task.test.labels is not None else theirs.argmax(axis=1)
    row["float"] = top_k(theirs, truth, 1)
    for name, found in scores.items():
        row[name] = {"agreement": agreement(theirs, found), "kl": mean_kl(theirs, found), "top1": top_k(found, truth, 1)}
    right = {name: found.argmax(axis=1) == theirs.argmax(axis=1) for name, found in scores.items()}
    row["better"], row["worse"] = (int((right[a] & ~right[b]).sum()) for a, b in (("student", "PTQ"), ("PTQ", "student")))
    row["test"] = len(theirs)
    models.save(deployable(trained.best.student, task.teacher), folder / f"{task.name}-{bits}-{seed}.onnx")
    return row


def _unlabelled(images: Images) -> Images:
    made = images.subset(np.arange(len(images)))
    made.labels = None
    return made


def static_of(task: Task, case: str, folder: Path, python: str, threads: int) -> dict | None:
    """The better of minmax and percentile of quantize_static on as many images; None where it cannot."""
    part = drawn(task.train, SAMPLES, 0)
    source, images = folder / f"{task.name}-float.onnx", folder / f"{task.name}-calibration.npy"
    models.save(task.teacher, source)
    np.save(images, _as_input(task.teacher, part.read(np.arange(len(part)))))
    command = [python, str(ROOT / "benchmarks/peer_static.py"), str(source), str(images), str(folder), case]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["?"])[-1]}
    value = cut(task.teacher, task.logits).graph.output[0].name
    theirs = logits_of(task.teacher, task.test, threads, value)
    found = {}
    for path in (line for line in done.stdout.splitlines() if line.endswith(".onnx")):  # it prints more than its paths
        ours = logits_of(models.load(path), task.test, threads, value)
        found[Path(path).stem.split("-")[-1]] = {"agreement": agreement(theirs, ours), "kl": mean_kl(theirs, ours)}
    best = max(found, key=lambda method: found[method]["agreement"])
    return {"method": best, **found[best]}


def _as_input(teacher: onnx.ModelProto, batch: np.ndarray) -> np.ndarray:
    """The batch as the model itself reads it, channels last where it does."""
    shape = [axis.dim_value for axis in teacher.graph.input[0].type.tensor_type.shape.dim]
    return batch if shape[1] == batch.shape[1] else batch.transpose(0, 2, 3, 1)


def page(rows: list[dict], static: dict[str, dict], args) -> str:
    """docs/strangers.md."""
    lines = [_heading(args), "", *_table(rows, static), "", "## Every run", "", *_runs(rows), ""]
    return "\n".join(lines)


def _heading(args) -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT).stdout.strip()
    names = "\n".join(f"- **{one.name}** ({one.role}): {one.source}" for one in strangers.STRANGERS)
    others = "\n".join(
        f"- **{name}** ({'measure' if name == 'heldout' else 'tune'}): {source}" for name, source in SOURCES.items()
    )
    return f"""# Students of strangers

Networks that nobody here made, or nobody tuned for, trained with no option but the bits. `make strangers` makes this page: onnx-distill
{onnx_distill.__version__} at {commit}, {args.threads} {"thread" if args.threads == 1 else "threads"} of {_processor()}, Python {platform.python_version()}. Images to train on (no labels for
the networks from packages) and fresh images to measure on are rendered by [scripts/strangers/](../scripts/strangers/); what was tried and not taken is in
[strangers-tried.md](strangers-tried.md). Networks marked "tune" were looked at while the recipe was chosen, those marked "measure" only at the end.

{names}
{others}

Agreement with the float teacher in %, median over the seeds and what they span. "nearest": PTQ with `--rounding nearest`, as
other tools have it; "PTQ": as it comes. "won back": the share of the agreement that "nearest" lost. "paired": images that the
student answers as its teacher and PTQ does not, and the other way round, over all seeds; `+` and `-` where that is more than chance (sign test, 5 %).
"not trained": runs that found PTQ enough, or gave the PTQ student back."""


def _table(rows: list[dict], static: dict[str, dict]) -> list[str]:
    heads = [
        "teacher",
        "bits",
        "images",
        "quantize_static",
        "nearest",
        "PTQ",
        "student",
        "won back",
        "KL: nearest, PTQ, student",
        "top-1: float, nearest, PTQ, student",
        "paired",
        "not trained",
        "s",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, bits, images in dict.fromkeys((row["name"], row["bits"], row["images"]) for row in rows):
        own = [row for row in rows if (row["name"], row["bits"], row["images"]) == (name, bits, images)]
        peer = static.get(f"{name}-{bits}")
        lines.append("| " + " | ".join(_cells(own, name, bits, images, peer)) + " |")
    return lines


def _cells(own: list[dict], name: str, bits: str, images: int, peer: dict | None) -> list[str]:
    middle = lambda kind, what: median(row[kind][what] for row in own)  # noqa: E731
    nearest, ptq, ours = (middle(kind, "agreement") for kind in KINDS)
    better, worse = (sum(row[side] for row in own) for side in ("better", "worse"))
    back = f"{100 * (ours - nearest) / (1 - nearest):.0f} %" if nearest < 1 else "-"
    spread = [100 * row["student"]["agreement"] for row in own]
    found = "-" if peer is None else f"{100 * peer['agreement']:.2f} ({peer['method']})" if "agreement" in peer else "fails"
    kept = sum(bool(row["kept"]) for row in own)
    tops = [median(row["float"] for row in own), *(middle(kind, "top1") for kind in KINDS)]
    return [
        name,
        bits,
        f"{images:,}",
        found,
        f"{100 * nearest:.2f}",
        f"{100 * ptq:.2f}",
        f"**{100 * ours:.2f}** ({min(spread):.2f} to {max(spread):.2f})",
        back,
        ", ".join(f"{middle(kind, 'kl'):.4f}" for kind in KINDS),
        ", ".join(f"{100 * top:.2f}" for top in tops) if own[0]["float"] < 1 else "-",
        f"{better}, {worse} {_sign(better, worse)}",
        f"{kept} of {len(own)}",
        f"{median(row['seconds'] for row in own):.0f}",
    ]


def _sign(better: int, worse: int) -> str:
    """'+' or '-' where one side has more than chance gives it: two-sided sign test at 5 %."""
    count, fewer = better + worse, min(better, worse)
    tail = sum(math.comb(count, k) for k in range(fewer + 1)) / 2**count if count else 1.0
    return "" if 2 * tail > 0.05 else "+" if better > worse else "-"


def _runs(rows: list[dict]) -> list[str]:
    lines = [
        "| teacher | bits | images | seed | PTQ | student | first line of the run, and why it was not trained |",
        "|" + "---|" * 7,
    ]
    for row in rows:
        said = "; ".join([*row["notes"], row["kept"]]).strip("; ")
        shares = " | ".join(f"{100 * row[kind]['agreement']:.2f}" for kind in ("PTQ", "student"))
        lines.append(f"| {row['name']} | {row['bits']} | {row['images']:,} | {row['seed']} | {shares} | {said} |")
    return lines


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{name}, {os.cpu_count()} cores"


def main() -> None:
    names = [*FILES, *(one.name for one in strangers.STRANGERS)]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--bits", nargs="+", default=["W8A8", "W4A8"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int, default=800, help="images of a stranger to train on; of --few too")
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--few", type=int, help="so many images of models/, heldout and photos, without their labels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data", type=Path, default=ROOT / "data/strangers")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/strangers")
    parser.add_argument("--deploy-python", help="a Python with the newest onnxruntime: quantize_static is measured too")
    parser.add_argument("--out", type=Path, help="where the page goes; default: it is printed")
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        task = None
        for bits in args.bits:
            for seed in range(args.seeds):
                file = args.runs / f"{name}-{bits}-{args.few or 'all'}-{seed}.json"
                if file.is_file():
                    continue
                train = args.few or (10**9 if name in FILES else args.train)
                task = task or task_of(name, args.data, train, args.test)
                row = measured(task, bits, seed, args.runs, {"threads": args.threads}, labels=not args.few)
                file.write_text(json.dumps(row))
                print(json.dumps(row), file=sys.stderr, flush=True)
            static = args.runs / f"static-{name}-{bits}.json"
            case = {"W8A8": "w8a8-per-channel", "W4A8": "w4a8-per-channel"}.get(bits)
            if args.deploy_python and case and not args.few and not static.is_file():
                task = task or task_of(name, args.data, 10**9 if name in FILES else args.train, args.test)
                static.write_text(json.dumps(static_of(task, case, args.runs, args.deploy_python, args.threads)))
    rows = [
        json.loads(path.read_text())
        for path in sorted(args.runs.glob("*-W?A?-*.json"))
        if not path.name.startswith("static")
    ]
    peers = {path.stem[len("static-") :]: json.loads(path.read_text()) for path in args.runs.glob("static-*.json")}
    made = page(rows, peers, args)
    args.out.write_text(made) if args.out else print(made)


if __name__ == "__main__":
    main()
