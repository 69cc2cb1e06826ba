import numpy as np
import onnx
import pytest
from equal import outputs

from onnx_distill.lookup import shape_of
from onnx_distill.normalize.image_form import as_images, back_to, is_nhwc, logits_back_to, with_float_logits

KINDS = {
    "uint8": ("uint8[n,2,4,4]", "a = Cast<to = 1>(x) y = ReduceMean<axes = [2,3]>(a)"),
    "float16": ("float16[n,2,4,4]", "a = Cast<to = 1>(x) y = ReduceMean<axes = [2,3]>(a)"),
    "NHWC": ("float[n,4,4,3]", "y = ReduceMax<axes = [1,2]>(x)"),
    "uint8 NHWC": ("uint8[n,4,4,3]", "a = Cast<to = 1>(x) y = ReduceMax<axes = [1,2]>(a)"),
}


def parse(kind: str) -> onnx.ModelProto:
    given, body = KINDS[kind]
    text = f'<ir_version: 8, opset_import: ["": 17]> g ({given} x) => (float[n,c,d,e] y) {{ {body} }}'
    return onnx.parser.parse_model(text)


def pixels(model: onnx.ModelProto) -> np.ndarray:
    """Whole numbers, as uint8 holds them, in the form of the project."""
    shape = shape_of(model.graph.input[0])[1:]
    shape = [shape[2], *shape[:2]] if is_nhwc(model.graph.input[0]) else shape
    return np.random.default_rng(0).integers(0, 256, (3, *shape)).astype(np.float32)


def own_form(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    images = images.transpose(0, 2, 3, 1) if is_nhwc(model.graph.input[0]) else images
    return images.astype(onnx.helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type))


@pytest.mark.parametrize("kind", KINDS)
def test_any_model_takes_the_projects_images_and_back(kind):
    model = parse(kind)
    images, before = pixels(model), model.SerializeToString()
    made = as_images(model)
    assert model.SerializeToString() == before and made.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    wanted = outputs(model, {"x": own_form(model, images)})[0]
    np.testing.assert_array_equal(outputs(made, {"x": images})[0], wanted)
    again = back_to(made, model)
    assert again.graph.input[0] == model.graph.input[0]
    np.testing.assert_array_equal(outputs(again, {"x": own_form(model, images)})[0], wanted)


def test_a_model_in_the_projects_form_is_itself():
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[n,3,4,4] x) => (float[n,3,4,4] y) { y = Relu(x) }'
    )
    before = model.SerializeToString()
    assert as_images(model) is model and back_to(model, model).SerializeToString() == before


@pytest.mark.parametrize(
    "shape, wanted",
    [
        ("n,224,224,3", True),
        ("n,h,w,3", True),
        ("n,28,28,1", True),
        ("n,3,224,224", False),
        ("n,3,h,w", False),
        ("n,3,5,3", False),
    ]
    + [("n,12", False), ("n,28,28", False), ("n,7,7,64", False)],
)
def test_nhwc_is_told_by_its_sizes(shape, wanted):
    text = f'<ir_version: 8, opset_import: ["": 17]> g (float[{shape}] x) => (float[n] y) {{ y = Relu(x) }}'
    assert is_nhwc(onnx.parser.parse_model(text).graph.input[0]) == wanted


def test_logits_of_half_floats_come_out_as_floats_and_back():
    text = '<ir_version: 8, opset_import: ["": 17]> g (float16[n,4] x) => (float16[n,4] y) { a = Neg(x) y = Add(a, x) z = Abs(y) }'
    model = onnx.parser.parse_model(text)
    images = {"x": np.ones((2, 4), np.float16)}
    floats = with_float_logits(model)
    assert outputs(floats, images)[0].dtype == np.float32 and floats.graph.output[0].name == "y"
    back = logits_back_to(with_float_logits(model), model)
    assert outputs(back, images)[0].dtype == np.float16
    assert np.array_equal(outputs(back, images)[0], outputs(model, images)[0])
    assert with_float_logits(floats) is floats
