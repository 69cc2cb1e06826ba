"""Simulation against deployment: how often a student's exported file answers as its simulation does, and why not where it does not.

Simulated: trained.qdq.onnx, its nodes exactly as they stand, in floats. Exported: student.int8.onnx as a runtime optimizes it, in
integers; once in this environment and once in that of --python. Images whose logits differ are traced: every quantized value of both
runs is compared with the exact one, computed in float64 from the very integers that its operator read in that run. Two runs that
never depart from the exact integers cannot differ, so the departures are the whole cause. A departure where the exact value lies
within TIE of the rounding that was found is a rounding tie, which float32 decides either way; any other is unexplained.

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
from onnx import helper
from onnx.reference import ReferenceEvaluator

from onnx_distill import numerics, qdq, runtime
from onnx_distill import model as models
from onnx_distill.data import Preprocess, open_images
from onnx_distill.errors import InputError
from onnx_distill.evaluate import agreement, with_output
from onnx_distill.logits import find_logits
from onnx_distill.model import array, consumers, initializers, producers
from onnx_distill.qdq import Quantizer

SIMULATED, EXPORTED = "trained.qdq.onnx", "student.int8.onnx"
STOCK_PREDICT = Path(__file__).with_name("stock_predict.py")
BATCH = 50  # images at a time; the exact values are float64, and im2col makes nine of each
TIE = 1e-4  # steps: float32 keeps 24 bits, so a sum that passes through a few thousand steps is off by so much
BOUND, BOUND_BELOW_4_BITS = 0.999, 0.995  # of top-1 agreement
MOVING = ("Transpose", "Clip", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "MaxPool", "Identity")  # integers pass through


@dataclass(frozen=True)
class Cause:
    """One quantized value at which a run departs from exact rounding.

    operator: what computes it in the exported run. first: images in which it is the first value that differs.
    simulated, exported: elements whose integer is not the exact one, in each run. tie_distance: steps between the exact value of
    such an element and the nearest one that rounds to what was found, at most.
    """

    value: str
    operator: str
    first: int
    simulated: int
    exported: int
    tie_distance: float

    @property
    def kind(self) -> str:
        return "rounding tie" if self.tie_distance <= TIE else "UNEXPLAINED"


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
    traced_images: int
    causes: list[Cause]


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
            done = subprocess.run([python, str(STOCK_PREDICT), *files], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        except OSError as error:
            raise InputError(f"cannot run {python}: {error.strerror}. Make it with `make deploy-check`, or give --python.") from None
        if done.returncode:
            raise InputError(f"{python} {STOCK_PREDICT.name} failed: {(done.stderr.strip() or 'it said nothing').splitlines()[-1]}")
        with np.load(files[2]) as stored:
            outputs = {value.name: stored[f"arr_{number}"] for number, value in enumerate(model.graph.output)}
        return Deployed(outputs, done.stdout.strip(), onnx.load(files[3]))


# ---- exact values ----


def activations(model: onnx.ModelProto) -> dict[str, Quantizer]:
    """Name of the integers -> their quantizer, for every quantized activation in graph order."""
    constants, made_by = initializers(model), producers(model)
    found = [q for q in qdq.find(model) if not q.stored and q.source not in constants]
    return {made_by[q.result].input[0]: q for q in found}


def exact_steps(model: onnx.ModelProto, quantizer: Quantizer, known: dict[str, np.ndarray]) -> np.ndarray:
    """The quantizer's input in its own steps, before rounding and zero point; float64.

    known: the image and every activation's integers, by name. The operators up to the next DequantizeLinear run in float64;
    an int32 bias counts in steps of input scale times weight scale, not of their product in float32.
    """
    made_by, wanted, feeds, stack = producers(model), set(), {}, [quantizer.source]
    known = {**{name: array(tensor) for name, tensor in initializers(model).items()}, **known}
    while stack:
        name = stack.pop()
        node = made_by.get(name)
        if node is None or node.op_type == "DequantizeLinear":
            feeds[name] = _double(known[name]) if node is None else _dequantized(model, node, known)
        elif node.output[0] not in wanted:
            wanted.add(node.output[0])
            stack += [value for value in node.input if value]
    nodes = [node for node in model.graph.node if node.output[0] in wanted]
    real = _evaluate(model, nodes, feeds, quantizer.source) if nodes else feeds[quantizer.source]
    return real / _double(numerics.broadcastable(known[quantizer.scale], real.ndim, quantizer.axis))


def _dequantized(model: onnx.ModelProto, node: onnx.NodeProto, known: dict[str, np.ndarray]) -> np.ndarray:
    integers, scale = known[node.input[0]], _double(known[node.input[1]])
    if integers.dtype == np.int32:
        made_by, reader = producers(model), consumers(model)[node.output[0]][0]
        sides = [known[made_by[name].input[1]] for name in reader.input[:2]]
        return integers * (_double(sides[0]) * _double(sides[1]))
    zero_point = known[node.input[2]].astype(np.int64) if len(node.input) > 2 else np.int64(0)
    if scale.size > 1:
        shape = [1] * integers.ndim
        shape[models.attribute(node, "axis", 1)] = -1
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape) if zero_point.size > 1 else zero_point
    return (integers.astype(np.int64) - zero_point) * scale


def _double(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float64) if values.dtype == np.float32 else values


def _evaluate(model: onnx.ModelProto, nodes: list[onnx.NodeProto], feeds: dict[str, np.ndarray], result: str) -> np.ndarray:
    inputs = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), None) for name, value in feeds.items()]
    outputs = [helper.make_tensor_value_info(result, onnx.TensorProto.DOUBLE, None)]
    graph = helper.make_graph(nodes, "exact", inputs, outputs)
    made = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return ReferenceEvaluator(made).run(None, feeds)[0]


@dataclass(frozen=True)
class Departures:
    """Elements of a value whose integer is not the exact one: how many, and the largest tie distance."""

    count: int
    tie_distance: float


def departures(model: onnx.ModelProto, integers: str, quantizer: Quantizer, known: dict[str, np.ndarray]) -> Departures:
    """How one value of a run departs from clamp(round_half_even(exact)); known: all integers of that run, and the image."""
    zero_point = array(initializers(model)[quantizer.zero_point]).astype(np.int64) if quantizer.zero_point else 0
    low, high = quantizer.integers.qmin - zero_point, quantizer.integers.qmax - zero_point
    constants = initializers(model)
    count, furthest = 0, 0.0
    for i in range(0, len(known[integers]), BATCH):
        part = {name: value[i : i + BATCH] for name, value in known.items() if name not in constants}
        exact = np.clip(exact_steps(model, quantizer, part), low, high)
        found = part[integers].astype(np.int64) - zero_point
        off = found != np.rint(exact)
        count += int(off.sum())
        furthest = max(furthest, float((np.abs(exact - found)[off] - 0.5).max(initial=0.0)))
    return Departures(count, furthest)


# ---- one student ----


def trace(models_: tuple[onnx.ModelProto, onnx.ModelProto], logits: tuple[np.ndarray, np.ndarray], images: np.ndarray, python: str) -> list[Cause]:
    """The causes, in graph order, of the differences between simulated and exported model on these images.

    logits: what the two said without being watched. Raises InputError where watching changes an answer, as it would where an
    exposed value kept the runtime from fusing it.
    """
    watched = activations(models_[1])
    exposed = [_exposed(model, watched) for model in models_]
    made = deployed(python, exposed[1], images)
    runs = [simulated(exposed[0], images), made.outputs]
    value = find_logits(models_[1]).value
    if not all(np.array_equal(run[value], said) for run, said in zip(runs, logits)):
        raise InputError(f"exposing the quantized values changes the answers of onnxruntime {made.version}: what is fused then is not what was measured.")
    image = models.image_input(models_[1]).name
    known = [{image: images, **{name: run[name] for name in watched}} for run in runs]
    first = _first_difference(*known, list(watched))
    causes = []
    for name, quantizer in watched.items():
        simulation, deployment = (departures(models_[1], name, quantizer, run) for run in known)
        furthest = max(simulation.tie_distance, deployment.tie_distance)
        cause = Cause(name, fused_operator(made.optimized, name), first[name], simulation.count, deployment.count, furthest)
        if cause.first or cause.simulated or cause.exported:
            causes.append(cause)
    return causes


def _exposed(model: onnx.ModelProto, values) -> onnx.ModelProto:
    """The model with the logits and these values as outputs too."""
    for value in [find_logits(model).value, *values]:
        model = with_output(model, value)
    return model


def _first_difference(a: dict[str, np.ndarray], b: dict[str, np.ndarray], names: list[str]) -> dict[str, int]:
    """Value -> images in which it is the first, in the order of `names`, that differs."""
    seen, first = np.zeros(len(a[names[0]]), bool), {}
    for name in names:
        new = (a[name] != b[name]).reshape(len(seen), -1).any(axis=1) & ~seen
        first[name] = int(new.sum())
        seen |= new
    return first


def fused_operator(optimized: onnx.ModelProto, value: str) -> str:
    """The operator that computes a value's integers in the graph that the runtime made."""
    made_by = producers(optimized)
    node = made_by.get(value)
    while node is not None and node.op_type in MOVING:
        node = made_by.get(node.input[0])
    return node.op_type if node is not None else "none"


