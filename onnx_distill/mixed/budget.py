"""From a ranking and a budget to a configuration: which bits each layer gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Optional

import onnx

from onnx_distill.bits import WEIGHT
from onnx_distill.config import QuantizeConfig
from onnx_distill.data import Images
from onnx_distill.errors import InputError
from onnx_distill.mixed import SIZES, Step, kinds_of, rules, within_accuracy, within_size
from onnx_distill.mixed.ranking import Score, Sensitivity
from onnx_distill.mixed.sensitivity import drawn_apart, logits_of, score
from onnx_distill.placement import plan
from onnx_distill.ready.calibrated import Calibrated, quantized


@dataclass(frozen=True)
class Budget:
    """One of the two: what the weights may take, or what may be lost."""

    ranking: Sensitivity
    size: Optional[float] = None  # bytes of the weights; up to 1 the share of those at the higher width
    accuracy: Optional[float] = None  # points of top-1, without labels of agreement with the float model
    counted: str = "stored"  # how bytes are counted, a name in mixed.SIZES

    def __post_init__(self):
        if (self.size is None) == (self.accuracy is None):
            raise InputError("a ranking wants one budget; give either --budget-size or --budget-accuracy.")
        given = self.size if self.size is not None else self.accuracy
        if given is None or not given >= 0:
            raise InputError(f"the budget is {given}; wanted 0 or more.")
        if self.counted not in SIZES:
            raise InputError(f"sizes are counted {self.counted!r}; wanted {' | '.join(SIZES)}.")


def mixed(source: Calibrated, images: Images, config: QuantizeConfig, budget: Budget, threads: int = 0) -> QuantizeConfig:
    """The configuration with bits for every ranked layer; rules that it has already go before them.

    images: all; those that the ranking was measured on are drawn again, for a budget of accuracy alone.
    """
    ranking = budget.ranking
    _check_layers(source.model, config, ranking)
    if budget.size is not None:
        return _with(config, rules(ranking, within_size(ranking, budget.size, budget.counted)))
    _, measured = drawn_apart(images, ranking.samples, ranking.images, ranking.seed)
    teacher = logits_of(source.model, measured, threads)

    def answered(taken: Sequence[Step]) -> float:
        made = quantized(source, _with(config, rules(ranking, taken, kinds_of(ranking))))
        found: Score = score(made, measured, teacher, config, threads)
        return found.agreement if found.top1 is None else found.top1

    whole, points = answered(()), budget.accuracy or 0.0
    taken = within_accuracy(ranking, lambda taken: whole - answered(taken), points / 100, budget.counted)
    return _with(config, rules(ranking, taken, kinds_of(ranking)))


def _with(config: QuantizeConfig, chosen: tuple[str, ...]) -> QuantizeConfig:
    return replace(config, bits=(*chosen, *config.bits))


def _check_layers(model: onnx.ModelProto, config: QuantizeConfig, ranking: Sensitivity) -> None:
    """Raises InputError where the ranking names a layer that the model has not."""
    sites = plan(model, config)
    weights, activations = ({site.layer for site in kind} for kind in (sites.weights, sites.activations))
    for loss in ranking.losses:
        if loss.layer not in (weights if loss.kind == WEIGHT else activations):
            raise InputError(
                f"the ranking has a layer {loss.layer!r}, which the model has not, or not quantized; "
                "make it again for this model with `onnx-distill sensitivity`."
            )
