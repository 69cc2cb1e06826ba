import ml_dtypes
import numpy as np
import onnx
import pytest
from equal import operators, outputs
from onnx import TensorProto, numpy_helper

from onnx_distill.normalize import float16, normalize
from onnx_distill.normalize.graph import Graph

CONVERTED = {
    "float16": (np.float16, 2e-3),
    "double": (np.float64, 1e-6),
    "bfloat16": (ml_dtypes.bfloat16, 2e-2),
}
BODY = "a = MatMul(x, w) c = Add(a, half) y = Relu(c)"


def parse(body: str, kind: str, inputs: str = "", result: str = "", **constants) -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["": 17]> g ({inputs or kind + "[n,3] x"}) => ({result or kind + "[n,4] y"}) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    for name, content in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(content, name))
    return model


def weights(dtype) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"w": rng.standard_normal((3, 4)).astype(dtype), "half": np.asarray(0.5).astype(dtype)}


def images(dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((5, 3)).astype(dtype)


def converted(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = Graph(made)
    done = float16.rewrite(graph)
    onnx.checker.check_model(graph.finish(), full_check=True)
    return made, done


def kinds_inside(model: onnx.ModelProto) -> set[int]:
    edge = {value.name for value in [*model.graph.input, *model.graph.output]}
    values = onnx.shape_inference.infer_shapes(model).graph.value_info
    found = {value.type.tensor_type.elem_type for value in values if value.name not in edge}
    return found | {tensor.data_type for tensor in model.graph.initializer}


@pytest.mark.parametrize("kind", CONVERTED)
def test_other_floats_become_float32_between_casts_at_the_edges(kind):
    dtype, tolerance = CONVERTED[kind]
    model = parse(BODY, kind, **weights(dtype))
    made, done = converted(model)
    assert done and kinds_inside(made) == {TensorProto.FLOAT}
    assert [node.op_type for node in made.graph.node] == ["Cast", "MatMul", "Add", "Relu", "Cast"]
    assert [v.type for v in made.graph.input] == [v.type for v in model.graph.input]
    assert [v.type for v in made.graph.output] == [v.type for v in model.graph.output]
    if kind == "bfloat16":  # numpy has no such type to feed: the model with float32 edges
        return
    x = images(dtype)
    wanted = np.maximum(x.astype(np.float64) @ weights(dtype)["w"].astype(np.float64) + 0.5, 0)
    (found,) = outputs(made, {"x": x})
    assert found.dtype == dtype
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", CONVERTED)
def test_casts_between_floats_in_the_middle_go(kind):
    dtype, tolerance = CONVERTED[kind]
    number = TensorProto.DataType.Value(kind.upper())
    body = f"l = Cast<to = {number}>(x) a = MatMul(l, w) f = Cast<to = 1>(a) s = Sigmoid(f) g = Cast<to = {number}>(s) y = Cast<to = 1>(g)"
    made, done = normalize(parse(body, "float", w=weights(dtype)["w"]))
    assert done and kinds_inside(made) == {TensorProto.FLOAT}
    assert operators(made) == {"MatMul", "Sigmoid"}
    wanted = 1 / (1 + np.exp(-images().astype(np.float64) @ weights(dtype)["w"].astype(np.float64)))
    np.testing.assert_allclose(outputs(made, {"x": images()})[0], wanted, rtol=1e-5)


@pytest.mark.parametrize("kind", CONVERTED)
def test_converting_twice_is_converting_once(kind):
    made, _ = converted(parse(BODY, kind, **weights(CONVERTED[kind][0])))
    again, done = converted(made)
    assert not done and again == made


@pytest.mark.parametrize(
    "body",
    [
        "y = MatMul(x, w)",
        "i = Cast<to = 7>(x) f = Cast<to = 1>(i) y = MatMul(f, w)",
        "s = Shape(x) e = Expand(w, s2) a = MatMul(x, e) y = Neg(a)",
    ],
    ids=["float32", "to whole numbers and back", "a shape"],
)
def test_models_of_float32_stay(body):
    model = parse(body, "float", w=weights(np.float32)["w"], s2=np.array([3, 4]))
    made, done = converted(model)
    assert not done and made == model


def test_an_output_that_is_read_again_is_cast_for_itself_alone():
    model = parse("a = MatMul(x, w) y = Neg(a)", "float16", result="float16[n,4] y, float16[n,4] a", **weights(np.float16))
    made, _ = converted(model)
    (y, a) = outputs(made, {"x": images(np.float16)})
    assert y.dtype == a.dtype == np.float16 and operators(made) == {"Cast", "MatMul", "Neg"}
    np.testing.assert_array_equal(y, -a)


def test_what_nodes_and_subgraphs_hold_is_converted():
    body = """
        s = Shape(x) z = ConstantOfShape<value = double[1] {0.25}>(s) a = Add(x, z) m = ReduceMax<keepdims = 0>(a)
        f = Cast<to = 1>(m) c = Greater(f, zero)
        y = If(c) <then_branch = t () => (double[n,3] p) { p = Mul(a, two) },
                   else_branch = e () => (double[n,3] q) { k = Constant<value = double {4.0}>() q = Mul(a, k) }>
    """
    model = parse(body, "double", result="double[n,3] y", two=np.float64(2), zero=np.float32(0))
    made, _ = converted(model)
    assert kinds_inside(made) <= {TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL}
    for sign, factor in ((1, 2), (-1, 4)):
        x = (sign * np.full((2, 3), 0.5)).astype(np.float64)
        np.testing.assert_array_equal(outputs(made, {"x": x})[0], (x + 0.25) * factor)


def test_doubles_beyond_float32_become_its_largest_and_infinities_stay():
    found = float16.as_float32(np.array([1e300, -1e300, np.inf, -np.inf, 0.5]))
    most = np.finfo(np.float32).max
    np.testing.assert_array_equal(found, np.array([most, -most, np.inf, -np.inf, 0.5], np.float32))