def logits_step(model: onnx.ModelProto) -> float:
    """The scale of the last quantizer before the logits; 1 where there is none."""
    made_by, node = producers(model), producers(model)[find_logits(model).value]
    while node is not None and node.op_type in MOVING:
        node = made_by.get(node.input[0])
    quantized = node is not None and node.op_type == "DequantizeLinear"
    return float(array(initializers(model)[node.input[1]])) if quantized else 1.0


def compare(folder: Path, data: Path, pythons: list[str], bound: float | None = None, traced: int = 100) -> list[Comparison]:
    """One Comparison for each Python's onnxruntime. traced: images to trace of those that differ; 0: all."""
    student, exported = models.load(folder / SIMULATED), models.load(folder / EXPORTED)
    images = open_images(data, preprocess=Preprocess.of(exported))
    images = images.read(np.arange(len(images)))
    value, step = find_logits(exported).value, logits_step(exported)
    wanted = simulated(with_output(student, value), images)[value]
    bits = min(q.integers.qmax - q.integers.qmin for q in qdq.find(student))
    bound = bound if bound is not None else (BOUND if bits >= 14 else BOUND_BELOW_4_BITS)
    results = []
    for python in pythons:
        made = deployed(python, with_output(exported, value), images)
        found = made.outputs[value]
        steps = np.abs(found.astype(np.float64) - wanted) / step
        differing = np.flatnonzero(steps.any(axis=1))
        chosen = differing[: traced or None]
        causes = trace((student, exported), (wanted[chosen], found[chosen]), images[chosen], python) if len(chosen) else []
        results.append(
            Comparison(
                *(folder.name, made.version, len(images), agreement(wanted, found), bound),
                *(len(differing), float(steps.max()), float(steps.mean()), len(chosen), causes),
            )
        )
    return results


