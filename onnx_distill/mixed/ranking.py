"""What a sensitivity analysis found, as a file and as a table: layers ranked by what fewer bits in each alone cost."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

from onnx_distill.bits import ACTIVATION, WEIGHT
from onnx_distill.closest import closest
from onnx_distill.columns import aligned
from onnx_distill.errors import InputError, first_line
from onnx_distill.files.replacing import replacing

FORMAT = "onnx-distill sensitivity 1"


@dataclass(frozen=True)
class Score:
    """kl: nats, mean KL(float || quantized). agreement: share of images answered as the float model does. top1: None without labels."""

    kl: float
    agreement: float
    top1: Optional[float]


@dataclass(frozen=True)
class LayerLoss:
    """What one layer loses in `bits` bits with everything else at the higher width; negative where it happens to gain."""

    layer: str
    kind: str  # weight | activation
    bits: int
    count: int  # weights, or values that the layer makes of one image
    kl: float  # nats, added to the mean KL divergence from the float model
    agreement: float  # share of the images, no longer answered as the float model does
    top1: Optional[float]  # share of the images, no longer answered right; None without labels


@dataclass(frozen=True)
class Sensitivity:
    """The ranking, the dearest layer first, and what it was measured on."""

    weight_bits: int  # of everything else
    activation_bits: int
    samples: int  # images calibrated on
    images: int  # others, measured on
    seed: int  # by which both were drawn
    base: Score  # all layers at the higher width
    losses: tuple[LayerLoss, ...]


def save_sensitivity(found: Sensitivity, path: str | os.PathLike) -> None:
    """Write it as JSON, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"format": FORMAT, **asdict(found)}, indent=1) + "\n", encoding="utf-8")


def load_sensitivity(path: str | os.PathLike) -> Sensitivity:
    """What save_sensitivity wrote. Raises InputError for a file that is missing, damaged or something else."""
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(f"no file {path}{closest(path.name, beside)}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {first_line(error)}") from None
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise InputError(f"{path} is no {FORMAT!r} file. Make one with `onnx-distill sensitivity`.")
    try:
        losses = tuple(_checked_loss(loss) for loss in content.pop("losses"))
        return Sensitivity(**{**content, "base": Score(**content["base"])}, losses=losses)
    except (TypeError, KeyError, ValueError):
        raise InputError(
            f"{path} was changed since it was written. Make it again with `onnx-distill sensitivity`."
        ) from None


def _checked_loss(content: dict[str, Any]) -> LayerLoss:
    loss = LayerLoss(**content)
    if loss.kind not in (WEIGHT, ACTIVATION) or not 2 <= loss.bits <= 8 or loss.count < 1:
        raise ValueError
    return loss


def render_sensitivity(found: Sensitivity, top: int = 0) -> str:
    """The model at the higher width, then one line a layer, the dearest first; `top` of them, 0: all."""
    labelled = found.base.top1 is not None
    base = f"W{found.weight_bits}A{found.activation_bits} everywhere, {found.images} images: KL {found.base.kl:.6f}, agreement {100 * found.base.agreement:.2f} %"
    base += f", top-1 {100 * (found.base.top1 or 0):.2f} %" if labelled else ""
    heads = ["", "layer", "", "count", "KL added", "agreement lost", *(["top-1 lost"] if labelled else [])]
    shown = found.losses[:top] if top else found.losses
    rows = [_cells(number, loss) for number, loss in enumerate(shown, start=1)]
    left = len(found.losses) - len(shown)
    return "\n".join([base, aligned([heads, *rows], left=3), *([f"and {left} more"] if left else [])])


def _cells(number: int, loss: LayerLoss) -> list[str]:
    bits = f"{'W' if loss.kind == WEIGHT else 'A'}{loss.bits}"
    shares = [loss.agreement, *([] if loss.top1 is None else [loss.top1])]
    return [str(number), loss.layer, bits, f"{loss.count:,}", f"{loss.kl:.6f}", *(f"{100 * share:.2f}" for share in shares)]
