import numpy as np
import onnx
import pytest
from equal import same_outputs

from onnx_distill.normalize import normalize

IR_3 = '<ir_version: 3, opset_import: ["": 9]> g (float[1,3] x, float[3,3] w) => (float[1,3] y) { y = MatMul(x, w) }'


def with_weights(text: str, *shape: int) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(np.arange(np.prod(shape), dtype=np.float32).reshape(shape), "w")
    )
    return model


def test_initializers_are_no_inputs_any_more():
    model = with_weights(IR_3, 3, 3)
    made, done = normalize(model)
    assert [value.name for value in made.graph.input] == ["x"] and made.ir_version >= 8
    assert ("inputs", "w") in [(rewrite.rule, rewrite.node) for rewrite in done]
    same_outputs(model, made, {"x": np.ones((1, 3), np.float32)})


@pytest.mark.parametrize("ir", [4, 10])
def test_an_input_without_an_initializer_stays(ir):
    text = f'<ir_version: {ir}, opset_import: ["": 17]> g (float[n,3] x, float[n,3] w) => (float[n,3] y) {{ y = Add(x, w) }}'
    made, done = normalize(onnx.parser.parse_model(text))
    assert [value.name for value in made.graph.input] == ["x", "w"] and not done
    assert made.ir_version == max(ir, 8)


def test_declared_shapes_of_initializers_do_not_outlive_a_new_shape():
    """The dynamo exporter declares them; Conv1D's weight gets another rank."""
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[n,4,8] x) => (float[n,4,8] y) <float[4,1,3] w>
        { y = Conv<group = 4, pads = [1, 1]>(x, w) }"""
    model = with_weights(text, 4, 1, 3)  # the text declares w among the inner values
    made, _ = normalize(model)
    same_outputs(model, made, {"x": np.ones((2, 4, 8), np.float32)})
