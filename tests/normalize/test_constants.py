import numpy as np
import onnx
import pytest
from equal import operators, same_outputs
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from onnx_distill.errors import InputError
from onnx_distill.normalize import constants, normalize
from onnx_distill.normalize.graph import Graph


def parse(body: str, outputs: str = "float[n,3] y", **given_constants) -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["": 17]> g (float[n,3] x) => ({outputs}) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    for name, content in given_constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(content), name))
    return model


def folded(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = Graph(made)
    done = constants.rewrite(graph)
    onnx.checker.check_model(graph.finish(), full_check=True)
    return made, done


def images(seed: int = 0) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal((4, 3)).astype(np.float32)}


FOLDED = {
    "value": "c = Constant<value = float[3] {1.0, 2.0, 3.0}>() y = Add(x, c)",
    "value_float": "c = Constant<value_float = 2.5>() y = Add(x, c)",
    "value_floats": "c = Constant<value_floats = [1.0, 2.0, 3.0]>() y = Add(x, c)",
    "value_int": "c = Constant<value_int = 1>() y = Softmax(x) i = Gather(x, c)",
    "value_ints": "c = Constant<value_ints = [-1, 3]>() y = Reshape(x, c)",
    "ConstantOfShape": "s = Constant<value_ints = [3]>() c = ConstantOfShape<value = float[1] {0.5}>(s) y = Mul(x, c)",
    "ConstantOfShape without a value": "s = Constant<value_ints = [3]>() c = ConstantOfShape(s) y = Add(x, c)",
    "Cast": "i = Constant<value_ints = [1, 2, 3]>() c = Cast<to = 1>(i) y = Mul(x, c)",
    "Identity": "d = Identity(w) c = Transpose<perm = [1, 0]>(d) y = MatMul(x, c)",
    "arithmetic": "a = Constant<value_float = 2.0>() e = Sqrt(a) c = Mul(w, e) f = ReduceSum(c) y = Add(x, f)",
    "whole numbers": "a = Constant<value_ints = [7]>() e = Constant<value_ints = [2]>() d = Div(a, e) c = Cast<to = 1>(d) y = Mul(x, c)",
}


@pytest.mark.parametrize("body", FOLDED.values(), ids=FOLDED)
def test_what_depends_on_no_image_becomes_an_initializer(body):
    model = parse(body, w=np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32))
    made, done = folded(model)
    assert done and len([node for node in made.graph.node if "x" not in node.input]) == 0
    same_outputs(model, made, images())
    assert not folded(made)[1]


def test_sparse_tensors_become_dense():
    model = parse("y = Add(x, w)")
    values, places = helper.make_tensor("w", 1, [2], [5.0, 7.0]), helper.make_tensor("places", 7, [2], [0, 2])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [3]))
    by_axes = helper.make_sparse_tensor(
        helper.make_tensor("v", 1, [1], [2.0]), helper.make_tensor("at", 7, [1, 2], [0, 1]), [1, 3]
    )
    other = parse("y = Add(x, w)")
    other.graph.node.insert(0, helper.make_node("Constant", [], ["w"], sparse_value=by_axes))
    for given_model, wanted in ((model, [[5, 0, 7]]), (other, [[0, 2, 0]])):
        made, _ = folded(given_model)
        (w,) = made.graph.initializer
        np.testing.assert_array_equal(numpy_helper.to_array(w).reshape(1, 3), wanted)
        assert not made.graph.sparse_initializer and operators(made) == {"Add"}


STAYS = {
    "the result is an output": ("y = Add(x, w) c = Constant<value_float = 2.5>()", "float[n,3] y, float c"),
    "random": ("s = RandomNormal<shape = [3]>() c = RandomNormalLike(w) d = Bernoulli(w) y = Sum(x, s, c, d)", None),
    "quantized": ("q = QuantizeLinear(w, one) c = DequantizeLinear(q, one) y = Add(x, c)", None),
    "the image is read": ("s = Shape(x) c = ConstantOfShape(s) y = Add(x, c)", None),
    "a subgraph": ("c = If(yes) <then_branch = t () => (float[3] p) { p = Neg(w) }, else_branch = e () => (float[3] q) { q = Abs(w) }> y = Add(x, c)", None),
    "the size is not known beforehand": ("i = NonZero(w) c = Cast<to = 1>(i) y = Add(x, w) z = ReduceSum(c)", "float[n,3] y, float[k,l] z"),
}  # fmt: skip


