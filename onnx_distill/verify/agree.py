"""An exported student under several runtimes: do they give the answers of the simulation that was trained, and if not, why.

Simulation: the nodes exactly as they stand, in floats. A runtime: its own optimizations, in integers. Logits are compared in
steps of the quantizer in front of them; images on which they differ are traced to the first quantized value that differs, and
every departure from exact rounding is found (trace.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import onnx

from onnx_distill import qdq, runtime
from onnx_distill.data import Images
from onnx_distill.edit import prune
from onnx_distill.errors import InputError
from onnx_distill.evaluate import agreement, top_k, with_output
from onnx_distill.facts.logits import find_logits
from onnx_distill.facts.provenance import provenance
from onnx_distill.lookup import array, initializers, producers
from onnx_distill.verify.environments import BATCH, Answers, Runtime, answers
from onnx_distill.verify.saturated import saturable
from onnx_distill.verify.trace import MOVING, Departure, activations, departures, first_differences

BOUND, BOUND_BELOW_4_BITS = 0.999, 0.995  # of top-1 agreement
SIMULATION = "simulation"
ONE_STEP = 1.001  # logits are products of a step and an integer, in float32
HEAVY = ("Conv", "MatMul", "Gemm", "FusedConv", "FusedMatMul", "FusedGemm")  # what should have become integer operators


@dataclass(frozen=True)
class Runner:
    """What one runtime made of the student. departures: on the traced images; untraceable: why there are none to be had."""

    name: str
    version: str
    top1: float | None
    teacher_agreement: float | None
    float_nodes: int | None  # HEAVY nodes that it leaves in floats; None where it does not tell
    departures: tuple[Departure, ...] = ()
    untraceable: str = ""


@dataclass(frozen=True)
class Pair:
    """Two of them side by side; differences are of logits in output steps, the mean over all of them."""

    first: str
    second: str
    agreement: float
    differing_images: int
    largest_steps: float
    mean_steps: float
    first_differences: dict[str, int]  # quantized value -> traced images in which it is the first that differs


@dataclass(frozen=True)
class Verification:
    """Runtimes, the simulation first, and every pair of them."""

    images: int
    bound: float  # of every pair's agreement
    beyond_a_step: int  # images with a logit that some runtime puts more than one output step from the simulation's
    traced: int  # of the images that differ at all, those with the largest differences
    runners: tuple[Runner, ...]
    pairs: tuple[Pair, ...]

    @property
    def passed(self) -> bool:
        return all(pair.agreement >= self.bound for pair in self.pairs)


def verify(
    student: onnx.ModelProto,
    runtimes: Sequence[Runtime],
    images: Images,
    teacher_logits: np.ndarray | None = None,
    simulation: onnx.ModelProto | None = None,
    bound: float | None = None,
    trace: int = 20,
    threads: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> Verification:
    """The exported student under each runtime and as simulated, on all images.

    simulation: the QDQ student that was trained; None: the exported nodes as they stand. bound: least top-1 agreement of a
    pair; None: BOUND, or BOUND_BELOW_4_BITS where a quantizer has fewer than 4 bits. trace: images to trace of those that
    differ, the largest differences first. Raises InputError where a runtime cannot run the student.
    """
    quantizers = qdq.find(student)
    if not quantizers:
        raise InputError("the student has no quantizers; wanted an exported QDQ model, such as run/student.int8.onnx.")
    value, pixels = logits_value(student), images.read(np.arange(len(images)))
    model, simulated = with_output(student, value), with_output(simulation or student, value)
    tell(SIMULATION)
    found = {SIMULATION: Answers(runtime.ort.__version__, simulate(simulated, pixels, threads))}
    for one in runtimes:
        tell(one.name)
        found[one.name] = answers(one, model, pixels, threads)
    logits = {name: _rank_two(made.outputs[value]) for name, made in found.items()}
    step, values = logits_step(student, value), list(activations(student))
    apart = np.max([_steps(each, logits[SIMULATION], step).max(axis=1) for each in logits.values()], axis=0)
    differing = np.argsort(-apart, kind="stable")[: min(max(trace, 0), np.count_nonzero(apart))]
    runs, untraceable = {}, {}
    if len(differing):
        tell(f"tracing {len(differing)} images")
        runs, untraceable = _watched(student, simulation or student, value, runtimes, logits, differing, pixels, threads)
    kinds = {SIMULATION: SIMULATION, **{one.name: one.kind for one in runtimes}}
    runners = [
        Runner(
            name,
            made.version,
            None if images.labels is None else top_k(logits[name], images.labels, 1),
            None if teacher_logits is None else agreement(teacher_logits, logits[name]),
            float_nodes(made.optimized) if made.optimized is not None else None,
            tuple(
                departures(
                    student, pixels[differing], runs[name].outputs, runs[name].optimized, saturable(student, kinds[name])
                )
            )
            if name in runs
            else (),
            untraceable.get(name, ""),
        )
        for name, made in found.items()
    ]
    pairs = [_pair(a, b, logits[a], logits[b], step, runs, values) for a, b in combinations(found, 2)]
    limit = bound if bound is not None else default_bound(quantizers)
    beyond = int((apart > ONE_STEP).sum())
    return Verification(len(images), limit, beyond, len(differing), tuple(runners), tuple(pairs))


def _steps(ours: np.ndarray, theirs: np.ndarray, step: float) -> np.ndarray:
    return np.abs(ours.astype(np.float64) - theirs) / step


def _pair(a: str, b: str, ours: np.ndarray, theirs: np.ndarray, step: float, runs, values: list[str]) -> Pair:
    steps = _steps(ours, theirs, step)
    first = first_differences(runs[a].outputs, runs[b].outputs, values) if a in runs and b in runs else {}
    count = int(steps.any(axis=1).sum())
    return Pair(a, b, agreement(ours, theirs), count, float(steps.max()), float(steps.mean()), first)


def _watched(student, simulation, value: str, runtimes, logits, differing: np.ndarray, pixels: np.ndarray, threads: int):
    """Name -> its Answers on the differing images with every quantized activation among them, and name -> why there are none.

    In full batches, as they were answered the first time: float sums come in another order where a batch has another size. OpenVINO
    fuses no sum whose operands are watched, and adds in another order then: where that moves an answer, each value is the only
    output of a model that ends there.
    """
    watched = [value, *activations(student)]
    size = min(BATCH, len(pixels))
    few = pixels[np.resize(differing, -(-len(differing) // size) * size)]
    runs: dict[str, Answers] = {}
    untraceable: dict[str, str] = {}
    for one in [None, *runtimes]:
        name = SIMULATION if one is None else one.name
        try:
            if one is None:
                made = Answers("", simulate(exposed(simulation, watched), few, threads))
            else:
                made = answers(one, exposed(student, watched), few, threads)
        except InputError as error:
            untraceable[name] = str(error)
            continue
        found = {output: integers[: len(differing)] for output, integers in made.outputs.items()}
        if (
            one is not None
            and one.kind == "openvino"
            and not np.array_equal(_rank_two(found[value]), logits[name][differing])
        ):
            found = {end: answers(one, ending_at(student, end), few, threads).outputs[end] for end in watched}
            found = {end: integers[: len(differing)] for end, integers in found.items()}
        if np.array_equal(_rank_two(found[value]), logits[name][differing]):
            runs[name] = Answers(made.version, found, made.optimized)
        else:
            untraceable[name] = (
                "its answers are others while its inner values are watched: it fuses over a quantizer, or sums floats in another order"
            )
    return runs, untraceable


def simulate(model: onnx.ModelProto, images: np.ndarray, threads: int = 0) -> dict[str, np.ndarray]:
    """Every output of the nodes exactly as they stand, by name."""
    session = runtime.open_session(model, threads or None, optimized=False)
    fixed = session.get_inputs()[0].shape[0]
    size = fixed if isinstance(fixed, int) else BATCH
    count = len(images)
    images = images[np.resize(np.arange(count), -(-count // size) * size)] if isinstance(fixed, int) else images
    parts = [runtime.run(session, images[i : i + size]) for i in range(0, len(images), size)]
    return dict(zip([value.name for value in model.graph.output], (np.concatenate(part)[:count] for part in zip(*parts))))


def exposed(model: onnx.ModelProto, values: list[str]) -> onnx.ModelProto:
    """The model with these values as outputs too; the integers that a quantizer gives do not stop onnxruntime's fusion."""
    for value in values:
        model = with_output(model, value)
    return model


