"""Convolutions that see their whole input at once as matrix products: the same results, and others left alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from test_lower import assert_same, batch, everything

from onnx_distill.config import DistillConfig

BATCH = 4


def pooled(
    size=(1, 1), channels: int = 12, outer: int = 10, bias: bool = True, group: int = 1, more: str = ""
) -> onnx.ModelProto:
    """image [n, 2, size] -> 1x1 Conv -> Conv w of the whole image -> 1x1 Conv v on the one pixel left -> logits [n, 3]."""
    model, rng = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]>
    g (float[n,2,{size[0]},{size[1]}] image) => (float[n,3] logits) {{
        x = Conv(image, w0)  y = Conv{more}(x, w{", b" if bias else ""})  z = Conv(y, v)  pool = GlobalAveragePool(z)
        logits = Flatten(pool)
    }}"""), np.random.default_rng(0)  # fmt: skip
    shapes = {"w0": (channels, 2, 1, 1), "w": (outer, channels // group, *size), "b": (outer,), "v": (3, outer, 1, 1)}
    for name, shape in shapes.items():
        if bias or name != "b":
            values = rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(values, name))
    return model


def products(graph: onnx.GraphProto) -> int:
    return sum(node.op_type == "Gemm" for node in graph.node)


CASES = {  # and the products that y, dx and dw become; the image needs no dx
    "one pixel": (dict(), 8),
    "no bias": (dict(bias=False), 8),
    "channels that fill blocks": (dict(channels=32, outer=48), 8),
    "the kernel is the image": (dict(size=(3, 2)), 6),
    "pads": (dict(more="<pads = [1,1,1,1]>"), 2),  # z then has nine pixels
    "groups": (dict(channels=10, group=10, more="<group = 10>"), 5),
}


@pytest.mark.parametrize("choices, count", list(CASES.values()), ids=list(CASES))
def test_products_give_the_same_gradients(choices, count, make_step, training_graph):
    model, given = pooled(**choices), batch(choices.get("size", (1, 1)))
    found, wanted = (everything(make_step(model, DistillConfig(4), batch_size=size), given) for size in (BATCH, None))
    assert_same(found, wanted)
    assert products(training_graph(model, batch_size=BATCH)) == count
    assert products(training_graph(model)) == 0
