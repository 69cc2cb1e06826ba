"""Mixed precision: a ranking of layers and a budget become bits for each layer.

From all layers at the higher width, one layer after the other goes down to fewer bits, in the order of loss per byte saved: the
cheapest first (the greedy rule). Among several widths of a layer those count that lie on the lower convex hull of (bytes, loss), so
that each further step of a layer is dearer than the one before. Where the losses of layers add up, what is chosen after any number of
steps is the best that there is in as many bytes. A budget of bytes takes the fewest steps that meet it; a budget of accuracy as many
as it allows, measured on images, not added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable

from onnx_distill.bits import WEIGHT, exact_rule
from onnx_distill.errors import InputError
from onnx_distill.mixed.ranking import LayerLoss, Sensitivity
from onnx_distill.quantization.layer_bits import LayerBits

SIZES: dict[str, Callable[[int, int], int]] = {
    "stored": lambda count, bits: (count + 1) // 2 if bits <= 4 else count,  # as --weight-storage int4 writes them
    "packed": lambda count, bits: (count * bits + 7) // 8,  # no file of ours: hardware that packs any width
}


@dataclass(frozen=True)
class Step:
    """One layer goes down to `bits`. loss: nats added by it. saved: bytes."""

    layer: str
    kind: str
    bits: int
    loss: float
    saved: int


def steps(found: Sensitivity, size: str = "stored", kinds: Sequence[str] = (WEIGHT,)) -> list[Step]:
    """All steps from the higher width down, the least loss for a saved byte first. Raises InputError where nothing is saved."""
    layers: dict[tuple[str, str], list[LayerLoss]] = {}
    for loss in found.losses:
        if loss.kind in kinds:
            layers.setdefault((loss.layer, loss.kind), []).append(loss)
    made = [step for (_, kind), losses in layers.items() for step in _hull(losses, _high(found, kind), SIZES[size])]
    return sorted(made, key=lambda step: step.loss / step.saved)


def _high(found: Sensitivity, kind: str) -> int:
    return found.weight_bits if kind == WEIGHT else found.activation_bits


def _hull(losses: list[LayerLoss], high: int, size: Callable[[int, int], int]) -> list[Step]:
    """The steps of one layer along the lower convex hull, each from where the one before ended."""
    saved, lost = 0, 0.0
    made: list[Step] = []
    while True:
        ahead = [(size(x.count, high) - size(x.count, x.bits), x) for x in losses]
        ahead = [(bytes_saved, x) for bytes_saved, x in ahead if bytes_saved > saved]
        if not ahead:
            return made
        further, x = min(ahead, key=lambda pair: ((pair[1].kl - lost) / (pair[0] - saved), -pair[0]))
        made.append(Step(x.layer, x.kind, x.bits, x.kl - lost, further - saved))
        saved, lost = further, x.kl


def rules(found: Sensitivity, taken: Sequence[Step], kinds: Sequence[str] = (WEIGHT,)) -> tuple[str, ...]:
    """Bits for every layer of the ranking, as QuantizeConfig.bits: those of its last step taken, else the higher width."""
    bits = {(loss.layer, loss.kind): _high(found, loss.kind) for loss in found.losses if loss.kind in kinds}
    bits.update({(step.layer, step.kind): step.bits for step in taken})
    return tuple(exact_rule(layer, kind, chosen) for (layer, kind), chosen in bits.items())


def weight_bytes(found: Sensitivity, taken: Sequence[Step] = (), size: str = "stored") -> int:
    """Of the ranked layers' weights after these steps; scales, biases and the graph come on top of it, whatever the bits."""
    counts = {loss.layer: loss.count for loss in found.losses if loss.kind == WEIGHT}
    whole = sum(SIZES[size](count, found.weight_bits) for count in counts.values())
    return whole - sum(step.saved for step in taken if step.kind == WEIGHT)


def bytes_of_weights(layers: Sequence[LayerBits], size: str = "stored") -> int:
    """Of the weights of a quantized model."""
    return sum(SIZES[size](layer.weights, layer.weight_bits) for layer in layers if layer.weight_bits)


def within_size(found: Sensitivity, budget: float, size: str = "stored") -> list[Step]:
    """The fewest steps after which the weights take at most the budget: bytes, or up to 1 the share of those at the higher width.

    Steps that cost nothing are taken in any case. A larger budget never takes more steps, so never loses more. Raises InputError for a budget that the widths tried cannot meet.
    """
    order, whole = steps(found, size), weight_bytes(found, (), size)
    most = budget * whole if budget <= 1 else budget
    free = sum(step.loss <= 0 for step in order)
    for count in range(free, len(order) + 1):
        if weight_bytes(found, order[:count], size) <= most:
            return order[:count]
    least = weight_bytes(found, order, size)
    raise InputError(
        f"the budget of {most:,.0f} bytes cannot be met: with the widths of the ranking the weights take {least:,} bytes at least, "
        f"{least / whole:.3f} of the {whole:,} at W{found.weight_bits}. Rank with fewer bits, or give more."
    )


def within_accuracy(
    found: Sensitivity, loss_of: Callable[[Sequence[Step]], float], budget: float, size: str = "stored"
) -> list[Step]:
    """The most steps whose measured loss is within the budget, by bisection; weights and activations, where the ranking has both.

    loss_of: steps -> share of the images lost against no step. A larger budget never takes fewer steps. Assumes for its speed that
    the loss grows with the steps: where it does not, fewer may be taken than would be allowed, never more.
    """
    order = steps(found, size, kinds_of(found))
    fewest, most = 0, len(order)
    while fewest < most:
        middle = (fewest + most + 1) // 2
        fewest, most = (middle, most) if loss_of(order[:middle]) <= budget else (fewest, middle - 1)
    return order[:fewest]


def kinds_of(found: Sensitivity) -> tuple[str, ...]:
    return tuple(dict.fromkeys(loss.kind for loss in found.losses))
