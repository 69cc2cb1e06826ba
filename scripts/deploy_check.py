"""Simulation against deployment: how often a student's exported file answers as its simulation does, and why where not.

Simulated: trained.qdq.onnx, its nodes exactly as they stand, in floats. Exported: student.int8.onnx as a runtime optimizes
it, in integers; once in this environment and once in that of --python. Images whose logits differ are traced: every
quantized value of both runs is compared with the exact one (deploy_trace.py). Two runs that never depart from the exact
integers cannot differ, so the departures are the whole cause. Exit code 1 for too little agreement or a departure that is
no rounding tie, 2 for bad input.

Example: python scripts/deploy_check.py --student runs/demo --python .venv-deploy/bin/python
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from deploy_trace import MOVING, Cause, activations, causes

from onnx_distill import model as models
from onnx_distill import qdq, runtime
from onnx_distill.data import Preprocess, open_images
from onnx_distill.errors import InputError
from onnx_distill.evaluate import agreement, with_output
from onnx_distill.logits import find_logits
from onnx_distill.model import array, initializers, producers

SIMULATED, EXPORTED = "trained.qdq.onnx", "student.int8.onnx"
STOCK_PREDICT = Path(__file__).with_name("stock_predict.py")
BATCH = 250  # images at a time
BOUND, BOUND_BELOW_4_BITS = 0.999, 0.995  # of top-1 agreement
HEAVY = ("Conv", "MatMul", "Gemm", "FusedConv", "FusedMatMul", "FusedGemm")  # what should have become integer operators


@dataclass(frozen=True)
class Comparison:
    """A student under one runtime; differences are of logits, in their quantizer's steps, the mean over all of them."""

    student: str
    onnxruntime: str
    count: int
    agreement: float
    bound: float
    differing_images: int
    largest_steps: float
    mean_steps: float
    float_nodes: int  # HEAVY nodes that the runtime leaves in floats: where they are many, agreement says little
    traced_images: int
    causes: list[Cause]

    @property
    def passed(self) -> bool:
        return self.agreement >= self.bound and all(cause.explained for cause in self.causes)


# ---- the two runs ----


