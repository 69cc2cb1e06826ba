"""Outputs of an ONNX model for stored images; prints onnxruntime's version. Any venv with numpy and onnxruntime can run it.

Example: python scripts/stock_predict.py model.onnx images.npy outputs.npz [optimized.onnx]

outputs.npz holds the outputs in the model's order (arr_0, arr_1, ...); optimized.onnx is the graph that the runtime made.
"""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime as ort

BATCH = 250  # bounds the memory of the activations
ERRORS_ONLY = 3


def predict(model: str, images: np.ndarray, optimized: str | None = None) -> list[np.ndarray]:
    """Every output [n, ...] for images [n, ...] fed to the first input, under the runtime's default optimizations."""
    options = ort.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    if optimized:
        options.optimized_model_filepath = optimized
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: images[i : i + BATCH]}) for i in range(0, len(images), BATCH)]
    return [np.concatenate(part) for part in zip(*parts)]


def main(arguments: list[str]) -> int:
    if len(arguments) not in (3, 4):
        print(__doc__.splitlines()[2], file=sys.stderr)
        return 2
    model, images, outputs, *optimized = arguments
    np.savez(outputs, *predict(model, np.load(images), *optimized))
    print(ort.__version__)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
