"""A QDQ student without its quantizers: the float network whose gradient can be compared with differences of its outputs.

    x -> Q -> DQ   becomes   Relu(x) for an activation whose grid begins at 0, for it has absorbed its Relu; else x itself

The upper ends of the grids are left out: at 2 bits most values lie beyond them, and differences meet little but kinks.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from onnx_distill import qdq
from onnx_distill.model import array, fresh_name, initializers, names, prune
from onnx_distill.qdq import Quantizer


def unrounded(student: onnx.ModelProto) -> onnx.ModelProto:
    """The float network; parameters keep their names. A float model comes back as it is."""
    made = onnx.ModelProto()
    made.CopyFrom(student)
    constants, taken = initializers(made), names(made)
    found = {q.result: q for q in qdq.find(made) if not q.stored}
    for node in made.graph.node:
        q = found.get(node.output[0]) if node.op_type == "DequantizeLinear" else None
        if q is not None:
            kept = "Relu" if q.source not in constants and _begins_at_zero(q, constants) else "Identity"
            node.CopyFrom(helper.make_node(kept, [q.source], [q.result], fresh_name(f"{q.result}/{kept}", taken)))
    prune(made)
    return made


def _begins_at_zero(q: Quantizer, constants: dict[str, onnx.TensorProto]) -> bool:
    zero_points = array(constants[q.zero_point]) if q.zero_point else np.zeros(1, q.integers.dtype)
    return bool((zero_points == q.integers.qmin).all())