def ending_at(model: onnx.ModelProto, value: str) -> onnx.ModelProto:
    """The part of the model that makes the value, which is its only output."""
    made = with_output(model, value)
    kept = [output for output in made.graph.output if output.name == value]
    del made.graph.output[:]
    made.graph.output.extend(kept)
    prune(made)
    return made


def logits_value(exported: onnx.ModelProto) -> str:
    """The value that teacher and student were cut at: as the file says, for rewrites may have renamed what feeds its Softmax."""
    said = provenance(exported).get("logits")
    return said if said in producers(exported) else find_logits(exported).value


def logits_step(model: onnx.ModelProto, logits: str) -> float:
    """The scale of the last quantizer before the logits; 1 where there is none."""
    made_by = producers(model)
    node = made_by.get(logits)
    while node is not None and node.op_type in MOVING:
        node = made_by.get(node.input[0])
    if node is None or node.op_type != "DequantizeLinear":
        return 1.0
    return float(array(initializers(model)[node.input[1]]).reshape(-1)[0])


def float_nodes(optimized: onnx.ModelProto) -> int:
    return sum(node.op_type in HEAVY for node in optimized.graph.node)


def default_bound(quantizers: list[qdq.Quantizer]) -> float:
    """By the fewest bits of any quantizer; a narrow range has 2**bits - 2 steps."""
    steps = min(q.integers.qmax - q.integers.qmin for q in quantizers)
    return BOUND if steps >= 2**4 - 2 else BOUND_BELOW_4_BITS


def _rank_two(scores: np.ndarray) -> np.ndarray:
    return scores.reshape(len(scores), -1)
