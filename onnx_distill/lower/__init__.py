"""The generated training model made faster for this machine, with equal results: one rewrite per file, in this order."""

from __future__ import annotations

import onnx

from onnx_distill.fake_quant import FakeQuantModel
from onnx_distill.lower.blocked import block_size
from onnx_distill.lower.depthwise import lower_depthwise
from onnx_distill.lower.quantizers import lower_quantizers


def lower(training: onnx.ModelProto, student: FakeQuantModel, batch_size: int | None = None) -> onnx.ModelProto:
    """A faster copy of the training model. With `batch_size` it may be rewritten so that it takes batches of that size only."""
    made = lower_quantizers(training, student)
    block = block_size()
    if batch_size and block:
        made = lower_depthwise(made, batch_size, block)
    return made
