"""A long run: memory of the process and time of a step, for every tenth of it. Neither should grow.

python benchmarks/steps.py [STEPS] [more options of `onnx-distill train`]       needs data/ (make data); 10,000 steps by default

The models/ teacher, W4A4, batches of 8 with augmentation, through the command that users run; what is read is its log and
/proc/PID/status (Linux).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from nets import ROOT

TRAIN = ROOT / "data" / "train-images-idx3-ubyte.gz"
TEACHER = ROOT / "models" / "mobilenetv2-fashion.onnx"
BATCH, HELD_OUT, IMAGES = 8, 1000, 60_000


def run(line: list[str]) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "onnx_distill", *line], stdout=subprocess.DEVNULL, stderr=sys.stderr)


def resident(pid: int) -> float | None:
    """Megabytes; None where the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), None)


def last_step(log: Path) -> int:
    lines = log.read_text().splitlines() if log.is_file() else []
    return max((json.loads(line).get("step", 0) for line in lines[-3:] if line.endswith("}")), default=0)


def main(steps: int, more: list[str]) -> int:
    with tempfile.TemporaryDirectory() as made:
        student, out = Path(made) / "student.onnx", Path(made) / "run"
        bits = ["--weight-bits", "4", "--activation-bits", "4"]
        if run(["quantize", str(TEACHER), "--data", str(TRAIN), *bits, "-o", str(student)]).wait():
            return 1
        epochs = steps * BATCH / (IMAGES - HELD_OUT)
        options = f"--epochs {epochs} --batch-size {BATCH} --validation {HELD_OUT} --evaluate-every {steps} --flip --shift 2"
        line = ["train", str(student), "--teacher", str(TEACHER), "--data", str(TRAIN), *options.split(), "--no-report"]
        process, seen = run([*line, *more, "-o", str(out)]), []
        while (memory := resident(process.pid)) is not None and process.poll() is None:
            seen.append((last_step(out / "log.jsonl"), memory, time.monotonic()))
            time.sleep(0.2)
        print("| steps | resident memory, MB, median (most) | ms a step |\n|---|---|---|")
        for low in range(0, steps, steps // 10):
            part = [entry for entry in seen if max(low, 1) <= entry[0] < low + steps // 10]
            if len(part) > 1 and part[-1][0] > part[0][0]:
                memory = [entry[1] for entry in part]
                pace = 1000 * (part[-1][2] - part[0][2]) / (part[-1][0] - part[0][0])
                print(f"| {low} to {low + steps // 10} | {np.median(memory):.1f} ({max(memory):.1f}) | {pace:.1f} |")
        return process.returncode


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000, sys.argv[2:]))
