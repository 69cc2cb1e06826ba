"""Of every classifier of tests/zoo, exported, stock runtimes leave no layer in floats, and the standard has nothing to object."""

from __future__ import annotations

import onnx
import pytest
from graphs import operators
from test_zoo import ZOO, original, student

from onnx_distill.export import export
from onnx_distill.ready.deployable import deployable

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


@pytest.mark.parametrize("storage", ["int8", "int4"])
@pytest.mark.parametrize("name", ZOO)
def test_what_takes_the_teachers_place_passes_the_checker_and_strict_shape_inference(name, storage):
    made = deployable(student(name), original(name), weight_storage=storage)
    onnx.checker.check_model(made, full_check=True)
    onnx.shape_inference.infer_shapes(made, check_type=True, strict_mode=True, data_prop=True)
