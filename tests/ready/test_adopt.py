"""QDQ models of onnxruntime.quantization become trainable."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from onnx_distill import artifacts, qdq, runtime
from onnx_distill.errors import InputError
from onnx_distill.lookup import array, initializers
from onnx_distill.ready.adopt import adopt
from onnx_distill.ready.deployable import logits_model

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,2,6,6] image) => (float[N,3] probability) {
  a = Conv<pads=[1,1,1,1]>(image, conv_w, conv_b)
  r = Relu(a)
  p = GlobalAveragePool(r)
  f = Flatten(p)
  logits = Gemm(f, fc_w, fc_b)
  probability = Softmax(logits)
}
"""
RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((32, 2, 6, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def teacher():
    model = onnx.parser.parse_model(TEXT)
    shapes = {"conv_w": (4, 2, 3, 3), "conv_b": (4,), "fc_w": (4, 3), "fc_b": (3,)}
    made = [numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32), name) for name, shape in shapes.items()]
    model.graph.initializer.extend(made)
    return model


class Reader(CalibrationDataReader):
    def __init__(self):
        self.batches = iter([{"image": IMAGES}])

    def get_next(self):
        return next(self.batches, None)


@pytest.fixture(
    params=[(True, QuantType.QInt8), (False, QuantType.QInt8), (False, QuantType.QUInt8)],
    ids=["per_channel", "per_tensor", "uint8"],
)
def static(request, teacher, tmp_path):
    per_channel, kind = request.param
    onnx.save(teacher, str(tmp_path / "float.onnx"))
    quantize_static(
        str(tmp_path / "float.onnx"),
        str(tmp_path / "q.onnx"),
        Reader(),
        QuantFormat.QDQ,
        per_channel=per_channel,
        activation_type=QuantType.QUInt8,
        weight_type=kind,
    )
    return onnx.load(str(tmp_path / "q.onnx"))


def test_a_quantize_static_model_gets_the_teachers_float_weights(static, teacher):
    adopted = adopt(static, logits_model(static, teacher))
    constants, originals = initializers(adopted), initializers(teacher)
    for name in ("conv_w", "fc_w"):
        assert np.array_equal(array(constants[name]), array(originals[name]))
    assert not any(q.stored for q in qdq.find(adopted))


def test_an_adopted_model_answers_as_the_quantize_static_model_did(static, teacher):
    adopted = adopt(static, logits_model(static, teacher))
    ours = runtime.run(runtime.open_session(adopted, 1, optimized=False), IMAGES)[0]
    whole = onnx.ModelProto()
    whole.CopyFrom(static)
    whole.graph.output.append(onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 3]))
    theirs = runtime.run(runtime.open_session(whole, 1, optimized=False), IMAGES, ["logits"])[0]
    # a weight may round to the neighbouring integer where their rounding met a tie, a bias moves by half a step at most
    assert np.abs(ours - theirs).max() < 0.02 * np.abs(theirs).max()


def test_weights_that_the_teacher_does_not_have_start_from_their_dequantized_values(static, teacher):
    stranger = onnx.ModelProto()
    stranger.CopyFrom(teacher)
    for tensor in stranger.graph.initializer:
        if tensor.name == "fc_w":
            tensor.CopyFrom(numpy_helper.from_array(np.zeros((5, 5), np.float32), "fc_w"))
    adopted = adopt(static, _with_outputs_of(teacher, stranger))
    assert np.abs(array(initializers(adopted)["fc_w"]) - array(initializers(teacher)["fc_w"])).max() < 0.05


def _with_outputs_of(teacher, stranger):
    del stranger.graph.output[:]
    stranger.graph.output.append(onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 3]))
    return stranger


def test_an_adopted_model_can_be_trained(static, teacher):
    adopted = adopt(static, logits_model(static, teacher))
    chosen = artifacts.trainable(adopted, "all")
    assert set(chosen.weights) == {"conv_w", "fc_w"}
    assert set(chosen.biases) == {"conv_b", "fc_b"}
    assert len(chosen.steps) >= 4


def test_a_model_without_quantizers_is_refused(teacher):
    with pytest.raises(InputError, match="no QuantizeLinear and DequantizeLinear nodes"):
        adopt(teacher, teacher)


def test_a_student_of_another_teacher_is_refused(static, teacher):
    other = onnx.ModelProto()
    other.CopyFrom(teacher)
    other.graph.output[0].name = "elsewhere"
    with pytest.raises(InputError, match="no value named 'elsewhere'"):
        adopt(static, other)
