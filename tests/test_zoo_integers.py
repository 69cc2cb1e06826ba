"""Of every classifier of tests/zoo, exported, stock runtimes leave no layer in floats."""

from __future__ import annotations

import pytest
from graphs import operators
from test_zoo import ZOO, student

from onnx_distill.export import export

LAYERS = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}
ISLANDS = {
    "convnext": "LayerNormalization",
    "vit": "LayerNormalization",
    "mlp": "Tanh",
    "shufflenetv2": "Slice",
}  # Slice: until 1.20


@pytest.mark.parametrize("name", ZOO)
def test_it_runs_in_integers(name, tmp_path):
    found, family = operators(export(student(name)), tmp_path / "optimized.onnx"), name.partition("-")[0]
    assert not LAYERS & set(found)
    if family in ISLANDS:
        assert found[ISLANDS[family]]
    else:  # nothing but the image becomes integers, nothing but the logits becomes floats
        assert (found["QuantizeLinear"], found["DequantizeLinear"]) == (1, 1)
