"""Makes the usual mistakes one by one and shows what a user sees: each has to be named, in words, by the command itself.

    python scripts/mistakes.py --to build/mistakes       # models/, data/ (make data) and Pillow; a minute or two

Exit code 1 where a mistake went by in silence, where a traceback was seen, or where what is no mistake was blamed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import numpy as np
from PIL import Image

from onnx_distill.data.idx import read_idx

ROOT = Path(__file__).resolve().parent.parent
TEACHER = ROOT / "models/mobilenetv2-fashion.onnx"
TRAIN, LABELS = ROOT / "data/train-images-idx3-ubyte.gz", ROOT / "data/train-labels-idx1-ubyte.gz"
NAMES = "t-shirt trouser pullover dress coat sandal shirt sneaker bag boot".split()
EACH = 40  # images of a class


@dataclass(frozen=True)
class Mistake:
    """what: in words. words: of onnx-distill, with {0} for the folder of inputs. seen: a pattern that has to be on stderr."""

    what: str
    words: str
    seen: str
    code: int = 0
    before: Callable[[Path], None] = lambda folder: None  # done to the inputs first


FEW = "--threads 1 --no-latency --no-report --epochs 1"
MISTAKES = (
    Mistake("(no mistake)", "eval {t} --data {0}/photos", r"^(?!.*are the images read as)"),
    Mistake("the mean and scale of another network", "eval {t} --data {0}/photos --mean 0 --scale 0.00392157", "are the images read as it was trained"),
    Mistake("labels shifted by one", "eval {t} --data {0}/photos --label-offset 0", "--label-offset"),
    Mistake("one answer for all, without labels", "train {0}/s.onnx --teacher {t} --data {0}/flat --mean 0 --scale 0.001 {few} -o {0}/r1", "commonest answer|are the images read as"),
    Mistake("a test folder without a class", "run {t} --data {0}/photos --test-data {0}/lacking {few} -o {0}/r2", "0-t-shirt"),
    Mistake("an empty folder and __MACOSX beside the classes", "eval {t} --data {0}/untidy", r"^(?!.*error)"),
    Mistake("test images that are training images", "run {t} --data {0}/photos --test-data {0}/photos {few} -o {0}/r3", "same|also in|overlap"),
    Mistake("eight images in all", "run {t} --data {0}/eight {few} -o {0}/r4", "few images|only"),
    Mistake("a batch larger than the data", "train {0}/s.onnx --teacher {t} --data {0}/photos {few} --batch-size 4096 --train always -o {0}/r5", "4,?096"),
    Mistake("a pixel that is no number: eval", "eval {t} --data {0}/nan.npy", "image 7", 2),
    Mistake("a pixel that is no number: train", "train {0}/s.onnx --teacher {t} --data {0}/nan.npy {few} -o {0}/r6", "image 7", 2),
    Mistake("a folder that has a run", "train {0}/s.onnx --teacher {t} --data {0}/photos {few} -o {0}/r5", "--overwrite", 2),
    Mistake("resumed on images of which one changed", "train {0}/s.onnx --teacher {t} --data {0}/photos {few} --batch-size 4096 --train always --resume -o {0}/r5", "images|--data", 2, lambda folder: _save(np.zeros((28, 28), np.uint8), next((folder / "photos").rglob("*.png")))),
    Mistake("a list with a byte order mark", "eval {t} --data {0}/flat --labels {0}/marked.txt", r"^(?!.*error)"),
    Mistake("a list in another encoding", "eval {t} --data {0}/flat --labels {0}/latin.txt", "latin.txt", 2),
    Mistake("a file that is not there", "eval {t} --data {0}/photo", "photo.*closest|no file", 2),
)  # fmt: skip


def write_inputs(folder: Path) -> None:
    images, labels = (read_idx(path) for path in (TRAIN, LABELS))
    chosen = np.concatenate([np.flatnonzero(labels == number)[:EACH] for number in range(10)])
    for place, rows in {"photos": chosen, "other": chosen + 1}.items():
        for row in rows:
            _save(images[row], folder / place / f"{labels[row]}-{NAMES[labels[row]]}" / f"{row}.png")
    names = [f"{number}-{name}" for number, name in enumerate(NAMES)]
    shutil.copytree(
        folder / "photos", folder / "lacking", ignore=lambda place, found: [names[0]] if names[0] in found else []
    )
    shutil.copytree(folder / "photos", folder / "untidy")
    for extra in ("__MACOSX", "nothing"):
        (folder / "untidy" / extra).mkdir()
    for row in chosen:
        _save(images[row], folder / "flat" / f"{row}.png")
    for row in chosen[:: EACH + 8][:8]:
        _save(images[row], folder / "eight" / f"{labels[row]}-{NAMES[labels[row]]}" / f"{row}.png")
    lines = "".join(f"{row}.png {labels[row]}\n" for row in chosen)
    (folder / "marked.txt").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    (folder / "latin.txt").write_bytes((lines + "größe.png 1\n").encode("latin-1"))
    pixels = images[chosen].astype(np.float32)[:, None]
    pixels[7, 0, 3, 3] = np.nan
    np.save(folder / "nan.npy", pixels)


def _save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def said(words: str, folder: Path) -> tuple[int, str]:
    line = words.format(folder, t=TEACHER, few=FEW)
    command = [sys.executable, "-m", "onnx_distill", *line.split()]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"})
    return done.returncode, done.stderr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, default=Path("build/mistakes"))
    args = parser.parse_args()
    shutil.rmtree(args.to, ignore_errors=True)
    write_inputs(args.to)
    code, text = said("quantize {t} --data {0}/photos -o {0}/s.onnx --threads 1", args.to)
    assert code == 0, text
    missed = []
    for mistake in MISTAKES:
        mistake.before(args.to)
        code, text = said(mistake.words, args.to)
        named = code == mistake.code and "Traceback" not in text and re.search(mistake.seen, text, re.S)
        missed += [] if named else [mistake.what]
        print(
            f"{'named ' if named else 'MISSED'}  {mistake.what}\n        $ onnx-distill {mistake.words.format('IN', t='MODEL', few='...')}"
        )
        print("".join(f"        {line}\n" for line in text.splitlines()[:8]), end="")
    print(f"{len(MISTAKES) - len(missed)} of {len(MISTAKES)}" + (f"; not: {', '.join(missed)}" if missed else ""))
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
