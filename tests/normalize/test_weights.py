"""Weights with which nothing can be computed are refused before anything is."""

import numpy as np
import onnx
import pytest
from equal import outputs
from onnx import numpy_helper

from onnx_distill.errors import InputError
from onnx_distill.normalize import normalize, weights
from onnx_distill.normalize.graph import Graph

LAYERS = {
    "Conv": ("float[n,4,6,6] x", "y = Conv(x, w, b)", (4, 4, 3, 3)),
    "Gemm": ("float[n,4] x", "y = Gemm(x, w, b)", (4, 4)),
    "MatMul": ("float[n,4] x", "y = MatMul(x, w)", (4, 4)),
    "LayerNormalization": ("float[n,4] x", "y = LayerNormalization(x, w, b)", (4,)),
    "InstanceNormalization": ("float[n,4,6,6] x", "y = InstanceNormalization(x, w, b)", (4,)),
}


def layer(kind: str, weight: float, bias: float = 0.0) -> onnx.ModelProto:
    image, body, shape = LAYERS[kind]
    text = f'<ir_version: 8, opset_import: ["": 17]> g ({image}) => (float y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    values = np.full(shape, 0.5, np.float32)
    values.flat[1] = weight
    for name, content in (("w", values), ("b", np.full(4, bias, np.float32))):
        if name in model.graph.node[0].input:
            model.graph.initializer.append(numpy_helper.from_array(content, name))
    return model


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("weight", [np.nan, np.inf, -np.inf, 7.9e29, -2e9], ids=str)
def test_absurd_weights_are_refused_with_the_layers_name(kind, weight):
    with pytest.raises(
        InputError, match=rf"^{kind} 'y' has a weight of .*; wanted numbers up to 1e\+09. Is the file damaged"
    ):
        normalize(layer(kind, weight))


@pytest.mark.parametrize("kind", [kind for kind in LAYERS if kind != "MatMul"])
def test_absurd_biases_are_refused(kind):
    with pytest.raises(InputError, match=f"^{kind} 'y' has a weight of 1e"):
        normalize(layer(kind, 0.5, bias=1e20))


@pytest.mark.parametrize("kind", LAYERS)
def test_large_weights_pass(kind):
    assert weights.rewrite(Graph(layer(kind, -1e9))) == []


def test_masks_and_bounds_may_be_infinite():
    body = "m = Add(x, mask) c = Clip(m, low) y = Softmax(c)"
    text = f'<ir_version: 8, opset_import: ["": 17]> g (float[n,4] x) => (float[n,4] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    for name, content in (("mask", np.float32([0, -np.inf, 0, -3.4e38])), ("low", np.float32(-np.inf))):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(content), name))
    images = {"x": np.ones((2, 4), np.float32)}
    made, _ = normalize(model)
    np.testing.assert_allclose(outputs(made, images)[0], outputs(model, images)[0], rtol=1e-6)


def test_normalization_behind_an_absurd_scale_is_refused_not_rewritten_into_nan():
    """Seed 11, number 2669 of scripts/fuzz.py: 1e30 before a LayerNormalization written out, which hides it in the original."""
    body = """l = MatMul(x, w) s = Mul(l, gamma) m = ReduceMean<axes = [-1]>(s) c = Sub(s, m) q = Pow(c, two)
        v = ReduceMean<axes = [-1]>(q) e = Add(v, eps) d = Sqrt(e) y = Div(c, d)"""
    text = f'<ir_version: 8, opset_import: ["": 14]> g (float[n,4] x) => (float[n,4] y) {{ {body} }}'
    model, rng = onnx.parser.parse_model(text), np.random.default_rng(0)
    given = dict(w=rng.standard_normal((4, 4)), gamma=[2.6e7, -3e21, -1e13, -8e29], two=2.0, eps=1e-5)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in given.items())
    assert np.isfinite(outputs(model, {"x": np.ones((2, 4), np.float32)})[0]).all()
    with pytest.raises(InputError, match="MatMul 's' has a weight of"):
        normalize(model)
