"""The generated training model made faster for this machine, with equal results: one rewrite per file, in this order."""

from __future__ import annotations

import onnx

from onnx_distill.lower.biases import lower_biases
from onnx_distill.lower.blocked import block_size
from onnx_distill.lower.borders import lower_borders
from onnx_distill.lower.dense import lower_dense
from onnx_distill.lower.depthwise import lower_depthwise
from onnx_distill.lower.dots import lower_dots
from onnx_distill.lower.expands import lower_expands
from onnx_distill.lower.identities import lower_identities
from onnx_distill.lower.inner_products import lower_inner_products
from onnx_distill.lower.integer_masks import lower_integer_masks
from onnx_distill.lower.layouts import lower_layouts
from onnx_distill.lower.masks import lower_masks
from onnx_distill.lower.nodes import more_shapes, value_shapes
from onnx_distill.lower.order import lower_order
from onnx_distill.lower.pixels import lower_pixels
from onnx_distill.lower.quantizers import lower_quantizers
from onnx_distill.lower.ranks import lower_ranks
from onnx_distill.lower.repeats import lower_repeats
from onnx_distill.lower.single_pixels import lower_single_pixels
from onnx_distill.lower.small_images import lower_small_images
from onnx_distill.lower.strided import lower_strided
from onnx_distill.lower.taps import lower_taps
from onnx_distill.trainable.fake_quant import FakeQuantModel


def lower(training: onnx.ModelProto, student: FakeQuantModel, batch_size: int | None = None) -> onnx.ModelProto:
    """A faster copy of the training model. With `batch_size` it may be rewritten so that it takes batches of that size only."""
    made = lower_biases(lower_identities(lower_quantizers(training, student)))
    return lower_order(lower_repeats(_lower_for(made, batch_size) if batch_size else made))


def _lower_for(made: onnx.ModelProto, batch_size: int) -> onnx.ModelProto:
    made = lower_inner_products(made)
    block, shapes = block_size(), value_shapes(made, batch_size)
    made = lower_single_pixels(lower_expands(made, shapes), shapes)
    if block:
        made = lower_depthwise(made, shapes, block)
        made = lower_small_images(made, shapes, block)
    made = lower_dense(made, shapes, block)
    if block:
        made = lower_pixels(lower_strided(made, shapes, block), shapes, block)
    made = lower_integer_masks(lower_masks(lower_taps(made, shapes, block), shapes))
    if block:
        settled = lower_layouts(made, more_shapes(made, shapes), block)
        made = lower_borders(lower_dots(settled, made, shapes, block), block)
    return lower_ranks(made, shapes)
