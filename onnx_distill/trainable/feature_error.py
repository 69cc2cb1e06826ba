"""How far the student's features are from the teacher's, as an operator with its own gradient, and in numpy as its definition.

    FeatureError(s, t) = sum (s - t)^2 / sum t^2          over the batch: the mean squared error over the teacher's mean square
    ds = dy * 2 (s - t) / sum t^2

so that features of any size and unit count alike. Nothing flows to the teacher. A feature that is 0 everywhere in a batch is
divided by LEAST instead. One operator, because the runtime's own gradient of a sum expands a scalar to a shape that it looks
up at run time, behind which nothing would stay in the blocked layout (lower/layouts.py).
"""

from __future__ import annotations

import numpy as np
import onnx

from onnx_distill import _ort
from onnx_distill.trainable.fake_quant import DOMAIN

NAME = "FeatureError"
LEAST = 1e-12


def feature_error_function(opset: int) -> onnx.FunctionProto:
    """The operator's forward formula in standard operators; its gradient is registered with the runtime."""
    _ort.register_gradient(DOMAIN, NAME, _gradient(), stopped=(1,))
    return onnx.parser.parse_function(f"""<domain: "{DOMAIN}", opset_import: ["" : {opset}]> {NAME} (s, t) => (y) {{
        d = Sub(s, t)  dd = Mul(d, d)  error = ReduceSum<keepdims = 0>(dd)
        tt = Mul(t, t)  square = ReduceSum<keepdims = 0>(tt)
        least = Constant<value = float {{{LEAST}}}>()  size = Max(square, least)
        y = Div(error, size)
    }}""")


def _gradient() -> list[_ort.GradientNode]:
    return [
        ("Sub", ["I(0)", "I(1)"], ["d"]),
        ("Mul", ["I(1)", "I(1)"], ["tt"]),
        ("ReduceSum", ["tt"], ["square"], {"keepdims": (0, "int")}),
        ("Constant", [], ["least"], {"value": (LEAST, "float")}),
        ("Max", ["square", "least"], ["size"]),
        ("Constant", [], ["two"], {"value": (2.0, "float")}),
        ("Mul", ["GO(0)", "two"], ["twice"]),
        ("Div", ["twice", "size"], ["share"]),
        ("Mul", ["d", "share"], ["GI(0)"]),
    ]


def feature_error(student: np.ndarray, teacher: np.ndarray) -> float:
    """The same in float64 numpy; both of one shape."""
    s, t = np.asarray(student, np.float64), np.asarray(teacher, np.float64)
    return float(np.square(s - t).sum() / max(np.square(t).sum(), LEAST))