@pytest.mark.parametrize("body, outputs", STAYS.values(), ids=STAYS)
def test_it_stays_where(body, outputs):
    model = parse(body, outputs or "float[n,3] y", w=np.array([1, 0, 1], np.float32), one=np.float32(1), yes=np.bool_(True))
    made, done = folded(model)
    assert not done and list(made.graph.node) == list(model.graph.node)


def test_nodes_of_other_domains_stay():
    model = parse("c = com.microsoft.Gelu(w) y = Add(x, c)", w=np.ones(3, np.float32))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert not folded(model)[1]


@pytest.mark.parametrize(
    "body",
    [
        "c = ConstantOfShape(s) d = ReduceSum(c) y = Add(x, d)",
        "c = Expand(one, s) d = ReduceSum(c) y = Add(x, d)",
        "c = Tile(row, s) d = ReduceSum(c) y = Add(x, d)",
        "c = Range(zero, million, tiny) d = ReduceSum(c) y = Add(x, d)",
        "a = ConstantOfShape(t) b = Concat<axis = 0>(a, a, a, a) c = Concat<axis = 0>(b, b, b, b, b, b, b, b, b, b, b, b, b, b) d = ReduceSum(c) y = Add(x, d)",
    ],
    ids=["ConstantOfShape", "Expand", "Tile", "Range", "doubled again and again"],
)
def test_absurd_sizes_are_refused_before_they_take_memory(body):
    sizes = dict(s=np.array([10**6, 10**6]), t=np.array([5 * 10**6]), one=np.float32(1), row=np.ones((1, 1), np.float32))
    floats = dict(zero=np.float32(0), million=np.float32(1e6), tiny=np.float32(1e-4))
    with pytest.raises(
        InputError, match=r"the constants that the model makes up to '.+' are of .+ GB; wanted at most 1.1 GB"
    ):
        folded(parse(body, **sizes, **floats))


def test_negative_sizes_are_refused():
    with pytest.raises(InputError, match=r"ConstantOfShape 'c' has shape \[-3\]; wanted no negative size"):
        folded(parse("c = ConstantOfShape(s) y = Add(x, c)", s=np.array([-3])))


@pytest.mark.parametrize("operator", ["Div", "Mod"])
@pytest.mark.parametrize("left, right, problem", [(3, 0, "divides whole numbers by zero"), (-(2**63), -1, "overflows")])
def test_divisions_that_kill_the_process_are_refused(operator, left, right, problem):
    model = parse(f"c = {operator}(a, b) d = Cast<to = 1>(c) y = Add(x, d)", a=np.array([left]), b=np.array([right]))
    with pytest.raises(InputError, match=f"{operator} 'c' {problem}"):
        folded(model)


def test_floats_divided_by_zero_are_what_the_runtime_says():
    model = parse("c = Div(a, b) y = Add(x, c)", a=np.array([1], np.float32), b=np.array([0], np.float32))
    made, _ = folded(model)
    same_outputs(model, made, images())


def test_four_hundred_megabytes_made_by_a_node_are_a_weight():
    body = "c = ConstantOfShape<value = float[1] {0.5}>(s) y = Add(x, w)"
    graph = Graph(parse(body, s=np.array([100, 10**6]), w=np.ones(3, np.float32)))
    assert constants.rewrite(graph) == ["c"]
    assert graph.shape("c") == (100, 10**6) and graph.constant("c")[99, 10**6 - 1] == 0.5


