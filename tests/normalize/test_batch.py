"""A graph exported for batches of one size gives each image of any batch what it gives it alone, or is left as it was."""

import numpy as np
import onnx
import pytest
from equal import outputs

from onnx_distill import model as models
from onnx_distill.errors import InputError
from onnx_distill.lookup import shape_of
from onnx_distill.normalize import batch
from onnx_distill.normalize.graph import Graph


def parse(body: str, shape: str = "1,4,6,6", more: str = "", made: str = "1,4") -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["": 17]> g (float[{shape}] x) => (float[{made}] y) <{more}> {{ {body} }}'
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, size in {"w": (144, 4), "square": (4, 4), "kernel": (4, 4, 3, 3)}.items():
        if any(name in node.input for node in model.graph.node):
            model.graph.initializer.append(onnx.numpy_helper.from_array(rng.standard_normal(size).astype(np.float32), name))
    return model


def freed(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = Graph(models.load(model))
    changed, problem = batch.free(graph)
    assert changed and not problem
    return graph.finish()


def each_image_alone(model: onnx.ModelProto, made: onnx.ModelProto, fixed: int = 1) -> None:
    shape = shape_of(model.graph.input[0])[1:]
    images = np.random.default_rng(0).standard_normal((3 * fixed, *shape)).astype(np.float32)
    alone = [outputs(model, {"x": part})[0] for part in np.split(images, 3)]
    together = outputs(made, {"x": images})[0]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-5, atol=1e-6)
    assert shape_of(made.graph.input[0])[0] == "batch" == shape_of(made.graph.output[0])[0]


CLASSIFIER = "c = Conv<pads = [1,1,1,1]>(x, kernel) r = Relu(c) f = Reshape(r, rows) y = MatMul(f, w)"


@pytest.mark.parametrize("rows", ["1, 144", "1, -1", "-1, 144", "0, -1"])
def test_a_flattening_reshape(rows):
    model = parse(CLASSIFIER, more=f"int64[2] rows = {{{rows}}}")
    each_image_alone(model, freed(model))


def test_a_batch_of_several():
    model = parse(CLASSIFIER, "2,4,6,6", "int64[2] rows = {2, 144}", "2,4")
    each_image_alone(model, freed(model), fixed=2)


SHUFFLE = """
    a = Reshape(x, groups) b = Transpose<perm = [0,2,1,3,4]>(a) c = Reshape(b, back) f = Flatten(c) y = MatMul(f, w)"""


def test_a_channel_shuffle():
    model = parse(SHUFFLE, more="int64[5] groups = {1,2,2,6,6}, int64[4] back = {1,4,6,6}")
    each_image_alone(model, freed(model))


def test_a_batch_that_is_joined_to_another_axis():
    body = "a = Reshape(x, tokens) b = MatMul(a, square) s = Softmax(b) c = Reshape(s, rows) y = MatMul(c, w)"
    model = parse(body, more="int64[2] tokens = {36,4}, int64[2] rows = {1,144}")
    each_image_alone(model, freed(model))


HEADS = """
    t = Transpose<perm = [1,0,2]>(x) a = Reshape(t, heads) q = Transpose<perm = [1,0,2]>(a) k = Transpose<perm = [1,2,0]>(a)
    s = MatMul(q, k) p = Softmax(s) v = MatMul(p, q) b = Transpose<perm = [1,0,2]>(v) c = Reshape(b, flat)
    d = MatMul(c, square) e = Reshape(d, back) y = ReduceMean<axes = [0], keepdims = 0>(e)"""


def test_attention_with_the_batch_in_the_second_axis():
    more = "int64[3] heads = {9,2,2}, int64[2] flat = {9,4}, int64[3] back = {9,1,4}"
    model = parse(HEADS, "1,9,4", more)
    each_image_alone(model, freed(model))