# ---- the command ----


def render(c: Comparison) -> str:
    """What was found, as text."""
    verdict = "ok" if c.agreement >= c.bound else "TOO LOW"
    lines = [
        f"{c.student}, onnxruntime {c.onnxruntime}: top-1 agreement {100 * c.agreement:.2f} % of {c.count:,} images, "
        f"at least {100 * c.bound:g} % wanted: {verdict}",
        f"  logits differ on {c.differing_images:,} images, by at most {c.largest_steps:.1f} and on average {c.mean_steps:.5f} steps",
    ]
    if c.traced_images:
        lines.append(f"  {c.traced_images} of them traced: {', '.join(sorted({cause.kind for cause in c.causes}))}")
        lines.append(f"  {'first':>6} {'simulated':>9} {'exported':>8} {'from a tie':>10}  cause")
        lines += [
            f"  {x.first:6} {x.simulated:9} {x.exported:8} {x.tie_distance:10.1e}  {x.kind}, {x.operator} of {x.value}" for x in c.causes
        ]
    return "\n".join(lines)


def folders(options: argparse.Namespace) -> list[Path]:
    """The students asked for, or every folder of --runs that holds both files. Raises InputError when there are none."""
    found = options.student or sorted(path.parent for path in options.runs.glob(f"**/{SIMULATED}") if (path.parent / EXPORTED).is_file())
    if not found:
        raise InputError(f"no folder under {options.runs} holds {SIMULATED} and {EXPORTED}; make them with `make results` or give --student.")
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--student", type=Path, action="append", help=f"a folder with {SIMULATED} and {EXPORTED}; may be repeated")
    parser.add_argument("--runs", type=Path, default=Path("runs/results"), help="where to look for such folders without --student")
    parser.add_argument("--data", type=Path, default=Path("data/t10k-images-idx3-ubyte.gz"), help="images to compare on")
    parser.add_argument("--python", default=".venv-deploy/bin/python", help="a Python that has the newest stock onnxruntime")
    parser.add_argument("--bound", type=float, help=f"least top-1 agreement; default {BOUND}, and {BOUND_BELOW_4_BITS} below 4 bits")
    parser.add_argument("--trace", type=int, default=100, help="images to trace of those that differ; 0: all (about 0.2 s each)")
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
        print(json.dumps([{**asdict(c), "causes": [{**asdict(x), "kind": x.kind} for x in c.causes]} for c in results], indent=1))
    return 1 if any(result.agreement < result.bound for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
