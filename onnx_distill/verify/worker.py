"""One ONNX model on stored images under one runtime. Any Python with numpy and that runtime can run this file alone.

Example: python worker.py onnxruntime job.json

The job: model, names (of its outputs), images (raw float32), shape (of all images), batch, threads (0: the runtime's choice), outputs (file to write,
raw, each output's batches in order), optimized (file for the graph that onnxruntime made, or null). stdout says in JSON what was
written: version, and name, dtype and shape of each output.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Callable

import numpy as np

ERRORS_ONLY = 3
REFERENCE_OPSET = 19  # the evaluator has no older DequantizeLinear
Predict = Callable[[np.ndarray], Any]


def onnxruntime(job: dict[str, Any]) -> tuple[str, Any, Predict]:
    """The CPU provider with its default optimizations."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    if job["threads"]:
        options.intra_op_num_threads = job["threads"]
    if job.get("optimized"):
        options.optimized_model_filepath = job["optimized"]
    session = ort.InferenceSession(job["model"], options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return ort.__version__, [o.name for o in session.get_outputs()], lambda images: session.run(None, {name: images})


def openvino(job: dict[str, Any]) -> tuple[str, Any, Predict]:
    """The CPU plugin; what is not in integers is computed in float32, as elsewhere."""
    import openvino as ov

    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if job["threads"]:
        settings["INFERENCE_NUM_THREADS"] = job["threads"]
    compiled = ov.Core().compile_model(job["model"], "CPU", settings)
    outputs = [compiled.output(name) for name in job["names"]]  # one output may have several names

    def predict(images: np.ndarray) -> list[np.ndarray]:
        results = compiled([images])
        return [np.array(results[output]) for output in outputs]

    return ov.__version__, job["names"], predict


def reference(job: dict[str, Any]) -> tuple[str, Any, Predict]:
    """The onnx package's evaluator: the standard, read in numpy."""
    import onnx
    import onnx.version_converter
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(job["model"])
    if max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")) < REFERENCE_OPSET:
        model = onnx.version_converter.convert_version(model, REFERENCE_OPSET)
    session = ReferenceEvaluator(model)
    return onnx.__version__, session.output_names, lambda images: session.run(None, {session.input_names[0]: images})


RUNTIMES = {"onnxruntime": onnxruntime, "openvino": openvino, "reference": reference}


def main(runtime: str, path: str) -> None:
    with open(path) as file:
        job = json.load(file)
    images = np.fromfile(job["images"], np.float32).reshape(job["shape"])
    version, names, predict = RUNTIMES[runtime](job)
    parts = [predict(images[i : i + job["batch"]]) for i in range(0, len(images), job["batch"])]
    outputs = [np.concatenate(part) for part in zip(*parts)]
    with open(job["outputs"], "wb") as file:
        for output in outputs:
            file.write(np.ascontiguousarray(output).tobytes())
    described = [{"name": n, "dtype": str(o.dtype), "shape": list(o.shape)} for n, o in zip(names, outputs)]
    print(json.dumps({"version": version, "outputs": described}))


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in RUNTIMES:
        sys.exit(f"wanted: python worker.py {'|'.join(RUNTIMES)} job.json")
    main(*sys.argv[1:])
