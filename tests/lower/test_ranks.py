"""Single numbers get the rank of what they meet where that ends in axes of one: equal to the bit, others left alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_distill import runtime
from onnx_distill.lower.ranks import BROADCASTING, LEAST, lower_ranks

WIDE, COMPARES = [8, 64, 1, 1], ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")


def meeting(operator: str, wide=WIDE, number=(), swapped: bool = False) -> onnx.ModelProto:
    kind = "bool" if operator in COMPARES else "float"
    sizes, one, operands = ",".join(map(str, wide)), ",".join(map(str, number)), "s, x" if swapped else "x, s"
    return onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]>
    g (float[{sizes}] x, float[{one}] s) => ({kind}[{sizes}] y) {{ y = {operator}({operands}) }}""")


def shapes_of(model: onnx.ModelProto) -> dict[str, list[int]]:
    return {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in model.graph.input}


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("operator", sorted(BROADCASTING))
def test_the_result_is_the_same_to_the_bit(operator, swapped):
    model = meeting(operator, swapped=swapped)
    made = lower_ranks(model, shapes_of(model))
    assert [node.op_type for node in made.graph.node] == ["Reshape", operator]
    given = {"x": np.random.default_rng(0).normal(size=WIDE).astype(np.float32), "s": np.array(0.3, np.float32)}
    found, wanted = (runtime.open_session(each, threads=1).run(None, given)[0] for each in (made, model))
    assert found.shape == wanted.shape and np.array_equal(found, wanted)


LEFT_ALONE = {
    "a longer last axis": meeting("Mul", [8, 64, 1, 2]),
    "few values": meeting("Mul", [1, LEAST - 1, 1, 1]),
    "a number of that rank": meeting("Mul", number=(1, 1, 1, 1)),
    "more than one number": meeting("Mul", number=(64, 1, 1)),
    "an operator of one operand": onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[8,64,1,1] x) => (float[8,64,1,1] y) { y = Exp(x) }'
    ),
}


@pytest.mark.parametrize("model", list(LEFT_ALONE.values()), ids=list(LEFT_ALONE))
def test_others_are_left_alone(model):
    assert list(lower_ranks(model, shapes_of(model)).graph.node) == list(model.graph.node)


def test_unknown_shapes_are_left_alone():
    assert len(lower_ranks(meeting("Mul"), {}).graph.node) == 1
