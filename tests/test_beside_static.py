"""Our W8A8 file becomes the same kernels in stock ONNX Runtime as the one that its own quantize_static makes: as fast by construction."""

from __future__ import annotations

import collections

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from onnx_distill import deployable, pipeline
from onnx_distill.config import QuantizeConfig
from onnx_distill.data import ArrayImages


class Reader(CalibrationDataReader):
    def __init__(self, name: str, images: np.ndarray):
        self.batches = iter([{name: image[None]} for image in images])

    def get_next(self):
        return next(self.batches, None)


def kernels(path, tmp_path) -> collections.Counter:
    """Operator -> number of nodes after the runtime's own optimisation, as users open the file."""
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 3
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return collections.Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


@pytest.fixture
def both(teacher, fashion_train, tmp_path):
    """The kernels of ours and of quantize_static's, for the logits of the models/ teacher, calibrated on the same images."""
    images = fashion_train.read(np.arange(32))
    onnx.save(teacher, str(tmp_path / "float.onnx"))
    quant_pre_process(str(tmp_path / "float.onnx"), str(tmp_path / "prepared.onnx"), skip_symbolic_shape=True)
    reader = Reader(teacher.graph.input[0].name, images)
    settings = dict(quant_format=QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QUInt8)
    quantize_static(str(tmp_path / "prepared.onnx"), str(tmp_path / "static.onnx"), reader, **settings)
    student = pipeline.quantize_with_images(teacher, ArrayImages(images), QuantizeConfig(target="ort-x86"), 32)
    onnx.save(deployable.deployable(student, teacher), str(tmp_path / "ours.onnx"))
    return [kernels(tmp_path / name, tmp_path) for name in ("ours.onnx", "static.onnx")]


def test_stock_onnxruntime_runs_no_more_nodes_of_ours_than_of_quantize_statics(both):
    ours, static = both
    assert sum(ours.values()) <= sum(static.values())
    assert ours["QLinearConv"] == static["QLinearConv"] > 0 and ours["QLinearAdd"] == static["QLinearAdd"] > 0
    assert not {"Conv", "FusedConv", "Gemm", "MatMul", "Add"} & set(ours)
