"""Where a student's quantization hurts: noise, clipping and unused levels of each quantized value, beside the teacher's.

Two noises are told apart, as in onnxruntime.quantization.qdq_loss_debug (qdq_err and xmodel_err): what a quantizer makes of the
teacher's own values, which shows where noise arises, and how far the student's value is from the teacher's, which shows what has
gathered on the way. Rounding alone is 6 dB for each bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_distill import qdq, runtime
from onnx_distill.columns import aligned
from onnx_distill.errors import InputError
from onnx_distill.integer_form.equalize import as_equalized
from onnx_distill.lookup import array, image_input, initializers, producers
from onnx_distill.numerics import broadcastable, dequantize, fake_quantize, quantize
from onnx_distill.qdq import Quantizer
from onnx_distill.quantization.layer_bits import layer_names, without_aliases


@dataclass(frozen=True)
class Layer:
    """One quantized value. Decibels: signal to quantization noise, 10 log10(sum t^2 / sum (t - s)^2); inf without noise."""

    value: str
    kind: str  # weight | activation
    bits: int
    noise_db: float | None  # of the teacher's value t and the student's s; None where the teacher has no such value
    clipped: float  # share of the values (the teacher's, where it has them) that lie more than half a step outside the range
    unused: float  # dead range: share of the levels that no value takes
    layer: str = ""  # the node that reads the weight or makes the activation, see layer_bits
    own_db: float | None = None  # of the teacher's value t and what this quantizer alone makes of it


@dataclass
class _Sums:
    signal: float = 0.0
    noise: float = 0.0
    own: float = 0.0
    count: int = 0
    clipped: int = 0
    seen: np.ndarray | None = None


def compare(
    teacher: onnx.ModelProto, student: onnx.ModelProto, batches: Iterable[np.ndarray], threads: int = 0
) -> list[Layer]:
    """A Layer for each quantizer of a QDQ student in graph order, over float32 batches [n, channels, height, width].

    Those that pass on the integers of another, behind a Reshape or MaxPool, are left out. Memory: the quantized values of one batch. Raises InputError for a student without float quantizers, or no images.
    """
    teacher = as_equalized(teacher, student)
    constants = initializers(student)
    found = [q for q in qdq.find(student) if not q.stored]
    weights, activations = ([q for q in found if (q.source in constants) == wanted] for wanted in (True, False))
    activations = without_aliases(activations)
    quantizers = [q for q in found if q in weights or q in activations]
    if not quantizers:
        raise InputError(
            "the student has no quantizers that start from floats; give the QDQ model of `quantize` or `train`."
        )
    sums = _activation_sums(teacher, student, activations, batches, threads)
    sums.update({q.result: _weight_sums(q, constants, initializers(teacher)) for q in weights})
    names = layer_names(student)
    return [_layer(q, names[q.result], sums[q.result], "weight" if q in weights else "activation") for q in quantizers]


def _activation_sums(teacher, student, quantizers: list[Quantizer], batches, threads: int) -> dict[str, _Sums]:
    made = set(producers(teacher)) | {image_input(teacher).name}
    partner = {q.result: qdq.stands_for(q, made) for q in quantizers}
    ours = _Values(student, [name for q in quantizers for name in (q.source, q.result)], threads)
    theirs = _Values(teacher, [name for name in partner.values() if name], threads)
    sums = {q.result: _Sums(seen=np.zeros(q.integers.qmax - q.integers.qmin + 1, bool)) for q in quantizers}
    constants, images = initializers(student), 0
    for batch in batches:
        images += len(batch)
        have, wanted = ours(batch), theirs(batch)
        for q in quantizers:
            _add(sums[q.result], q, have[q.source], have[q.result], wanted.get(partner[q.result] or ""), constants)
    if not images:
        raise InputError("there are no images to compare on; wanted at least one. Check the data's path.")
    return sums


class _Values:
    """Values of a model by name, for one batch after the other."""

    def __init__(self, model: onnx.ModelProto, names: list[str], threads: int):
        self.image, self.names = image_input(model).name, [n for n in dict.fromkeys(names) if n != image_input(model).name]
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        have = {value.name for value in copy.graph.output}
        copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self.names if name not in have)
        self.session = runtime.open_session(copy, threads or None, optimized=False)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return {self.image: images, **dict(zip(self.names, runtime.run(self.session, images, self.names)))}


def _add(sums: _Sums, q: Quantizer, source: np.ndarray, result: np.ndarray, wanted: np.ndarray | None, constants) -> None:
    scale, zero_point = float(array(constants[q.scale]).reshape(-1)[0]), _zero_point(q, constants)
    low, high = ((end - zero_point) * scale for end in (q.integers.qmin - 0.5, q.integers.qmax + 0.5))
    sums.clipped += _outside(source if wanted is None else wanted, low, high)
    sums.count += source.size
    levels = np.rint(result / scale).astype(np.int64).ravel() + zero_point - q.integers.qmin
    sums.seen[np.unique(levels)] = True  # type: ignore[index]  # activations have it
    if wanted is not None:
        sums.signal += float(np.square(wanted, dtype=np.float64).sum())
        sums.noise += _squares(wanted, result)
        sums.own += _squares(wanted, fake_quantize(wanted, scale, zero_point, q.integers.qmin, q.integers.qmax))


def _squares(wanted: np.ndarray, found: np.ndarray) -> float:
    return float(np.square(wanted.astype(np.float64) - found).sum())


def _outside(values: np.ndarray, low: float, high: float) -> int:
    return int(((values < low) | (values > high)).sum())


def _zero_point(q: Quantizer, constants) -> int:
    return int(array(constants[q.zero_point]).reshape(-1)[0]) if q.zero_point else 0


def _weight_sums(q: Quantizer, constants, theirs) -> _Sums:
    weights = array(constants[q.source])
    scale = broadcastable(array(constants[q.scale]), weights.ndim, q.axis)
    zero_point = _zero_point(q, constants)
    integers = quantize(weights, scale, zero_point, q.integers.qmin, q.integers.qmax)
    wanted = array(theirs[q.source]) if q.source in theirs and list(theirs[q.source].dims) == list(weights.shape) else None
    seen = np.isin(np.arange(q.integers.qmin, q.integers.qmax + 1), integers)
    ratio = weights / scale + zero_point
    clipped = _outside(ratio, q.integers.qmin - 0.5, q.integers.qmax + 0.5)
    if wanted is None:
        return _Sums(count=weights.size, clipped=clipped, seen=seen)
    noise = _squares(wanted, dequantize(integers, scale, zero_point))
    own = _squares(wanted, fake_quantize(wanted, scale, zero_point, q.integers.qmin, q.integers.qmax))
    return _Sums(float(np.square(wanted, dtype=np.float64).sum()), noise, own, weights.size, clipped, seen)


def _layer(q: Quantizer, name: str, sums: _Sums, kind: str) -> Layer:
    known = bool(sums.signal or sums.noise)
    noise, own = (_decibel(sums.signal, noise) if known else None for noise in (sums.noise, sums.own))
    unused = 1 - float(sums.seen.mean()) if sums.seen is not None else 0.0
    return Layer(q.source, kind, q.integers.bits, noise, sums.clipped / max(sums.count, 1), unused, name, own)


def _decibel(signal: float, noise: float) -> float:
    if not noise:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def worst_first(layers: Iterable[Layer]) -> list[Layer]:
    """Those whose own quantizers make the most noise first; those that the teacher has no value for last."""
    return sorted(layers, key=lambda layer: math.inf if layer.own_db is None else layer.own_db)


def render_layers(layers: list[Layer], top: int = 0) -> str:
    """One line a quantized value, in the order given; `top` of them, 0: all."""
    heads = ["layer", "", "own noise dB", "gathered dB", "clipped %", "unused %"]
    shown = layers[:top] if top else layers
    left = len(layers) - len(shown)
    return "\n".join([aligned([heads, *map(_cells, shown)], left=2), *([f"and {left} more"] if left else [])])


def _cells(layer: Layer) -> list[str]:
    noises = ["-" if noise is None else f"{noise:.1f}" for noise in (layer.own_db, layer.noise_db)]
    shares = [f"{100 * share:.2f}" for share in (layer.clipped, layer.unused)]
    return [layer.layer, f"{'W' if layer.kind == 'weight' else 'A'}{layer.bits}", *noises, *shares]