def test_a_class_token_is_expanded():
    body = "t = Concat<axis = 1>(token, x) f = Flatten(t) y = MatMul(f, w)"
    model = parse(body, "1,35,4", "float[1,1,4] token = {1,2,3,4}")
    made = freed(model)
    assert "Expand" in {node.op_type for node in made.graph.node}
    each_image_alone(model, made)


def test_values_that_say_the_old_batch_are_no_longer_declared():
    model = onnx.shape_inference.infer_shapes(parse(CLASSIFIER, more="int64[2] rows = {1, 144}"))
    assert model.graph.value_info and not freed(model).graph.value_info


def test_a_free_batch_stays_as_it_is():
    model = parse("y = Flatten(x)", "n,2,2", made="n,4")
    graph = Graph(models.load(model))
    assert batch.rewrite(graph) == [] and graph.finish() == model
    batch.require_free(model)


def test_freeing_twice_is_freeing_once():
    made = freed(parse(CLASSIFIER, more="int64[2] rows = {1, 144}"))
    assert batch.rewrite(Graph(models.load(made))) == []


KEEPS = 'a = Resize<mode = "linear", keep_aspect_ratio_policy = "not_larger">(x, , , sizes)'
STRETCHES = 'a = Resize<mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize">(x, roi, , sizes)'


@pytest.mark.parametrize("resize", [KEEPS, STRETCHES], ids=["aspect kept", "region"])
def test_a_resize_that_holds_the_batch_in_its_sizes_is_named_when_it_cannot_go_by_scales(resize):
    more = "int64[4] sizes = {1,4,12,13}, float[8] roi = {0,0,0,0,1,1,1,1}"
    model = parse(
        f"c = Conv<pads = [1,1,1,1]>(x, kernel) {resize} g = GlobalAveragePool(a) f = Flatten(g) y = MatMul(f, square)",
        more=more,
    )
    model.opset_import[0].version = 18
    assert batch.free(Graph(models.load(model))) == ([], "Resize 'a' makes 1 of them, however many there are")


@pytest.mark.parametrize(
    "body, shape, why",
    [
        ("a = Squeeze(x, zero) y = Flatten(a)", "1,4", "Squeeze 'a' cannot take another"),
        ("a = Softmax<axis = 0>(x) f = Flatten(a) y = MatMul(f, w)", "1,4,6,6", "Softmax 'a' mixes the images of one"),
        (
            "a = Slice(x, minus, least, zero, minus) f = Flatten(a) y = MatMul(f, w)",
            "1,4,6,6",
            "Slice 'a' mixes the images of one",
        ),
        ("a = ReduceMean<axes = [0]>(x) f = Flatten(a) y = MatMul(f, w)", "1,4,6,6", "ReduceMean 'a' mixes|no axis for it"),
        ("f = Flatten<axis = 0>(x) y = MatMul(f, w)", "1,4,6,6", "MatMul 'y' cannot take another"),
    ],
    ids=["squeeze", "softmax over the batch", "images in reverse", "mean over the batch", "all in one row"],
)
def test_a_graph_that_cannot_is_left_as_it_was_and_the_node_is_named(body, shape, why):
    model = parse(body, shape, "int64[1] zero = {0}, int64[1] minus = {-1}, int64[1] least = {-100}")
    graph = Graph(models.load(model))
    changed, problem = batch.free(graph)
    assert changed == [] and graph.finish() == models.load(model)
    with pytest.raises(InputError, match=f"takes batches of 1 only: .*({why}).*free batch axis"):
        batch.require_free(models.load(model))


def test_what_mixes_images_is_seen_by_running_three_of_them():
    model = parse("a = CumSum(x, zero) f = Flatten(a) y = MatMul(f, w)", more="int64 zero = {0}")
    assert batch.free(Graph(models.load(model))) == ([], "CumSum 'a' mixes the images of one")
    model = parse("a = CumSum(x, one) f = Flatten(a) y = MatMul(f, w)", more="int64 one = {1}")
    each_image_alone(model, freed(model))
