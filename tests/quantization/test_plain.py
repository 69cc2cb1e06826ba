"""plain.py: quantizers as other tools write them compute the same in the form that is read here, and train."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_distill import qdq
from onnx_distill.errors import InputError
from onnx_distill.quantization.plain import plain_quantizers

RNG = np.random.default_rng(3)
X = RNG.standard_normal((4, 3)).astype(np.float32)
WEIGHTS = RNG.integers(-100, 100, (3, 2)).astype(np.int8)


def model(text: str, opset: int = 17, **tensors: np.ndarray) -> onnx.ModelProto:
    made = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": {opset}]> net (float[n, 3] x) => (float[n, 2] y) {{ {text} y = MatMul(d, w) }}'
    )
    made.graph.initializer.extend(numpy_helper.from_array(np.asarray(values), name) for name, values in tensors.items())
    return made


def answers(made: onnx.ModelProto) -> np.ndarray:
    return ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": X})[0]


POINT = {"s": np.float32(0.02), "z": np.uint8(120)}
STORED = {"ws": np.float32(0.01), "wi": WEIGHTS}
ACTIVATION = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) "
WEIGHT = "w = DequantizeLinear(wi, ws, wz) "
EIGHT = {**STORED, "wz": np.int8(0)}
FORMS = {
    "weights' zero point left out": (ACTIVATION + "w = DequantizeLinear(wi, ws) ", {**POINT, **STORED}),
    "weights' zero point empty": (ACTIVATION + "w = DequantizeLinear(wi, ws, ) ", {**POINT, **STORED}),
    "both left out of activations": ("q = QuantizeLinear(x, s) d = DequantizeLinear(q, s) " + WEIGHT, {"s": POINT["s"], **EIGHT}),
    "shape [1]": (ACTIVATION + WEIGHT, {"s": np.float32([0.02]), "z": np.uint8([120]), "ws": np.float32([0.01]), "wi": WEIGHTS, "wz": np.int8([0])}),
    "Constant nodes": ("s = Constant<value = float {0.02}>() z = Constant<value = uint8 {120}>() " + ACTIVATION + WEIGHT, EIGHT),
    "a Constant of a float": ("s = Constant<value_float = 0.02>() " + ACTIVATION + WEIGHT, {"z": POINT["z"], **EIGHT}),
    "a scale for each channel": (ACTIVATION + "w = DequantizeLinear<axis = 1>(wi, ws) ", {**POINT, "ws": np.float32([0.01, 0.02]), "wi": WEIGHTS}),
}  # fmt: skip


@pytest.mark.parametrize("text, tensors", FORMS.values(), ids=FORMS)
def test_every_form_computes_the_same_with_initializers_and_zero_points(text, tensors):
    given = model(text, **tensors)
    before = given.SerializeToString()
    made = plain_quantizers(given)
    assert given.SerializeToString() == before
    np.testing.assert_array_equal(answers(made), answers(given))
    constants = {tensor.name: list(tensor.dims) for tensor in made.graph.initializer}
    found = qdq.find(made)
    assert len(found) == 2 and all(q.scale in constants and q.zero_point in constants for q in found)
    assert all(constants[q.scale] == constants[q.zero_point] == ([] if q.axis is None else [2]) for q in found)
    assert not any(node.op_type == "Constant" for node in made.graph.node)
    assert plain_quantizers(made) is made


@pytest.mark.parametrize("kind, wanted", [(TensorProto.INT8, "int8"), (TensorProto.UINT8, "uint8")])
def test_output_dtype_is_the_type_of_the_integers(kind, wanted):
    given = model("q = QuantizeLinear(x, s) d = DequantizeLinear(q, s) " + WEIGHT, 21, s=np.float32(0.02), **EIGHT)
    given.graph.node[0].attribute.append(helper.make_attribute("output_dtype", kind))
    made = plain_quantizers(given)
    assert qdq.find(made)[0].integers.dtype == wanted
    limits = np.iinfo(
        wanted
    )  # not answers(given): onnxruntime 1.19 takes such a QuantizeLinear for uint8, and refuses the model
    d = np.clip(np.rint(X / np.float32(0.02)), limits.min, limits.max) * np.float32(0.02)
    np.testing.assert_allclose(answers(made), d @ (WEIGHTS * np.float32(0.01)), rtol=1e-5, atol=1e-5)


def test_16_bits_by_output_dtype_are_refused_by_name():
    given = model("q = QuantizeLinear(x, s) d = DequantizeLinear(q, s) " + WEIGHT, 21, s=np.float32(0.02), **EIGHT)
    given.graph.node[0].attribute.append(helper.make_attribute("output_dtype", TensorProto.UINT16))
    with pytest.raises(InputError, match="'x' has .*uint16.* wanted .*8 bits"):
        qdq.find(plain_quantizers(given))


def test_int32_biases_keep_no_zero_point():
    given = model(
        ACTIVATION + WEIGHT + "b = DequantizeLinear(bi, bs) ", bi=np.int32([5, 6]), bs=np.float32(0.1), **POINT, **EIGHT
    )
    assert plain_quantizers(given) is given


def test_scales_that_something_else_reads_keep_their_shape_there():
    tensors = {"s": np.float32([0.02]), "z": np.uint8(120), **EIGHT}
    given = model(ACTIVATION + WEIGHT + "again = Gather<axis = 0>(s, zero) ", zero=np.int64([0]), **tensors)
    given.graph.output.append(helper.make_tensor_value_info("again", TensorProto.FLOAT, [1]))
    made = plain_quantizers(given)
    np.testing.assert_array_equal(answers(made), answers(given))
    assert {"s": [1]}.items() <= {tensor.name: list(tensor.dims) for tensor in made.graph.initializer}.items()


def test_a_scale_for_each_block_is_refused():
    given = model(
        ACTIVATION + WEIGHT,
        21,
        **{**POINT, "ws": np.full((3, 1), 0.1, np.float32), "wi": WEIGHTS, "wz": np.zeros((3, 1), np.int8)},
    )
    given.graph.node[2].attribute.extend([helper.make_attribute("block_size", 2), helper.make_attribute("axis", 1)])
    with pytest.raises(InputError, match="has a scale for each block of 2 values; wanted one a tensor or channel"):
        plain_quantizers(given)