@st.composite
def graphs_of_constants(draw) -> onnx.ModelProto:
    """A few nodes on constants and on the image, in any mixture."""
    values, body = ["w", "v"], []
    image = ["x"]
    for number in range(draw(st.integers(1, 8))):
        operator = draw(st.sampled_from(["Add", "Mul", "Sub", "Relu", "Tanh", "Abs", "Identity", "Max"]))
        inputs = [draw(st.sampled_from(values + image)) for _ in range(2 if operator in ("Add", "Mul", "Sub", "Max") else 1)]
        body.append(f"v{number} = {operator}({', '.join(inputs)})")
        (image if set(inputs) & set(image) else values).append(f"v{number}")
    body.append(f"y = Sum({', '.join(image)}, {draw(st.sampled_from(values))})")
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return parse(
        " ".join(body), w=rng.standard_normal(3).astype(np.float32), v=rng.standard_normal((1, 3)).astype(np.float32)
    )


@settings(max_examples=60, deadline=None)
@given(graphs_of_constants())
def test_folding_keeps_the_outputs_of_any_graph(model):
    made, _ = folded(model)
    same_outputs(model, made, images())
    image_dependent = {"x"}
    for node in made.graph.node:
        assert image_dependent.intersection(node.input), "a node that reads only constants is left"
        image_dependent.update(node.output)


def test_normalizing_folds_constants():
    made, done = normalize(parse(FOLDED["Cast"]))
    assert operators(made) == {"Mul"} and {rewrite.rule for rewrite in done} == {"constants"}


LARGE = "c = Constant<value = float[1,2] {0.0, 0.0}>() y = MatMul(x, c)"


def with_large(model: onnx.ModelProto, kind=np.float32) -> onnx.ModelProto:
    """The Constant 'c' of the model with more numbers than weightless.SMALL, [3, 1000]."""
    node = next(node for node in model.graph.node if node.op_type == "Constant")
    values = np.random.default_rng(0).standard_normal((3, 1000)).astype(kind)
    node.attribute[0].t.CopyFrom(numpy_helper.from_array(values))
    return model


def test_large_constant_nodes_are_initializers_from_the_start_and_told_once():
    model = with_large(parse(LARGE, "float[n,1000] y"))
    made, done = folded(model)
    assert done == ["c"] and operators(made) == {"MatMul"}
    same_outputs(model, made, images())
    assert [rewrite.node for rewrite in normalize(model)[1]] == ["c"]


def test_contents_of_a_large_constant_node_are_there_before_and_after_finish():
    model = with_large(parse(LARGE, "float[n,1000] y"))
    wanted = numpy_helper.to_array(model.graph.node[0].attribute[0].t)
    graph = Graph(onnx.ModelProto.FromString(model.SerializeToString()))
    np.testing.assert_array_equal(graph.constant("c"), wanted)
    made = graph.finish()
    np.testing.assert_array_equal(numpy_helper.to_array(made.graph.initializer[0]), wanted)
    same_outputs(model, made, images())


def test_large_constant_node_that_is_an_output_stays():
    model = with_large(parse(LARGE, "float[n,1000] y, float[3,1000] c"))
    made, done = folded(model)
    assert not done and operators(made) == {"Constant", "MatMul"}
    same_outputs(model, made, images())


def test_large_constant_nodes_of_half_floats_and_old_opsets_keep_their_contents():
    cast = "c = Constant<value = float[1] {0.0}>() d = Cast<to = 1>(c) y = MatMul(x, d)"
    halves = with_large(parse(cast, "float[n,1000] y"), np.float16)
    old = with_large(parse(LARGE, "float[n,1000] y"))
    old.opset_import[0].version = 9
    for model in (halves, old):
        made, _ = normalize(model)
        assert operators(made) == {"MatMul"}
        same_outputs(model, made, images())


def test_large_constant_node_with_another_value_after_it_was_lifted():
    graph = Graph(with_large(parse(LARGE, "float[n,1000] y")))
    graph.put("c", np.full((3, 1000), 2, np.float32))
    np.testing.assert_array_equal(numpy_helper.to_array(graph.finish().graph.initializer[0]), np.full((3, 1000), 2))
