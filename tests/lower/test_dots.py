"""Sums of products by a convolution: the same sums to rounding, in any layout, and others left alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_distill import runtime
from onnx_distill.lower import blocked, dots
from onnx_distill.lower.dots import LEAST, lower_dots

BLOCK = blocked.block_size() or 8


def summed(
    shape: list[int], axes: str = "", keepdims: int = 0, other: list[int] | None = None, more: str = ""
) -> onnx.ModelProto:
    """y = the sum of a * b over all axes but the first, or over everything."""
    sizes, wide = ",".join(map(str, shape)), ",".join(map(str, other or shape))
    outputs = "float[rows] y" + (f", float[{sizes}] z" if more else "")
    return onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]> g (float[{sizes}] a, float[{wide}] b) => ({outputs})
    <int64[{max(1, axes.count(",") + 1)}] axes = {{{axes or 0}}}> {{
        ab = Mul(a, b)  y = ReduceSum<keepdims = {keepdims}>(ab{", axes" if axes else ""})  {more}
    }}""")  # fmt: skip


def shapes_of(model: onnx.ModelProto) -> dict[str, list[int]]:
    return {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in model.graph.input}


def lowered(model: onnx.ModelProto) -> onnx.ModelProto:
    return lower_dots(model, model, shapes_of(model), BLOCK)


FIRES = {
    "everything": summed([8, 24, 16, 16]),
    "everything, in rows of other lengths than the axes": summed([8, 96, 7, 7]),
    "a sum for each channel": summed([24, 160, 3, 3], "1, 2, 3"),
    "a sum for each row": summed([64, 640], "1"),
}


@pytest.mark.parametrize("model", list(FIRES.values()), ids=list(FIRES))
def test_sums_are_the_same_to_rounding(model):
    made, rng = lowered(model), np.random.default_rng(0)
    assert "Mul" not in {node.op_type for node in made.graph.node}
    if blocked.block_size() is None:
        return  # no such kernel on this machine, and lower() does not ask for it
    given = {name: rng.normal(0.5, 1, shape).astype(np.float32) for name, shape in shapes_of(model).items()}
    products = given["a"].astype(np.float64) * given["b"]
    axes = tuple(range(1, products.ndim)) if model.graph.node[1].input[1:] else None
    found = runtime.open_session(made, threads=2).run(None, given)[0]
    wanted = products.sum(axis=axes)
    assert found.shape == wanted.shape
    # float32 rounds each addition by half a unit in the last place, 2^-24, of a sum that the absolute terms bound
    assert (np.abs(found - wanted) <= 64 * 2.0**-24 * np.abs(products).sum(axis=axes)).all()


LEFT_ALONE = {
    "few values": summed([8, LEAST // 8 - 8]),
    "rows that fill no block": summed([4096, 9], "1"),
    "axes that are not all others": summed([64, 8, 8, 16], "1, 2"),
    "sums that keep their axes": summed([64, 640], "1", keepdims=1),
    "an operand that broadcasts": summed([64, 640], other=[64, 1]),
    "a product that something else reads": summed([64, 640], more="z = Neg(ab)"),
    "a length without a divisor": summed([BLOCK, 32771]),  # a prime
}


@pytest.mark.parametrize("model", list(LEFT_ALONE.values()), ids=list(LEFT_ALONE))
def test_others_are_left_alone(model):
    assert lowered(model) is model


def test_unknown_shapes_are_left_alone():
    model = summed([64, 640])
    assert lower_dots(model, model, {}, BLOCK) is model


def test_a_step_uses_them_and_its_gradients_stay_near(w3a3_student, fashion_train, make_step, training_graph, monkeypatch):
    given = fashion_train.read(np.arange(64)), np.zeros((64, 11), np.float32), fashion_train.labels[:64]
    found = {name: g.copy() for name, g in run(make_step(w3a3_student, batch_size=64), given).items()}
    assert ("Conv" in kinds(training_graph(w3a3_student, batch_size=64))) == bool(blocked.block_size())
    monkeypatch.setattr(dots, "LEAST", 2**60)
    assert "Conv" not in kinds(training_graph(w3a3_student, batch_size=64))
    wanted = run(make_step(w3a3_student, batch_size=64), given)
    steps = {name for name in wanted if name.endswith("/scale")}
    largest = max(np.abs(wanted[name]).max() for name in steps)
    for name in wanted:
        # forward is the same, so weights and biases are equal to the bit; steps, small differences of large sums, by their order
        rtol, atol = (1e-3, 1e-5 * largest) if name in steps else (0, 0)
        np.testing.assert_allclose(found[name], wanted[name], rtol=rtol, atol=atol, err_msg=name)


def run(step, given) -> dict[str, np.ndarray]:
    step.run(*given)
    return step.gradients


def kinds(graph: onnx.GraphProto) -> set[str]:
    """Operators of the nodes that this rewrite wrote."""
    return {node.op_type for node in graph.node if "/dot/" in node.name}
