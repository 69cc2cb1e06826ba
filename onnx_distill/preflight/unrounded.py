"""A QDQ student without its quantizers: the float network whose gradient can be compared with differences of its outputs.

    x -> Q -> DQ   becomes   Relu(x) for an activation whose grid begins at 0, for it has absorbed its Relu; else x itself

The upper ends of the grids are left out: at 2 bits most values lie beyond them, and differences meet little but kinks. Where
the network runs away without them they are kept: in x * Clip(x + 3, 0, 6) the quantizer has absorbed the 6, and without it layer
after layer squares what it reads.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_distill import qdq, runtime
from onnx_distill.edit import fresh_name, prune
from onnx_distill.lookup import array, initializers, names
from onnx_distill.qdq import Quantizer

RUNAWAY = 100  # times the quantized student's largest logit


def settled(student: onnx.ModelProto, images: np.ndarray, threads: int = 0) -> onnx.ModelProto:
    """unrounded, with the upper ends where the logits of these images would run away without them."""
    free = unrounded(student)
    quantized, found = (runtime.run(runtime.open_session(m, threads or None), images)[0] for m in (student, free))
    ran_away = not np.abs(found).max(initial=0) <= RUNAWAY * max(1.0, np.abs(quantized).max(initial=0))
    return unrounded(student, bounded=True) if ran_away else free


def unrounded(student: onnx.ModelProto, bounded: bool = False) -> onnx.ModelProto:
    """The float network; parameters keep their names. bounded: with the upper ends. A float model comes back as it is."""
    made = onnx.ModelProto()
    made.CopyFrom(student)
    constants, taken = initializers(made), names(made)
    found = {q.result: q for q in qdq.find(made) if not q.stored}
    for node in made.graph.node:
        q = found.get(node.output[0]) if node.op_type == "DequantizeLinear" else None
        if q is not None:
            from_zero = q.source not in constants and _begins_at_zero(q, constants)
            kept = "Identity" if not from_zero else "Clip" if bounded else "Relu"
            ends = _ends(made, q, constants, taken) if kept == "Clip" else ()
            node.CopyFrom(helper.make_node(kept, [q.source, *ends], [q.result], fresh_name(f"{q.result}/{kept}", taken)))
    prune(made)
    return made


def _ends(model: onnx.ModelProto, q: Quantizer, constants: dict, taken: set[str]) -> tuple[str, str]:
    """Names of new initializers: 0 and the largest value of the grid."""
    steps = q.integers.qmax - q.integers.qmin
    bounds = (fresh_name(f"{q.result}/least", taken), fresh_name(f"{q.result}/most", taken))
    for name, value in zip(bounds, (0.0, steps * float(array(constants[q.scale]).reshape(-1)[0]))):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    return bounds


def _begins_at_zero(q: Quantizer, constants: dict[str, onnx.TensorProto]) -> bool:
    zero_points = array(constants[q.zero_point]) if q.zero_point else np.zeros(1, q.integers.dtype)
    return bool((zero_points == q.integers.qmin).all())
