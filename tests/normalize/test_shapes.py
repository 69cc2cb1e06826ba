import numpy as np
import onnx
import pytest
from equal import operators, outputs, same_outputs

from onnx_distill import model as models
from onnx_distill.edit import prune
from onnx_distill.lookup import attribute
from onnx_distill.normalize import shapes
from onnx_distill.normalize.graph import Graph


def parse(body: str, images: str = "float[n,4,6,6] x", more: str = "", opset: int = 17) -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["": {opset}]> g ({images}) => (float[] y) <{more}> {{ {body} }}'
    return onnx.shape_inference.infer_shapes(lifted(onnx.parser.parse_model(text)), data_prop=True)  # gives y its rank


def lifted(model: onnx.ModelProto) -> onnx.ModelProto:
    """Constants as initializers, as they are when this pass runs."""
    graph = Graph(model)
    for node in graph.nodes:
        if node.op_type == "Constant":
            graph.replace(node, [])
            graph.add_tensor(attribute(node, "value"), node.output[0])
    return graph.finish()


def made(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = Graph(models.load(model))
    shapes.rewrite(graph)
    result = graph.finish()
    prune(result)
    return result


def images(count: int, *shape: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(count).standard_normal((count, *(shape or (4, 6, 6)))).astype(np.float32)}


FLATTEN = """
    s = Shape(x) n = Gather(s, zero) nn = Unsqueeze(n, zeros) rest = Constant<value = int64[1] {-1}>()
    t = Concat<axis = 0>(nn, rest) y = Reshape(x, t)"""
INTS = "int64 zero = {0}, int64[1] zeros = {0}, int64[1] ones = {1}, int64[1] twos = {2}, int64[1] four = {4}, int64[1] end = {-1}"
SHUFFLE = """
    s = Shape(x) n = Slice(s, zeros, ones) c = Slice(s, ones, twos) hw = Slice(s, twos, four) g = Div(c, twos)
    t = Concat<axis = 0>(n, twos, g, hw) a = Reshape(x, t) b = Transpose<perm = [0,2,1,3,4]>(a)
    u = Concat<axis = 0>(n, end, hw) y = Reshape(b, u)"""
PAIRS = """
    s = Shape(x) n = Slice(s, zeros, ones) c = Slice(s, ones, twos) m = Mul(n, c) t = Concat<axis = 0>(m, end)
    a = Reshape(x, t) b = Neg(a) y = Reshape(b, s)"""
RESIZE = """
    s = Shape(x) hw = Slice(s, twos, four) double = Mul(hw, twos) nc = Slice(s, zeros, twos)
    sizes = Concat<axis = 0>(nc, double) y = Resize<mode = "nearest">(x, "", "", sizes)"""
HALVES = "s = Shape(x) c = Slice(s, ones, twos) h = Div(c, twos) y = Slice(x, zeros, h, ones)"
FLOATS = """
    s = Shape(x) c = Gather(s, ones) f = Cast<to = 1>(c) r = Sqrt(f) y = Div(x, r)"""


@pytest.mark.parametrize(
    "body, left",
    [
        (FLATTEN, {"Reshape"}),
        (SHUFFLE, {"Reshape", "Transpose"}),
        (PAIRS, {"Reshape", "Neg"}),
        (HALVES, {"Slice"}),
        (FLOATS, {"Div"}),
    ],
    ids=["flatten", "channel shuffle", "batch times channels", "halves", "scale by a root"],
)
def test_arithmetic_on_shapes_becomes_constants_for_any_batch(body, left):
    model = parse(body, more=INTS)
    result = made(model)
    assert operators(result) == left
    for count in (1, 2, 3, 5):
        same_outputs(model, result, images(count))
    assert shapes.rewrite(Graph(models.load(result))) == []


def test_sizes_with_the_batch_in_them_become_scales():
    model = parse(RESIZE, more=INTS)
    result = made(model)
    assert sorted(node.op_type for node in result.graph.node) == ["Resize"]
    for count in (1, 3):
        same_outputs(model, result, images(count))
    assert shapes.rewrite(Graph(models.load(result))) == []


TOKEN = """
    s = Shape(x) n = Slice(s, zeros, ones) t = Concat<axis = 0>(n, ones, four)
    length = Shape(t) filled = ConstantOfShape<value = int64[1] {1}>(length) minus = Mul(filled, end) is = Equal(t, minus)
    shape = Where(is, filled, t) e = Expand(token, shape) y = Concat<axis = 1>(e, x)"""


def test_a_class_token_is_expanded_to_a_batch_that_stays_free():
    model = parse(TOKEN, "float[n,5,4] x", INTS + ", float[1,1,4] token = {1,2,3,4}")
    result = made(model)
    assert sorted(node.op_type for node in result.graph.node) == ["Concat", "Concat", "Expand", "Shape"]
    for count in (1, 4):
        same_outputs(model, result, images(count, 5, 4))


def test_rows_taken_in_their_order_are_a_reshape():
    body = """
        s = Shape(x) n = Squeeze(b) b = Slice(s, zeros, ones) r = Range(zero, n, one) i = Unsqueeze(r, end)
        y = Gather(x, i)"""
    body = body.replace("n = Squeeze(b) b = Slice(s, zeros, ones)", "b = Slice(s, zeros, ones) n = Squeeze(b)")
    model = parse(body, "float[n,5] x", INTS + ", int64 one = {1}")
    result = made(model)
    assert operators(result) == {"Reshape"}
    for count in (1, 4):
        same_outputs(model, result, images(count, 5))


def test_an_if_about_the_shape_becomes_its_branch():
    body = """
        s = Shape(x) c = Gather(s, ones) is = Equal(c, four)
        y = If(is) <then_branch = g1 () => (float[] z) { h = Gather(s, two) f = Cast<to = 1>(h) z = Mul(x, f) },
                    else_branch = g2 () => (float[] z) { z = Neg(x) }>"""
    model = parse(body, more=INTS + ", int64 two = {2}")
    result = made(model)
    assert operators(result) == {"Mul", "Identity"}
    same_outputs(model, result, images(3))


def test_a_fixed_batch_is_a_constant_like_the_rest():
    model = parse(FLATTEN, "float[2,4,6,6] x", INTS)
    result = made(model)
    assert operators(result) == {"Reshape"}
    same_outputs(model, result, images(2))


@pytest.mark.parametrize(
    "body, given",
    [
        (FLATTEN, "float[n,4,h,w] x"),
        (FLATTEN.replace("y = Reshape(x, t)", "y = Reshape(q, t)"), "float[n,4,6,6] x, float[n,4,6,6] q"),
        ("y = Mul(x, k)", "float[n,4,6,6] x"),
    ],
    ids=["free height and width", "two inputs", "no shapes"],
)
def test_it_does_not_fire_where_no_shape_is_known(body, given):
    model = parse(body, given, INTS + ", float k = {2}")
    assert shapes.rewrite(Graph(model)) == []


def test_weights_made_by_nodes_are_left_to_others():
    model = parse("w = Transpose(v) f = Flatten(x) y = MatMul(f, w)", more="float[1,144] v = {" + "1," * 143 + "1}")
    assert shapes.rewrite(Graph(models.load(model))) == []


def test_a_value_that_is_an_output_keeps_its_name():
    model = parse("s = Shape(x) y = Relu(x)")
    model.graph.output.append(onnx.helper.make_tensor_value_info("s", onnx.TensorProto.INT64, [4]))
    same_outputs(model, made(model), images(3))


@pytest.mark.parametrize(
    "read, read_too, made, made_too, wanted",
    [
        ((5, 4), (7, 4), (5, 2, 2), (7, 2, 2), [0, 2, 2]),
        ((5, 4), (7, 4), (10, 2), (14, 2), [-1, 2]),
        ((3, 5, 4), (3, 7, 4), (3, 10, 2), (3, 14, 2), [3, -1, 2]),
        ((2, 8), (2, 8), (4, 4), (4, 4), [4, 4]),
        ((5, 7), (7, 5), (35,), (35,), [35]),
        ((25, 4), (49, 4), (5, 5, 4), (7, 7, 4), None),
        (None, None, (5,), (7,), None),
        ((0, 4), (0, 4), (0, 4), (0, 4), None),
    ],
)
def test_the_constant_shape_of_a_reshape(read, read_too, made, made_too, wanted):
    assert shapes.reshape_to(read, read_too, made, made_too) == wanted


def test_a_shape_that_depends_on_the_images_is_not_known():
    body = "i = NonZero(x) s = Shape(i) c = Gather(s, ones) f = Cast<to = 1>(c) y = Mul(x, f)"
    model = parse(body, more=INTS)
    assert shapes.rewrite(Graph(models.load(model))) == []


def test_operators_of_the_runtime_have_shapes():
    model = parse("s = Shape(x) c = Gather(s, ones) f = Cast<to = 1>(c) y = Div(x, f)", more=INTS)
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    model.graph.node.insert(0, onnx.helper.make_node("QuickGelu", ["x"], ["a"], domain="com.microsoft"))
    model.graph.node[1].input[0] = model.graph.node[-1].input[0] = "a"
    result = made(model)
    assert operators(result) == {"QuickGelu", "Div"}
    feeds = images(3)
    np.testing.assert_array_equal(outputs(model, feeds)[0], outputs(result, feeds)[0])
