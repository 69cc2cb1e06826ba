"""What tests of rewrites ask: which operators are there, and do two models compute the same."""

from __future__ import annotations

import numpy as np
import onnx

from onnx_distill import runtime


def operators(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


def outputs(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs of the nodes exactly as they stand, in stock ONNX Runtime."""
    return runtime.open_session(model, 1, optimized=False).run(None, feeds)


def same_outputs(one: onnx.ModelProto, other: onnx.ModelProto, feeds: dict[str, np.ndarray], rtol: float = 1e-5) -> None:
    """Names, types, shapes and values agree; values to rtol of the largest (float32 sums in another order)."""
    onnx.checker.check_model(other, full_check=True)
    assert [v.name for v in one.graph.output] == [v.name for v in other.graph.output]
    for wanted, found in zip(outputs(one, feeds), outputs(other, feeds)):
        assert (wanted.dtype, wanted.shape) == (found.dtype, found.shape)
        np.testing.assert_allclose(found, wanted, rtol=rtol, atol=rtol * max(1.0, float(np.abs(wanted).max(initial=0))))
