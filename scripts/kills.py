"""Kills one short run at random moments, kill -9, and continues it each time: all must end in the same bytes.

python scripts/kills.py 100 [SEED]     needs data/ (make data); prints how many of the runs ended alike
"""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TRAIN = ROOT / "data" / "train-images-idx3-ubyte.gz"
TEACHER = ROOT / "models" / "mobilenetv2-fashion.onnx"
RECIPE = "--epochs 0.03 --validation 500 --batch-size 32 --save-every 5 --evaluate-every 20 --flip --shift 2 --no-preflight"


def command(student: Path, run: Path, more: str = "") -> list[str]:
    line = f"train {student} --teacher {TEACHER} --data {TRAIN} {RECIPE} --threads 1 {more} -o {run}"
    return [sys.executable, "-m", "onnx_distill", *line.split()]


def digest(run: Path) -> str:
    return hashlib.sha256(
        b"".join((run / name).read_bytes() for name in ("student.int8.onnx", "trained.qdq.onnx", "log.jsonl"))
    ).hexdigest()


def main(kills: int, seed: int) -> int:
    folder, rng = Path(tempfile.mkdtemp(prefix="kills-")), random.Random(seed)
    student = folder / "s.onnx"
    line = f"quantize {TEACHER} --data {TRAIN} --weight-bits 4 --activation-bits 4 --samples 64 -o {student}"
    subprocess.run([sys.executable, "-m", "onnx_distill", *line.split()], check=True, capture_output=True)
    started = time.monotonic()
    subprocess.run(command(student, folder / "whole"), check=True, capture_output=True)
    seconds, wanted, alike, killed = time.monotonic() - started, digest(folder / "whole"), 0, 0
    while killed < kills:
        run, process = folder / "cut", None
        shutil.rmtree(run, ignore_errors=True)
        while True:  # killed again and again until it gets through
            process = subprocess.Popen(
                command(student, run, "--resume"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                process.wait(rng.uniform(0, 1.1 * seconds) if killed < kills else None)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                killed += 1
        alike += process.returncode == 0 and digest(run) == wanted
        print(f"{killed} kills so far; this run ended {'alike' if digest(run) == wanted else 'OTHERWISE'}", flush=True)
        if digest(run) != wanted:
            return 1
    print(f"{killed} kills, {alike} runs, all ended in the bytes of the run that was not interrupted ({seconds:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