def simulated(model: onnx.ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
    """Every output of the nodes exactly as they stand, by name."""
    session = runtime.open_session(model, optimized=False)
    parts = [runtime.run(session, images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
    return dict(zip([value.name for value in model.graph.output], (np.concatenate(part) for part in zip(*parts))))


@dataclass(frozen=True)
class Deployed:
    """Outputs of a model under the onnxruntime of another Python, by name, its version, and the graph that it made."""

    outputs: dict[str, np.ndarray]
    version: str
    optimized: onnx.ModelProto


def deployed(python: str, model: onnx.ModelProto, images: np.ndarray) -> Deployed:
    """The model run by `python`, with the default optimizations of its onnxruntime. Raises InputError when that fails."""
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/{name}" for name in ("model.onnx", "images.npy", "outputs.npz", "optimized.onnx")]
        models.save(model, files[0])
        np.save(files[1], images)
        try:
            done = subprocess.run([python, str(STOCK_PREDICT), *files], capture_output=True, text=True)
        except OSError as error:
            raise InputError(
                f"cannot run {python}: {error.strerror}. Make it with `make deploy-check`, or give --python."
            ) from None
        if done.returncode:
            raise InputError(
                f"{python} {STOCK_PREDICT.name} failed: {(done.stderr.strip() or 'it said nothing').splitlines()[-1]}"
            )
        with np.load(files[2]) as stored:
            outputs = {value.name: stored[f"arr_{number}"] for number, value in enumerate(model.graph.output)}
        return Deployed(outputs, done.stdout.strip(), onnx.load(files[3]))


# ---- one student ----


def trace(
    student: onnx.ModelProto, exported: onnx.ModelProto, logits: list[np.ndarray], images: np.ndarray, python: str
) -> list[Cause]:
    """The causes, in graph order, of the differences between simulated student and exported model on these images.

    logits: what the two said without being watched. Raises InputError where watching changes an answer, as it would where an
    exposed value kept the runtime from fusing it.
    """
    watched, value = activations(exported), find_logits(exported).value
    made = deployed(python, _exposed(exported, [value, *watched]), images)
    runs = [simulated(_exposed(student, [value, *watched]), images), made.outputs]
    if not all(np.array_equal(run[value], said) for run, said in zip(runs, logits)):
        raise InputError(
            f"exposing the quantized values changes the answers of onnxruntime {made.version}: "
            "what is fused then is not what was measured."
        )
    return causes(exported, images, *runs, made.optimized)


def _exposed(model: onnx.ModelProto, values: list[str]) -> onnx.ModelProto:
    """The model with these values as outputs too; the integers that a quantizer gives do not stop its fusion."""
    for value in values:
        model = with_output(model, value)
    return model


def logits_step(model: onnx.ModelProto) -> float:
    """The scale of the last quantizer before the logits; 1 where there is none."""
    made_by, node = producers(model), producers(model)[find_logits(model).value]
    while node is not None and node.op_type in MOVING:
        node = made_by.get(node.input[0])
    quantized = node is not None and node.op_type == "DequantizeLinear"
    return float(array(initializers(model)[node.input[1]]).reshape(-1)[0]) if quantized else 1.0


def float_nodes(optimized: onnx.ModelProto) -> int:
    return sum(node.op_type in HEAVY for node in optimized.graph.node)


def compare(folder: Path, data: Path, pythons: list[str], bound: float | None = None, traced: int = 100) -> list[Comparison]:
    """One Comparison for each Python's onnxruntime. traced: images to trace of those that differ; 0: all."""
    student, exported = models.load(folder / SIMULATED), models.load(folder / EXPORTED)
    opened = open_images(data, preprocess=Preprocess.of(exported))
    images = opened.read(np.arange(len(opened)))
    value, step = find_logits(exported).value, logits_step(exported)
    wanted = simulated(with_output(student, value), images)[value]
    results = []
    for python in pythons:
        made = deployed(python, with_output(exported, value), images)
        found = made.outputs[value]
        steps = np.abs(found.astype(np.float64) - wanted) / step
        differing = np.flatnonzero(steps.any(axis=1))
        chosen = differing[: traced or None]
        results.append(
            Comparison(
                student=folder.name,
                onnxruntime=made.version,
                count=len(images),
                agreement=agreement(wanted, found),
                bound=_bound(student) if bound is None else bound,
                differing_images=len(differing),
                largest_steps=float(steps.max()),
                mean_steps=float(steps.mean()),
                float_nodes=float_nodes(made.optimized),
                traced_images=len(chosen),
                causes=trace(student, exported, [wanted[chosen], found[chosen]], images[chosen], python)
                if len(chosen)
                else [],
            )
        )
    return results


def _bound(student: onnx.ModelProto) -> float:
    """By the fewest bits of any quantizer; a narrow range has 2**bits - 2 steps."""
    steps = min(q.integers.qmax - q.integers.qmin for q in qdq.find(student))
    return BOUND if steps >= 2**4 - 2 else BOUND_BELOW_4_BITS


# ---- the command ----


def render(c: Comparison) -> str:
    """What was found, as text."""
    verdict = "ok" if c.agreement >= c.bound else "TOO LOW"
    lines = [
        f"{c.student}, onnxruntime {c.onnxruntime}: top-1 agreement {100 * c.agreement:.2f} % of {c.count:,} images, "
        f"at least {100 * c.bound:g} % wanted: {verdict}",
        f"  logits differ on {c.differing_images:,} images, by at most {c.largest_steps:.1f} steps, "
        f"{c.mean_steps:.5f} on average",
    ]
    if c.float_nodes:
        lines.append(
            f"  {c.float_nodes} {'/'.join(HEAVY[:3])} nodes stay in floats: this runtime does not run all of it in integers"
        )
    if c.traced_images:
        kinds = ", ".join(sorted({cause.kind for cause in c.causes})) or "all integers are equal and exact"
        lines.append(f"  {c.traced_images} of them traced: {kinds}")
    if c.causes:
        lines.append(f"  {'first':>6} {'simulated':>9} {'exported':>8} {'from a tie':>10}  cause")
        lines += [
            f"  {x.first:6} {x.simulated:9} {x.exported:8} {x.tie_distance:10.1e}  {x.kind}, {x.operator} of {x.value}"
            for x in c.causes
        ]
    return "\n".join(lines)


def folders(options: argparse.Namespace) -> list[Path]:
    """The students asked for, or every folder of --runs that holds both files. Raises InputError when there are none."""
    found = options.student or sorted(
        path.parent for path in options.runs.glob(f"**/{SIMULATED}") if (path.parent / EXPORTED).is_file()
    )
    if not found:
        raise InputError(
            f"no folder under {options.runs} holds {SIMULATED} and {EXPORTED}; "
            "make them with `make results` or give --student."
        )
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--student", type=Path, action="append", help=f"a folder with {SIMULATED} and {EXPORTED}; may be repeated"
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/results"), help="where to look for such folders without --student"
    )
    parser.add_argument("--data", type=Path, default=Path("data/t10k-images-idx3-ubyte.gz"), help="images to compare on")
    parser.add_argument("--python", default=".venv-deploy/bin/python", help="a Python that has the newest stock onnxruntime")
    parser.add_argument(
        "--bound", type=float, help=f"least top-1 agreement; default {BOUND}, and {BOUND_BELOW_4_BITS} below 4 bits"
    )
    parser.add_argument(
        "--trace", type=int, default=100, help="images to trace of those that differ; 0: all (about 0.2 s each)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args(arguments)
    results = []
    try:
        for folder in folders(options):
            for result in compare(folder, options.data, [sys.executable, options.python], options.bound, options.trace):
                results.append(result)
                print(render(result), file=sys.stderr if options.json else sys.stdout, flush=True)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(
            json.dumps(
                [{**asdict(c), "causes": [{**asdict(x), "kind": x.kind} for x in c.causes]} for c in results], indent=1
            )
        )
    return 0 if all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
