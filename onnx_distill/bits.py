"""Bits of single layers: rules such as 'block_3/*=W4A8' over the names of nodes, of which the later ones win."""

from __future__ import annotations

import fnmatch
import glob
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Optional

from onnx_distill.errors import InputError

WEIGHT, ACTIVATION = "weight", "activation"
_WIDTHS = re.compile(r"(?:W(\d+))?(?:A(\d+))?")


@dataclass(frozen=True)
class Rule:
    """Bits of the layers whose names match a shell pattern; None leaves them as they are.

    weight: of the weights that the node reads. activation: of the value that the node makes, its Relu included.
    """

    pattern: str
    weight: Optional[int] = None
    activation: Optional[int] = None

    def matches(self, name: str) -> bool:
        return fnmatch.fnmatchcase(name, self.pattern)


def parse_rule(text: str) -> Rule:
    """'conv1=W4A8', 'block_3/*=W4', '*=A6'. Raises InputError for another form, and for bits that are not 2 to 8."""
    pattern, _, widths = text.rpartition("=")
    weight, activation = parse_widths(widths)
    if not pattern or (weight is None and activation is None):
        raise InputError(f"the bits {text!r} cannot be read; wanted NAME=W4A8, NAME=W4 or NAME=A8, 2 to 8 bits.")
    return Rule(pattern, weight, activation)


def parse_widths(text: str) -> tuple[Optional[int], Optional[int]]:
    """'W4A8' -> (4, 8), 'W4' -> (4, None); (None, None) for what is no such text, or has bits that are not 2 to 8."""
    found = _WIDTHS.fullmatch(text)
    widths = [int(part) if part else None for part in found.groups()] if found else []
    return (widths[0], widths[1]) if widths and all(w is None or 2 <= w <= 8 for w in widths) else (None, None)


def exact_rule(name: str, kind: str, bits: int) -> str:
    """The rule, as text, that gives one layer its bits; whatever its name contains is taken as it stands."""
    return f"{glob.escape(name)}={'W' if kind == WEIGHT else 'A'}{bits}"


def chosen_bits(names: Sequence[str], kind: str, rules: Iterable[Rule], default: int) -> int:
    """Bits of the weights or the activation (kind) of a layer that is known under these names."""
    found = default
    for rule in rules:
        bits = rule.weight if kind == WEIGHT else rule.activation
        if bits is not None and any(rule.matches(name) for name in names):
            found = bits
    return found
