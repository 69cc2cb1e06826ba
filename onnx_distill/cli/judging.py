"""--max-drop: whether the student that a run has made may be its result."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import click

from onnx_distill.run.refused import Lost, refusal, settle


def judge(ctx: click.Context, exported: Path, lost: Callable[[], tuple[Lost, str]]) -> tuple[Path, str]:
    """The student's file, perhaps under another name, and why it is refused, or ''.

    lost: how much it loses, and on which images; called only where --max-drop is given.
    """
    most = ctx.params["max_drop"]
    why = "" if most is None else refusal(lost()[0], most, lost()[1])
    return settle(exported, why), why
