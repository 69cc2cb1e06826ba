"""A training step beside PyTorch's: images a second, distance from the limit, and peak memory, as Markdown tables.

make bench        or: python benchmarks/training.py --torch-python .venv-torch/bin/python [--net resnet18] [--rounds 15]

Same network (PyTorch reads the same ONNX files), batch, fake quantisation (W4A4, weights per channel, activations per
tensor, steps learned; rows "fixed" do not learn them), loss (T = 20, alpha 0.9), AdamW, and threads. Each row is a process
of its own; they take turns in one run, one untimed step before each timed one; medians and quartiles over the rounds.
The limit is one inference of the teacher and three of the student's network, in floats, at full optimisation.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from nets import ROOT, SETTINGS, Setting

from onnx_distill import artifacts, pipeline
from onnx_distill.config import QuantizeConfig
from onnx_distill.cut import cut
from onnx_distill.data import ArrayImages

TITLES = {
    "limit": "limit: teacher + 3 x student inference",
    "ours": "onnx-distill",
    "ours-plain": "onnx-distill, lowering off",
    "torch-eager": "PyTorch eager",
    "torch-channels-last": "PyTorch channels-last",
    "torch-compile": "PyTorch compile, channels-last",
    "ours-fixed": "onnx-distill, fixed steps",
    "torch-eager-fixed": "PyTorch eager, fixed steps",
    "torch-channels-last-fixed": "PyTorch channels-last, fixed steps",
    "torch-compile-fixed": "PyTorch compile, fixed steps",
}
WARM_UP = 2


class Row:
    """A process that runs a step when asked."""

    def __init__(self, name: str, python: str, folder: Path, threads: int):
        self.name, self.seconds, self.failure = name, [], ""
        command = [python, str(Path(__file__).with_name("training_row.py")), name, str(folder), str(threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
        self.errors, pipe = folder / f"{name}.stderr", subprocess.PIPE
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True, env=environment)
        answer = self._answer().split()
        self.build_seconds = float(answer[1]) if answer[:1] == ["ready"] else 0.0

    def ask(self, word: str) -> float:
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            self.failure = (self.errors.read_text().strip().splitlines() or ["it ended"])[-1][:200]
        return line


def measure(setting: Setting, names: list[str], torch_python: str | None, threads: int, rounds: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        _write(setting, folder, threads)
        pythons = {name: torch_python if name.startswith("torch") else sys.executable for name in names}
        rows = [Row(name, python, folder, threads) for name, python in pythons.items() if python]
        live = [row for row in rows if not row.failure]
        for turn in range(WARM_UP + rounds):
            for row in live:
                seconds = row.ask("go")
                if turn >= WARM_UP:
                    row.seconds.append(seconds)
        for row in live:
            row.memory = row.ask("end")
            row.process.wait()
    return rows


def _write(setting: Setting, folder: Path, threads: int) -> None:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((setting.batch, *setting.image), np.float32)
    logits = cut(setting.model())
    config = QuantizeConfig(weight_bits=4, activation_bits=4)
    student = pipeline.quantize_with_images(logits, ArrayImages(images), config, setting.batch, threads=threads)
    onnx.save(logits, str(folder / "logits.onnx"))
    onnx.save(student, str(folder / "student.onnx"))
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", rng.integers(0, artifacts.class_count(logits.graph.output[0]), setting.batch))


def table(setting: Setting, rows: list[Row], threads: int) -> str:
    limit = np.median(next(row.seconds for row in rows if row.name == "limit"))
    lines = [f"**{setting.title}**, {threads} threads, {len(rows[0].seconds)} rounds", ""]
    lines += ["| | ms a step, median (quartiles) | images/s | x limit | peak memory, MB |", "|---|---|---|---|---|"]
    for row in rows:
        if row.failure:
            lines.append(f"| {TITLES[row.name]} | failed: {row.failure} | | | |")
            continue
        low, middle, high = (1e3 * np.percentile(row.seconds, q) for q in (25, 50, 75))
        speed, share = 1e3 * setting.batch / middle, middle / 1e3 / limit
        lines.append(
            f"| {TITLES[row.name]} | {middle:.1f} ({low:.1f} to {high:.1f}) | {speed:.1f} | {share:.2f} | {row.memory / 1e6:.0f} |"
        )
    return "\n".join([*lines, "", *_verdict(rows)])


def _verdict(rows: list[Row]) -> list[str]:
    """Ours against the best PyTorch row, learned and fixed steps apart; ratios round by round, then their median."""
    done = {row.name: row for row in rows if not row.failure}
    lines = []
    for end, what in (("", "steps learned"), ("-fixed", "steps fixed")):
        peers = [done[n] for n in done if n.startswith("torch") and n.endswith("-fixed") == bool(end)]
        if not peers or f"ours{end}" not in done:
            continue
        us = done[f"ours{end}"]
        fastest = min(peers, key=lambda row: np.median(row.seconds))
        smallest = min(row.memory for row in peers)
        speed = np.median(np.divide(fastest.seconds, us.seconds))
        lines.append(
            f"{what}: {speed:.2f} x the images/s of {TITLES[fastest.name]}; {us.memory / smallest:.2f} x the memory of the smallest PyTorch row."
        )
    return [*lines, f"Building and lowering: {done['ours'].build_seconds:.1f} s, imports included."]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", help="a Python with torch and onnx; without it the PyTorch rows are left out")
    parser.add_argument("--net", choices=SETTINGS, action="append")
    parser.add_argument("--rows", default=",".join(TITLES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    for name in given.net or SETTINGS:
        setting = SETTINGS[name]
        rows = measure(setting, given.rows.split(","), given.torch_python, given.threads, given.rounds)
        print(table(setting, rows, given.threads), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
