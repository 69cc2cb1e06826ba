"""The peer: onnxruntime.quantization.quantize_static (QDQ) on a float model and calibration images.

    python benchmarks/peer_static.py FLOAT.onnx CALIBRATION.npy FOLDER [CASE METHOD]

Runs in the environment of the newest stock onnxruntime and imports nothing of ours. Writes FOLDER/static-CASE-METHOD.onnx
and prints each path.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

BATCH = 64
METHODS = {"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile}
CASES = {
    "w8a8-per-channel": (True, QuantType.QInt8),
    "w8a8-per-tensor": (False, QuantType.QInt8),
    "w4a8-per-channel": (True, QuantType.QInt4),
}


class Reader(CalibrationDataReader):
    def __init__(self, name, images):
        self.batches = iter({name: images[i : i + BATCH]} for i in range(0, len(images), BATCH))

    def get_next(self):
        return next(self.batches, None)


def main(source, calibration, folder, only_case=None, only_method=None):
    prepared, newer = Path(folder) / "static-prepared.onnx", Path(folder) / "static-opset21.onnx"
    quant_pre_process(source, str(prepared))
    onnx.save(onnx.version_converter.convert_version(onnx.load(str(prepared)), 21), str(newer))  # int4 needs opset 21
    images = np.load(calibration, allow_pickle=False)
    for case, (per_channel, weights) in CASES.items():
        if only_case not in (None, case):
            continue
        model = newer if weights == QuantType.QInt4 else prepared
        for method, kind in METHODS.items():
            if only_method not in (None, method):
                continue
            path = Path(folder) / f"static-{case}-{method}.onnx"
            quantize_static(
                str(model),
                str(path),
                Reader(onnx.load(str(model)).graph.input[0].name, images),
                QuantFormat.QDQ,
                per_channel=per_channel,
                activation_type=QuantType.QUInt8,
                weight_type=weights,
                calibrate_method=kind,
            )
            print(path, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
