"""CastLike becomes Cast; of a constant nothing is left of it."""

import numpy as np
import onnx
import pytest
from equal import operators, outputs, same_outputs
from onnx import numpy_helper

from onnx_distill import model as models
from onnx_distill.errors import InputError
from onnx_distill.normalize import normalize


def parse(body: str, opset: int = 17) -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["": {opset}]> g (float[n,4] x) => (float[n,4] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 3, 4]), "whole"))
    return model


IMAGES = {"x": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)}


def test_a_constant_is_cast_beforehand():
    model = parse("c = CastLike(whole, x) y = Mul(x, c)")
    made, done = normalize(model)
    assert operators(made) == {"Mul"} and [r.node for r in done if r.rule == "cast_like"] == ["c"]
    same_outputs(model, made, IMAGES)


def test_a_value_is_cast_to_the_type_of_the_other():
    model = parse("i = CastLike(x, whole) y = CastLike(i, x)")
    made, _ = normalize(model)
    assert [node.op_type for node in made.graph.node] == ["Cast", "Cast"]
    same_outputs(model, made, IMAGES)


def test_where_the_type_is_not_known_it_stays():
    model = parse("m = own.Mystery(x) y = CastLike(x, m)")
    model.opset_import.add(domain="own", version=1)
    made, done = normalize(model)
    assert "CastLike" in operators(made) and not done


def test_swish_with_its_own_alpha_is_written_out():
    """The inliner of onnx 1.23 makes a Constant without a value of an attribute that is left out, and a CastLike of it."""
    if onnx.defs.onnx_opset_version() < 24:  # this onnx does not know it, and says so
        with pytest.raises(InputError):
            models.load(parse("y = Swish(x)", opset=24))
        return
    made, done = normalize(parse("y = Swish(x)", opset=24))
    assert operators(made) <= {"Mul", "Sigmoid", "Identity"} and {"opset"} <= {r.rule for r in done}
    x = IMAGES["x"]

    np.testing.assert_allclose(outputs(made, IMAGES)[0], x / (1 + np.exp(-x)), rtol=1e-5, atol=1e-6)
