"""onnx-distill: an ONNX classifier teaches its own quantised copy."""

__version__ = "0.1.0"
