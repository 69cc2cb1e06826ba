"""Our W8A8 file becomes the same kernels as the one that onnxruntime's quantize_static makes, in stock ONNX Runtime and in OpenVINO:
as fast by construction, on any machine."""

from __future__ import annotations

import collections

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from openvino_primitives import primitives

from onnx_distill import pipeline
from onnx_distill.config import QuantizeConfig
from onnx_distill.data import ArrayImages
from onnx_distill.ready import deployable


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
def made(teacher, fashion_train, tmp_path):
    """target -> path of our file for it; None: quantize_static's. For the logits of the models/ teacher, calibrated on the same images."""
    images = fashion_train.read(np.arange(32))

    def file(target: str | None) -> str:
        path = str(tmp_path / f"{target}.onnx")
        if target is None:
            onnx.save(teacher, str(tmp_path / "float.onnx"))
            quant_pre_process(str(tmp_path / "float.onnx"), str(tmp_path / "prepared.onnx"), skip_symbolic_shape=True)
            reader = Reader(teacher.graph.input[0].name, images)
            settings = dict(quant_format=QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QUInt8)
            quantize_static(str(tmp_path / "prepared.onnx"), path, reader, **settings)
        else:
            student = pipeline.quantize_with_images(teacher, ArrayImages(images), QuantizeConfig(target=target), 32)
            onnx.save(deployable.deployable(student, teacher), path)
        return path

    return file


def test_stock_onnxruntime_runs_no_more_nodes_of_ours_than_of_quantize_statics(made, tmp_path):
    ours, static = (kernels(made(target), tmp_path) for target in ("ort-x86", None))
    assert sum(ours.values()) <= sum(static.values())
    assert ours["QLinearConv"] == static["QLinearConv"] > 0 and ours["QLinearAdd"] == static["QLinearAdd"] > 0
    assert not {"Conv", "FusedConv", "Gemm", "MatMul", "Add"} & set(ours)


def test_openvino_runs_the_same_primitives_of_ours_as_of_quantize_statics(made):
    ours, static = (primitives(made(target)) for target in ("openvino", None))
    assert ours == static
    assert sum("sum:1:0:u8" in line for line in ours) >= 3 and not any("f32::blocked:acdb" in line for line in ours)
