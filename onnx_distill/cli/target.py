"""--target of quantize and run: a row of targets.py, or auto, in whose place the row for this machine is put at once.

Files and config.yaml then name a row, and a run repeats on any machine.
"""

from __future__ import annotations

import click

from onnx_distill.cli.terminal import tell
from onnx_distill.kernels.machine import AUTO, own_target
from onnx_distill.targets import DEFAULT, TARGETS


def _own(ctx: click.Context, _, target: str) -> str:
    if target != AUTO or ctx.resilient_parsing:
        return target
    found = own_target()
    if TARGETS[found].weight_limit < TARGETS[DEFAULT].weight_limit:
        tell(
            f"== target {found}: this machine saturates sums of 8-bit products (no VNNI); "
            f"--target {DEFAULT} for machines that do not"
        )
    return found


target_option = click.option(
    "--target",
    type=click.Choice([AUTO, *TARGETS]),
    default=AUTO,
    show_default=True,
    callback=_own,
    help="The runtime that it is for; auto: onnxruntime on this machine, which is tried. See docs/targets.md.",
)
