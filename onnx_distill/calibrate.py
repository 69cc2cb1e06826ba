"""Which range each value takes on sample images: one histogram a value, then one of four rules that choose low and high.

The images are gone over once and no activation is kept; one set of histograms serves every rule and every bit width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_distill import numerics, runtime
from onnx_distill.closest import closest
from onnx_distill.edit import fresh_name
from onnx_distill.errors import InputError
from onnx_distill.facts.logits import value_types
from onnx_distill.lookup import image_input, names, producers, shape_of
from onnx_distill.numerics import IntegerRange
from onnx_distill.quantization import histogram as hist
from onnx_distill.quantization.histogram import Histogram

RUN_BYTES = 2**28  # outputs fetched at once; larger batches are run in slices, which the histograms cannot tell


def calibrate(
    model: onnx.ModelProto,
    values: Iterable[str],
    batches: Iterable[np.ndarray] | Callable[[], Iterable[np.ndarray]],
    threads: int | None = None,
    run_bytes: int = RUN_BYTES,
) -> dict[str, Histogram]:
    """Name -> histogram over all batches (float32 [n, channels, height, width]) for the float model's values, its input too.

    Memory: one batch, and run_bytes of outputs (the outputs of one image where that is more; those of the whole batch where
    the model fixes the batch size). Raises InputError for an unknown value, one that is not float32 or not finite, no images.
    """
    wanted = list(dict.fromkeys(values))
    images_name = image_input(model).name
    fetched = [name for name in wanted if name != images_name]
    session = runtime.open_session(_with_outputs(model, fetched), threads)
    _check_float(session, fetched)
    histograms = dict.fromkeys(wanted, hist.EMPTY)
    seen = 0
    for images, outputs in _runs(session, batches() if callable(batches) else batches, fetched, run_bytes):
        seen += len(images)
        for name in wanted:
            array = images if name == images_name else outputs.pop(name)
            histograms[name] = hist.merge(histograms[name], hist.of(array, name))
    if not seen:
        raise InputError(
            "there are no images to calibrate on; wanted at least one. Check the data's path and the image count."
        )
    return histograms


def _with_outputs(model: onnx.ModelProto, values: list[str]) -> onnx.ModelProto:
    """A copy with the values as further graph outputs; the runtime infers their types."""
    made = producers(model)
    for name in values:
        if name not in made:
            raise InputError(f"no value {name!r} to calibrate in the model{closest(name, list(made))}.")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {value.name for value in model.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in values if name not in present)
    return copy


def _check_float(session, values: list[str]) -> None:
    kinds = {value.name: value.type for value in session.get_outputs()}
    for name in values:
        if kinds[name] != "tensor(float)":
            raise InputError(
                f"value {name!r} is a {kinds[name]}; only tensor(float) has a range to calibrate. Leave it out."
            )


def _runs(session, batches, fetched: list[str], run_bytes: int) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """(images, name -> array) run by run: the first image alone tells how many fit run_bytes."""
    sliceable = not isinstance(session.get_inputs()[0].shape[0], int)
    images_per_run = 1
    for batch in batches:
        start = 0
        while start < len(batch):
            images = batch[start : start + images_per_run] if sliceable else batch
            outputs = dict(zip(fetched, runtime.run(session, images, fetched))) if fetched else {}
            size = sum(array.nbytes for array in outputs.values()) // len(images)
            images_per_run = max(1, run_bytes // max(1, size))
            start += len(images)
            yield images, outputs


def mean_squares(
    model: onnx.ModelProto, axes: dict[str, int], batches: Iterable[np.ndarray], threads: int | None = None
) -> dict[str, np.ndarray]:
    """Name -> mean of x^2 of each channel (float64) over all batches, for the float model's values; axes: name -> axis of its channels.

    The runtime adds up each image's, so that no value is handed over and the order of the images moves nothing but a float64's last bit.
    The first axis is the images'.
    """
    copy, taken = onnx.ModelProto(), names(model)
    fetched: list[str] = []
    copy.CopyFrom(model)
    types = value_types(model)
    for value, axis in axes.items():
        square, others, total, size = (fresh_name(f"{value}/{what}", taken) for what in ("square", "others", "sum", "size"))
        rest = [other for other in range(len(shape_of(types[value]))) if other not in (0, axis)]
        copy.graph.initializer.append(numpy_helper.from_array(np.array(rest, np.int64), others))
        copy.graph.node.append(helper.make_node("Mul", [value, value], [square]))
        copy.graph.node.append(helper.make_node("ReduceSum", [square, others], [total], keepdims=0, noop_with_empty_axes=1))
        copy.graph.node.append(helper.make_node("Size", [value], [size]))
        fetched += [total, size]
    copy.graph.output.extend(onnx.ValueInfoProto(name=output) for output in fetched)
    session = runtime.open_session(copy, threads)
    sums: dict[str, np.ndarray] = dict.fromkeys(axes, np.zeros(()))
    counts = dict.fromkeys(axes, 0.0)
    for images in batches:
        found = runtime.run(session, images, fetched)
        for value, added, elements in zip(axes, found[::2], found[1::2]):
            sums[value] = sums[value] + added.astype(np.float64).sum(axis=0)
            counts[value] += float(elements) / added.shape[1]
    return {value: sums[value] / max(counts[value], 1.0) for value in axes}


def choose_range(
    histogram: Histogram, method: str, integers: IntegerRange, symmetric: bool = False, percentile: float | None = None
) -> tuple[float, float]:
    """(low, high) to hand to numerics.range_scale, within the histogram's own; (0, 0) where all values are 0.

    method: a name in METHODS. percentile: for that method alone, 50 to 100; None is 99.99 for 8 bits, 99.7 below.
    """
    if method not in METHODS:
        raise InputError(f"no calibration method {method!r}; there are {', '.join(METHODS)}.")
    if percentile is not None and not 50 <= percentile <= 100:
        raise InputError(f"the percentile is {percentile:g}; wanted 50 to 100, such as 99.99.")
    if histogram.low >= 0 >= histogram.high:
        return 0.0, 0.0
    low, high = METHODS[method](histogram, integers, symmetric, percentile)
    return float(low), float(high)


def minmax(histogram: Histogram, integers: IntegerRange, symmetric: bool, percent: float | None) -> tuple[float, float]:
    """The exact smallest and largest value: nothing is clipped."""
    return histogram.low, histogram.high


def percentile(histogram: Histogram, integers: IntegerRange, symmetric: bool, percent: float | None) -> tuple[float, float]:
    """The range, to a bin, outside which at most 100 - percent % of the values lie; two tails share them equally.

    Where that leaves nothing but zeros (a sparse tensor), nothing is clipped.
    """
    if percent is None:
        percent = 99.99 if integers.qmax - integers.qmin >= 127 else 99.7
    two_sided = histogram.low < 0 < histogram.high
    allowed = histogram.total * (100 - percent) / 100 / (2 if two_sided else 1)
    high = min(_clip_above(histogram.counts, histogram.upper_edges, allowed), histogram.high)
    low = max(-_clip_above(histogram.counts[::-1], histogram.upper_edges, allowed), histogram.low)
    if histogram.low >= 0:
        low = histogram.low
    if histogram.high <= 0:
        high = histogram.high
    return (histogram.low, histogram.high) if max(-low, high) <= histogram.width else (low, high)


def _clip_above(counts: np.ndarray, upper_edges: np.ndarray, allowed: float) -> float:
    """The smallest upper edge with at most `allowed` values above it."""
    above = counts.sum() - np.cumsum(counts)
    return float(upper_edges[np.argmax(above <= allowed)])


def mse(histogram: Histogram, integers: IntegerRange, symmetric: bool, percent: float | None) -> tuple[float, float]:
    """The range of least squared error of numerics.fake_quantize over the bins' centres.

    Searched as (low * a, high * b), a and b from 1 down to 2**-7 in steps of a factor sqrt(2), then three times around the
    best in finer steps, each reaching half of the one before: to 0.4 %. One ratio for both ends where the range is
    symmetric or one-sided, where one end is 0.
    """
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    held = np.flatnonzero(histogram.counts)
    centres, weights = histogram.centres[held], histogram.counts[held].astype(np.float64)

    def error(a: float, b: float) -> float:
        scale, zero_point = numerics.range_scale(low * a, high * b, integers, symmetric)
        rounded = numerics.fake_quantize(centres, scale, zero_point, integers.qmin, integers.qmax)
        return float(weights @ np.square(rounded - centres, dtype=np.float64))

    best = _least(error, [-i / 2 for i in range(15)], (0.0, 0.0), tied=symmetric or low == 0 or high == 0)
    for step in (1 / 6, 1 / 24, 1 / 96):
        best = _least(error, [i * step for i in (0, 1, -1, 2, -2)], best, tied=symmetric or low == 0 or high == 0)
    return low * 2 ** best[0], high * 2 ** best[1]


def _least(error, steps: list[float], start: tuple[float, float], tied: bool) -> tuple[float, float]:
    """The pair of base-2 logarithms, each start + a step and at most 0, with the least error; the first of equals."""
    pairs = [(i, i) for i in steps] if tied else [(i, j) for i in steps for j in steps]
    candidates = dict.fromkeys((min(start[0] + i, 0.0), min(start[1] + j, 0.0)) for i, j in pairs)
    return min(candidates, key=lambda pair: error(2 ** pair[0], 2 ** pair[1]))


def entropy(histogram: Histogram, integers: IntegerRange, symmetric: bool, percent: float | None) -> tuple[float, float]:
    """low..high cut to [-t, t] for the t of least KL(values || quantized values), as TensorRT and onnxruntime choose it.

    256 thresholds, from a range of 128 bins (TensorRT's start; more where there are more levels) up to the largest |x|.
    Levels are those of numerics for that range, so it holds for any bit width, symmetric or not; below 4 bits the levels are
    too few to show a distribution's shape, and mse is the better choice. Zero is exact in every range: bin 0 counts as its
    neighbours' mean, as in NVIDIA's pytorch-quantization, else the zeros of a Relu alone would decide.
    """
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    counts, zero = histogram.counts.astype(np.float64), hist.BINS - 1
    sides = [counts[zero + side] for side, end in ((1, high), (-1, low)) if end]
    counts[zero] = min(counts[zero], np.mean(sides)) if counts.sum() > counts[zero] else counts[zero]
    levels, limit = integers.qmax - integers.qmin + 1, max(-low, high)
    fewest = max(levels, 128) * histogram.width / (2 if low < 0 < high else 1)
    thresholds = np.geomspace(limit, min(fewest, limit), 256)
    held = np.flatnonzero(counts)
    ranges = [(max(low, -t), min(high, t)) for t in thresholds]
    return min(ranges, key=lambda ends: _divergence(histogram.centres[held], counts[held], ends, integers, symmetric))


def _divergence(centres, counts, ends: tuple[float, float], integers: IntegerRange, symmetric: bool) -> float:
    """KL in nats of the values, clipped into low..high, from their levels' counts, each spread evenly over its bins.

    The levels count only values inside low..high: that difference is what clipping costs (TensorRT's definition).
    """
    low, high = ends
    inside = (centres >= low) & (centres <= high)
    if not inside.any():
        return np.inf
    p = counts[inside]
    scale, zero_point = numerics.range_scale(low, high, integers, symmetric)
    level = numerics.quantize(centres[inside], scale, zero_point, integers.qmin, integers.qmax) - integers.qmin
    q = (np.bincount(level, weights=p) / np.maximum(np.bincount(level), 1))[level]
    p[0] += counts[centres < low].sum()
    p[-1] += counts[centres > high].sum()
    p, q = p / p.sum(), q / q.sum()
    return float(p @ np.log(p / q))


METHODS = {"minmax": minmax, "percentile": percentile, "mse": mse, "entropy": entropy}
