"""Kills one short run at a random moment, kill -9, and continues it, many times: all must end in the same bytes.

python scripts/kills.py 100 [SEED]     needs data/ (make data); prints how many of the runs ended alike
"""

from __future__ import annotations

import hashlib
import json
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
RECIPE = "--epochs 0.03 --validation 500 --batch-size 32 --save-every 5 --evaluate-every 20 --flip --shift 2 --no-preflight --no-report"


def command(student: Path, run: Path, more: str = "") -> list[str]:
    line = f"train {student} --teacher {TEACHER} --data {TRAIN} {RECIPE} --threads 1 {more} -o {run}"
    return [sys.executable, "-m", "onnx_distill", *line.split()]


def digest(run: Path) -> str:
    return hashlib.sha256(
        b"".join((run / name).read_bytes() for name in ("student.int8.onnx", "trained.qdq.onnx", "log.jsonl"))
    ).hexdigest()


def was_killed(line: list[str], moment: float) -> bool:
    """Whether the run was killed after `moment` seconds; it may have ended before."""
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(moment)
        return False
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True


def main(kills: int, seed: int) -> int:
    folder, rng = Path(tempfile.mkdtemp(prefix="kills-")), random.Random(seed)
    student, run = folder / "s.onnx", folder / "cut"
    line = f"quantize {TEACHER} --data {TRAIN} --weight-bits 4 --activation-bits 4 --samples 64 -o {student}"
    subprocess.run([sys.executable, "-m", "onnx_distill", *line.split()], check=True, capture_output=True)
    started = time.monotonic()
    subprocess.run(command(student, folder / "whole"), check=True, capture_output=True)
    if json.loads((folder / "whole" / "trained.json").read_text())["kept"]:
        print(f"training did not change the student: its bytes would say little; it is in {folder}")
        return 1
    seconds, wanted, killed = time.monotonic() - started, digest(folder / "whole"), 0
    while killed < kills:
        shutil.rmtree(run, ignore_errors=True)
        if not was_killed(command(student, run), moment := rng.uniform(0, seconds)):
            continue
        written = sorted(path.name for path in run.glob("checkpoints/*.ckpt"))
        subprocess.run(command(student, run, "--resume"), check=True, capture_output=True)
        killed += 1
        print(f"{killed}: killed after {moment:.1f} s with {written[-1] if written else 'no checkpoint'}", flush=True)
        if digest(run) != wanted:
            print(f"this one ended otherwise; it is in {folder}")
            return 1
    shutil.rmtree(folder)
    print(f"{killed} runs killed and continued: all ended in the bytes of the one that was not, which took {seconds:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
