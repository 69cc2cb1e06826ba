"""Sensitivity analysis: what fewer bits in one layer alone cost, layer by layer, ranked.

Everything else stays at the higher width, not in float: that is the model in which the layer will stand, so the losses are the steps
by which `mixed` goes down from it. Each is the KL divergence from the float model's answers beyond that of the model with all layers
at the higher width: it sees what one image in a thousand that changes its class cannot show.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Callable, TypeVar, Union

import numpy as np
import onnx

from onnx_distill import runtime
from onnx_distill.bits import ACTIVATION, WEIGHT
from onnx_distill.config import QuantizeConfig
from onnx_distill.data import Images
from onnx_distill.errors import InputError
from onnx_distill.evaluate import agreement, mean_kl, predict, top_k
from onnx_distill.export import export
from onnx_distill.lookup import initializers
from onnx_distill.mixed.ranking import LayerLoss, Score, Sensitivity
from onnx_distill.placement import ActivationSite, Plan, WeightSite, plan
from onnx_distill.quantize import quantize
from onnx_distill.ready.calibrated import Calibrated, activation_ranges
from onnx_distill.targets import target_of

BATCH, BATCH_BYTES = 64, 2**23  # images in a run at most, and bytes of them: what a session takes is some fifty times that
Site = Union[WeightSite, ActivationSite]
AnySite = TypeVar("AnySite", WeightSite, ActivationSite)


def drawn_apart(images: Images, samples: int, count: int, seed: int) -> tuple[Images, Images]:
    """(to calibrate on, to measure on), at random and disjoint where there are samples + count images."""
    order = np.random.default_rng(seed).permutation(len(images))
    return images.subset(order[:samples]), images.subset(np.sort(order[-count:]))


def sensitivity(
    source: Calibrated,
    images: Images,
    config: QuantizeConfig,
    weight_bits: Sequence[int] = (4,),
    activation_bits: Sequence[int] = (),
    seed: int = 0,
    threads: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Sensitivity:
    """Each layer's weights alone in each of weight_bits, and each activation alone in each of activation_bits, on all the images.

    config: of everything else; its first and last layers have edge_bits. Memory: one model and one batch. Time: one session a trial.
    Raises InputError where no layer gets fewer bits.
    """
    trials = list(_trials(source, config, weight_bits, activation_bits))
    if not trials:
        raise InputError(
            f"no layer has more bits than {_widths(weight_bits, activation_bits)}; wanted fewer to try than W{config.weight_bits}A{config.activation_bits}."
        )
    teacher = logits_of(source.model, images, threads)
    measure = lambda sites, ranges: _score(source, sites, ranges, config, images, teacher, threads)  # noqa: E731
    sites = plan(source.model, config)
    base = measure(sites, activation_ranges(source, sites, config))
    losses = []
    for number, (site, lowered, ranges) in enumerate(trials):
        progress(number, len(trials))
        losses.append(_loss(site, source, base, measure(lowered, ranges)))
    progress(len(trials), len(trials))
    ranked = sorted(losses, key=lambda loss: -loss.kl)
    return Sensitivity(config.weight_bits, config.activation_bits, source.images, len(images), seed, base, tuple(ranked))


def _widths(weight_bits: Sequence[int], activation_bits: Sequence[int]) -> str:
    return " ".join([f"W{bits}" for bits in weight_bits] + [f"A{bits}" for bits in activation_bits]) or "any to try"


def _trials(source: Calibrated, config: QuantizeConfig, weight_bits, activation_bits) -> Iterator[tuple[Site, Plan, dict]]:
    """(the site in fewer bits, the plan with that alone changed, the ranges for it)."""
    sites = plan(source.model, config)
    ranges = activation_ranges(source, sites, config)
    for bits in weight_bits:
        lower = plan(source.model, replace(config, weight_bits=bits, edge_bits=0))
        for weight in _lowered(sites.weights, lower.weights):
            yield (
                weight,
                replace(sites, weights=tuple(weight if w.value == weight.value else w for w in sites.weights)),
                ranges,
            )
    for bits in activation_bits:
        changed = replace(config, activation_bits=bits, edge_bits=0)
        lower = plan(source.model, changed)
        narrow = activation_ranges(source, lower, changed)
        for site in _lowered(sites.activations, lower.activations):
            activations = tuple(site if a.value == site.value else a for a in sites.activations)
            yield site, replace(sites, activations=activations), {**ranges, site.value: narrow[site.value]}


def _lowered(high: Sequence[AnySite], low: Sequence[AnySite]) -> list[AnySite]:
    return [less for more, less in zip(high, low) if less.integers.bits < more.integers.bits]


def score(model: onnx.ModelProto, images: Images, teacher: np.ndarray, config: QuantizeConfig, threads: int = 0) -> Score:
    """Of a QDQ model in its exported form, on integer kernels, against the float model's logits [n, classes]."""
    logits = logits_of(export(model, target_of(config.target)), images, threads)
    top1 = None if images.labels is None else top_k(logits, images.labels, 1)
    return Score(mean_kl(teacher, logits), agreement(teacher, logits), top1)


def _score(
    source: Calibrated, sites: Plan, ranges: dict, config: QuantizeConfig, images: Images, teacher, threads: int
) -> Score:
    return score(quantize(source.model, sites, ranges, config), images, teacher, config, threads)


def logits_of(model: onnx.ModelProto, images: Images, threads: int = 0) -> np.ndarray:
    """Logits [n, classes] of a model that ends in them, a few images at a time."""
    each = images.read(np.arange(1)).nbytes
    return predict(runtime.open_session(model, threads or None), images, max(1, min(BATCH, BATCH_BYTES // each)))


def _loss(site: Site, source: Calibrated, base: Score, found: Score) -> LayerLoss:
    weight = isinstance(site, WeightSite)
    top1 = None if base.top1 is None or found.top1 is None else base.top1 - found.top1
    return LayerLoss(
        site.layer,
        WEIGHT if weight else ACTIVATION,
        site.integers.bits,
        _count(source, site),
        found.kl - base.kl,
        base.agreement - found.agreement,
        top1,
    )


def _count(source: Calibrated, site: Site) -> int:
    """Weights, or values of one image."""
    if isinstance(site, ActivationSite):
        return source.histograms[site.value].total // source.images
    return math.prod(initializers(source.model)[site.value].dims)
