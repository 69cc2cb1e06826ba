import numpy as np
import onnx
import pytest
from equal import outputs, same_outputs

from onnx_distill.errors import InputError
from onnx_distill.lookup import array, initializers, shape_of
from onnx_distill.normalize.prepare import constants_of, image_shape, one_input, pinned_to, prepare


def parse(inputs: str = "float[n,3,h,w] x", body: str = "y = Relu(x)", more: str = "") -> onnx.ModelProto:
    text = f'<ir_version: 3, opset_import: ["": 11]> g ({inputs}) => (float[n,3,h,w] y) <{more}> {{ {body} }}'
    return onnx.parser.parse_model(text)


TWO = ("float[n,3,h,w] x, float keep, float[n,2] more", "a = Mul(x, keep) r = ReduceMean<keepdims = 0>(more) y = Add(a, r)")


def images(count: int = 2) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal((count, 3, 4, 4)).astype(np.float32)}


def test_listed_weights_are_no_inputs_and_the_model_given_stays():
    model = parse("float[n,3,h,w] x, float[1] k", "y = Mul(x, k)", "float[1] k = {2}")
    before = model.SerializeToString()
    made = prepare(model)
    assert [value.name for value in made.graph.input] == ["x"] and made.ir_version == 4
    assert model.SerializeToString() == before
    same_outputs(model, made, images())


def test_height_and_width_are_pinned_and_the_batch_stays_free():
    made = prepare(parse(), (3, 4, 5))
    assert shape_of(made.graph.input[0]) == ["n", 3, 4, 5] and image_shape(made) == (3, 4, 5)


@pytest.mark.parametrize("shape", [(3, 4), (1, 3, 4, 4), (4, 4, 4), (3, 0, 4), ()])
def test_a_shape_that_does_not_fit_is_refused(shape):
    with pytest.raises(InputError, match=r"--input-shape is .*, but input 'x' is float \[n, 3, h, w\]"):
        prepare(parse(), shape)


def test_free_sizes_are_named():
    with pytest.raises(InputError, match=r"input 'x' is float \[n, 3, h, w\], in which h, w is free.*--input-shape"):
        image_shape(parse())


def test_minus_one_means_free():
    model = parse()
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = -1
    assert shape_of(prepare(model).graph.input[0]) == ["n", 3, "?", "?"]
    assert not prepare(model).graph.input[0].type.tensor_type.shape.dim[3].HasField("dim_value")


def test_only_free_sizes_are_pinned_to_the_images():
    free, fixed = parse(), prepare(parse(), (3, 4, 4))
    assert image_shape(pinned_to(free, (3, 8, 8))) == (3, 8, 8)
    assert pinned_to(fixed, (3, 8, 8)) is fixed


def test_other_inputs_become_constants():
    model = parse(*TWO)
    made = prepare(model, constants={"keep": 0.5, "more": np.array([[1, 3]])})
    assert one_input(made).name == "x"
    (found,) = outputs(made, images())
    np.testing.assert_allclose(found, images()["x"] * 0.5 + 2)


@pytest.mark.parametrize("value", [7, 7.0, [7], [[7, 7]], np.full((5, 2), 7.0)], ids=str)
def test_a_constant_fills_the_inputs_shape(value):
    tensor = initializers(prepare(parse(*TWO), constants={"more": value}))["more"]
    assert tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2 and tensor.dims[1] == 2
    assert (array(tensor) == 7).all()


@pytest.mark.parametrize(
    "name, value, why",
    [
        ("other", 1, "names 'other', which is no input of the model; its inputs: 'x', 'keep', 'more'"),
        ("more", [1, 2, 3], r"more has shape \[3\]; wanted float \[n, 2\], or one number"),
        ("keep", "yes", "keep is 'yes'; wanted numbers"),
    ],
)
def test_a_constant_that_does_not_fit_is_refused(name, value, why):
    with pytest.raises(InputError, match=f"--constant {why}"):
        prepare(parse(*TWO), constants={name: value})


@pytest.mark.parametrize("value, fits", [(1, True), (True, True), (0.5, False), (2, False)])
def test_a_flag_takes_nothing_but_0_and_1(value, fits):
    model = parse("float[n,3,h,w] x, bool flag", "y = Where(flag, x, x)")
    if fits:
        assert array(prepare(model, constants={"flag": value}).graph.initializer[0]) == bool(value)
    else:
        with pytest.raises(InputError, match="wanted numbers of type bool"):
            prepare(model, constants={"flag": value})


def test_inputs_without_a_constant_are_listed_with_what_to_say():
    why = "2 inputs: besides the images, 'x', it reads 'more' float .n, 2.; wanted a constant for each. Give --constant more=VALUE"
    with pytest.raises(InputError, match=why):
        one_input(prepare(parse(*TWO), constants={"keep": 1}))
    with pytest.raises(InputError, match="3 inputs: .*Give --constant keep=VALUE --constant more=VALUE"):
        one_input(prepare(parse("float keep, float[n,2] more, float[n,3,h,w] x", TWO[1])))


def test_preparing_twice_is_preparing_once():
    once = prepare(parse(*TWO), (3, 4, 4), {"keep": 1, "more": 2})
    assert prepare(once) == once


def test_the_constants_given_are_remembered_when_rewrites_have_used_them_up():
    made = prepare(parse(*TWO), constants={"keep": 0.5, "more": [[1, 3]]})
    del made.graph.initializer[:]
    found = constants_of(made, parse(*TWO))
    assert found["keep"] == np.float32(0.5) and found["more"].tolist() == [[1, 3]]
    made.metadata_props[0].value = "!"
    with pytest.raises(InputError, match="metadata onnx_distill.constant.keep holds no tensor.*Quantize the model again"):
        constants_of(made, parse(*TWO))
