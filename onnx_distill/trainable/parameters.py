"""Constants of a student that training leaves as they are: what a formula is made of was never learned.

All others are trained: weights, biases, gains, class tokens, position embeddings and slopes, through their quantizer or, beside
LayerNormalization and in other islands of floats, as they stand.
"""

from __future__ import annotations

import math

import numpy as np
import onnx

from onnx_distill.lookup import array, initializers
from onnx_distill.trainable.trainability import FLOATS, settings

FORMULAS = frozenset("Add Sub Mul Div Max Min QuantizeLinear".split())  # a bias or a slope of one number is read by others
MASKED, MASK = frozenset(["Add", "Where"]), 1e4  # exporters write -inf, -1e9 or, for float16, -65504


def fixed(student: onnx.ModelProto) -> set[str]:
    """Settings (bounds, exponents, thresholds), the numbers of a formula, such as 0.125 in x * 0.125, and masks, which are
    added to close the eyes of an attention: values that every node reads as such."""
    constants = initializers(student)
    numbers: set[str] = set()
    learned: set[str] = set()
    for node in student.graph.node:
        for name in node.input:
            if name in constants:
                (numbers if _is_number(constants[name], node) else learned).add(name)
    return settings(student) | (numbers - learned)


def _is_number(tensor: onnx.TensorProto, node: onnx.NodeProto) -> bool:
    if tensor.data_type not in FLOATS:
        return False
    if math.prod(tensor.dims) == 1:
        return node.op_type in FORMULAS
    return node.op_type in MASKED and bool((np.abs(array(tensor)) >= MASK).any())
