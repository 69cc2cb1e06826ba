"""A float model made ready for its quantizers and calibrated once: from there every choice of bits is a QDQ model away."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Iterable

import numpy as np
import onnx

from onnx_distill import __version__
from onnx_distill.calibrate import calibrate, choose_range, mean_squares
from onnx_distill.config import QuantizeConfig
from onnx_distill.data import Images, batches, held_out_count
from onnx_distill.errors import InputError
from onnx_distill.facts.provenance import stamp
from onnx_distill.integer_form import integer_form
from onnx_distill.integer_form.equalize import channel_axes, equalized
from onnx_distill.normalize import normalize_in_place
from onnx_distill.normalize.batch import require_free
from onnx_distill.normalize.image_form import as_images, with_float_logits
from onnx_distill.normalize.prepare import pinned_to, prepare
from onnx_distill.normalize.trace import first_empty
from onnx_distill.placement import Plan, plan, with_node_names
from onnx_distill.quantization.histogram import Histogram
from onnx_distill.quantization.layer_bits import bits_summary, layer_bits
from onnx_distill.quantize import quantize, with_quantizable_opset
from onnx_distill.rounding.compensated import compensated

BATCH, ROUNDING_BATCH = 64, 16  # images
PIXELS, FEWEST_IMAGES = (
    2**23,
    128,
)  # of the images that weights are rounded on: of large ones, few show a layer many inputs each
FEW_BITS = (
    6  # of weights; with more, to round them to the nearest loses nothing that compensation wins back: docs/experiments.md
)
MOST_BITS = 8  # with which no target has fewer quantizers than with less


@dataclass(frozen=True)
class Calibrated:
    """model: float, ends in its logits, equalised, its nodes named and in the form that integers run in. histograms: of each activation
    that a quantizer may stand at, whatever the bits."""

    model: onnx.ModelProto
    histograms: dict[str, Histogram]
    images: int


def calibrated(model: onnx.ModelProto, images: Images, config: QuantizeConfig, threads: int = 0) -> Calibrated:
    """The float model normalized, equalised where weights have a scale per channel, and calibrated on all of the images; of the configuration all but the bits counts.

    Height and width that the model leaves free are pinned to the images' own.
    """
    read = lambda: (batch.images for batch in batches(images, BATCH))  # noqa: E731
    prepared = with_quantizable_opset(with_node_names(ready(model, image_shape(images))))
    if config.per_channel:  # rows that share a scale lose by it: docs/experiments.md
        prepared = _equalized(prepared, read(), threads or None)
    prepared = integer_form(prepared, config.exclude, bool(config.symmetric))
    values = [site.value for site in plan(prepared, replace(config, activation_bits=MOST_BITS)).activations]
    found = calibrate(prepared, values, read, threads or None)
    return Calibrated(prepared, found, len(images))


def _equalized(model: onnx.ModelProto, read: Iterable[np.ndarray], threads: int | None) -> onnx.ModelProto:
    axes = channel_axes(model)
    return equalized(model, mean_squares(model, axes, read, threads)) if axes else model


def drawn(images: Images, count: int, seed: int, held_out: int | None = None) -> Images:
    """`count` of the images at random, fewer where there are fewer; none of the `held_out` (None: data.held_out_count) that data.split
    keeps apart with this seed: images that a student was made with cannot say which student is the best one."""
    others = len(images) - (held_out_count(len(images)) if held_out is None else held_out)
    order = np.random.default_rng(seed).permutation(len(images))[::-1]
    return images.subset(order[: max(1, min(count, others))])


def image_shape(images: Images) -> tuple[int, ...]:
    """[channels, height, width] of the images as they are handed out."""
    return tuple(images.read(np.arange(1)).shape[1:])


def ready(model: onnx.ModelProto, shape: tuple[int, ...]) -> onnx.ModelProto:
    """The float model, ending in its logits, normalized for float32 images [channels, height, width] in batches of any size.

    Raises InputError where the batch is fixed and cannot be freed, or where images of that shape are too small.
    """
    made = pinned_to(with_float_logits(as_images(prepare(model))), shape)
    empty = first_empty(made)
    if empty is not None:
        raise InputError(
            f"of images {'x'.join(map(str, shape))} nothing is left at {empty}; wanted larger ones. See --input-shape."
        )
    made, _ = normalize_in_place(made)
    require_free(made)
    return made


def quantized(source: Calibrated, config: QuantizeConfig) -> onnx.ModelProto:
    """The QDQ model, with how it was quantized in its metadata."""
    sites = plan(source.model, config)
    made = quantize(source.model, sites, activation_ranges(source, sites, config), config)
    facts = {"target": config.target, "weight_bits": config.weight_bits, "activation_bits": config.activation_bits}
    facts["bits"] = bits_summary(layer_bits(made)) if config.bits else None
    return stamp(made, tool=__version__, calibration=_method(config), **facts)


def rounded(
    student: onnx.ModelProto, source: Calibrated, images: Images, config: QuantizeConfig, threads: int = 0
) -> onnx.ModelProto:
    """The QDQ model that `quantized` made, its weights rounded as the configuration has it. images: that it was calibrated on."""
    if config.rounding == "nearest":
        return student
    most_bits = MOST_BITS if config.rounding == "compensated" else FEW_BITS
    few = max(FEWEST_IMAGES, PIXELS // math.prod(image_shape(images)[1:]))
    images = images.subset(np.arange(min(few, len(images))))
    read = lambda: (batch.images for batch in batches(images, ROUNDING_BATCH))  # noqa: E731
    made = compensated(student, source.model, read, len(images), threads or None, most_bits)
    return made if made is student else stamp(made, rounding="compensated")


def activation_ranges(source: Calibrated, sites: Plan, config: QuantizeConfig) -> dict[str, tuple[float, float]]:
    """Value -> real low and high, as the configuration's method chooses them for the bits of each site."""
    choose = lambda site: choose_range(  # noqa: E731
        source.histograms[site.value],
        _method(config),
        site.integers,
        bool(config.symmetric),
        config.percentile,
    )
    return {site.value: choose(site) for site in sites.activations}


def _method(config: QuantizeConfig) -> str:
    """Some clipping buys resolution, at 8 bits too: there the KL of eight networks' students was 0 to 61 % below that of minmax."""
    return "mse" if config.calibration_method == "auto" else config.calibration_method
