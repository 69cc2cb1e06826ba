"""inner_values.py: values on the way through a model are those that the whole model computes, wherever they are computed from."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import CONV, net, random_images
from onnx import numpy_helper

from onnx_distill import runtime
from onnx_distill.lookup import array, initializers
from onnx_distill.rounding import inner_values
from onnx_distill.rounding.inner_values import InnerValues

BODY = CONV + "h = Relu(a) s = Conv(h, point, b2) n = Shape(s) t = Add(s, h) u = Reshape(t, n) y = Conv(u, w3, b3)"
POINTS = ["a", "h", "s", "t", "y"]  # nodes' outputs, in order, as the names of values to ask for


def direct(model: onnx.ModelProto, value: str, images: np.ndarray) -> np.ndarray:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.graph.output.append(onnx.ValueInfoProto(name=value))
    return runtime.run(runtime.open_session(made, 1), images, [value])[0]


@pytest.mark.parametrize("kept", [0, 2**14, 2**28])
def test_they_are_what_the_whole_model_computes_also_when_it_changes_on_the_way(kept, monkeypatch):
    monkeypatch.setattr(inner_values, "KEPT_BYTES", kept)
    model = net(BODY)
    images = random_images(model, 10)
    values = InnerValues(model, lambda: [images[:4], images[4:8], images[8:]], 10, 1)
    makers = {name: node.name for node in model.graph.node for name in node.output}
    for value, weights in zip(POINTS, ["w", "w", "point", "point", "w3"]):
        tensor = initializers(model)[weights]
        tensor.CopyFrom(numpy_helper.from_array(array(tensor) * 1.5, weights))
        found = np.concatenate([batch[value] for batch in values.at(makers[value], [value])])
        assert found == pytest.approx(direct(model, value, images), abs=1e-5)


def test_values_from_before_are_there_too_and_the_images():
    model = net(BODY)
    images = random_images(model, 6)
    values = InnerValues(model, lambda: [images], 6, 1)
    node = next(node.name for node in model.graph.node if "t" in node.output)
    (batch,) = values.at(node, ["h", "s"])
    assert batch["h"] == pytest.approx(direct(model, "h", images), abs=1e-6)
    first = InnerValues(model, lambda: [images], 6, 1)
    (batch,) = first.at(model.graph.node[0].name, ["x"])
    assert batch["x"] is images


def test_it_knows_what_comes_from_the_images():
    values = InnerValues(net(BODY), lambda: [], 0, 1)
    assert values.has("x") and values.has("u") and not values.has("w") and not values.has("nothing")


def test_each_node_is_computed_about_once(monkeypatch):
    """Nodes of the parts that sessions are opened for: a chain of n layers takes 3 n of them, not n^2 / 2."""
    count, opened = 12, []
    open_session = runtime.open_session
    monkeypatch.setattr(
        runtime, "open_session", lambda model, *more: opened.append(len(model.graph.node)) or open_session(model, *more)
    )
    body = (
        CONV
        + " ".join(f"a{i} = Conv({'a' if i == 0 else f'a{i - 1}'}, point, b2)" for i in range(count))
        + f" y = Relu(a{count - 1})"
    )
    model = net(body)
    images = random_images(model, 4)
    values = InnerValues(model, lambda: [images], 4, 1)
    for i in range(count):
        list(values.at(model.graph.node[1 + i].name, ["a" if i == 0 else f"a{i - 1}"]))
    assert sum(opened) <= 3 * count
