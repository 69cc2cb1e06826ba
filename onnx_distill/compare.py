"""Where a student's quantization hurts: noise, clipping and unused levels of each quantized value, beside the teacher's."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_distill import qdq, runtime
from onnx_distill.errors import InputError
from onnx_distill.model import array, image_input, initializers, producers
from onnx_distill.numerics import broadcastable, dequantize, quantize
from onnx_distill.qdq import Quantizer


@dataclass(frozen=True)
class Layer:
    """One quantized value. noise_db: signal to quantization noise, 10 log10(sum t^2 / sum (t - s)^2), of teacher t and student s."""

    value: str
    kind: str  # weight | activation
    bits: int  # log2 of the number of levels, rounded up
    noise_db: float | None  # None where the teacher has no such value
    clipped: float  # share of the values (the teacher's, where it has them) that lie outside the range
    unused: float  # share of the levels that no value takes


@dataclass
class _Sums:
    signal: float = 0.0
    noise: float = 0.0
    count: int = 0
    clipped: int = 0
    seen: np.ndarray | None = None


def compare(
    teacher: onnx.ModelProto, student: onnx.ModelProto, batches: Iterable[np.ndarray], threads: int = 0
) -> list[Layer]:
    """A Layer for each quantizer of a QDQ student in graph order, over float32 batches [n, channels, height, width].

    Memory: the quantized values of one batch. Raises InputError for a student without float quantizers, or no images.
    """
    quantizers = [q for q in qdq.find(student) if not q.stored]
    if not quantizers:
        raise InputError(
            "the student has no quantizers that start from floats; give the QDQ model of `quantize` or `train`."
        )
    constants = initializers(student)
    weights = [q for q in quantizers if q.source in constants]
    activations = [q for q in quantizers if q.source not in constants]
    sums = _activation_sums(teacher, student, activations, batches, threads)
    sums.update({q.result: _weight_sums(q, constants, initializers(teacher)) for q in weights})
    return [_layer(q, sums[q.result], "weight" if q.source in constants else "activation") for q in quantizers]


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
    low, high = ((end - zero_point) * scale for end in (q.integers.qmin, q.integers.qmax))
    sums.clipped += _outside(source if wanted is None else wanted, low, high)
    sums.count += source.size
    levels = np.rint(result / scale).astype(np.int64).ravel() + zero_point - q.integers.qmin
    sums.seen[np.unique(levels)] = True  # type: ignore[index]  # activations have it
    if wanted is not None:
        sums.signal += float(np.square(wanted, dtype=np.float64).sum())
        sums.noise += float(np.square(wanted.astype(np.float64) - result).sum())


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
    noise = np.square(wanted.astype(np.float64) - dequantize(integers, scale, zero_point)).sum()
    return _Sums(float(np.square(wanted, dtype=np.float64).sum()), float(noise), weights.size, clipped, seen)


def _layer(q: Quantizer, sums: _Sums, kind: str) -> Layer:
    levels = q.integers.qmax - q.integers.qmin + 1
    noise = None if not sums.signal and not sums.noise else _decibel(sums)
    unused = 1 - float(sums.seen.mean()) if sums.seen is not None else 0.0
    return Layer(q.source, kind, math.ceil(math.log2(levels)), noise, sums.clipped / max(sums.count, 1), unused)


def _decibel(sums: _Sums) -> float:
    if not sums.noise:
        return math.inf
    return 10 * math.log10(sums.signal / sums.noise) if sums.signal else -math.inf
