import numpy as np
import onnx
import pytest
from equal import operators, same_outputs

from onnx_distill import model as models
from onnx_distill.errors import InputError
from onnx_distill.lookup import initializers
from onnx_distill.normalize import functions
from onnx_distill.normalize.graph import Graph

IMPORTS = (
    '<ir_version: 8, opset_import: ["": 17, "mine": 1]> g (float[n,3] x) => (float[n,3] y) <bool yes = {1}, bool no = {0}>'
)
FUNCTIONS = (
    '<domain: "mine", opset_import: ["": 17]> leaky <k> (a) => (b) { c = LeakyRelu<alpha: float = @k>(a) b = Neg(c) }'
)
TWICE = '<domain: "mine", opset_import: ["": 17, "mine": 1]> twice (a) => (b) { c = mine.leaky<k = 0.5>(a) b = mine.leaky<k = 0.1>(c) }'
X = {"x": np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)}


def parse(body: str, more: str = "") -> onnx.ModelProto:
    return onnx.parser.parse_model(f"{IMPORTS} {{ {body} }} {more}")


def made(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = Graph(models.load(model))
    functions.rewrite(graph)
    return graph.finish()


def branches(condition: str, then: str, other: str, output: str = "y") -> str:
    graphs = [
        f"{name} = g_{name} () => (float[n,3] z) {{ {body} }}"
        for name, body in (("then_branch", then), ("else_branch", other))
    ]
    return f"{output} = If({condition}) <{', '.join(graphs)}>"


def test_functions_within_functions_are_inlined_with_their_attributes():
    model = parse("a = mine.twice(x) y = mine.leaky<k = 0.3>(a)", FUNCTIONS + TWICE)
    result = made(model)
    assert operators(result) == {"LeakyRelu", "Neg"} and not result.functions
    same_outputs(model, result, X)


def test_weights_are_not_copied_through_the_inliner(monkeypatch):
    seen, inline = [], functions.inliner.inline_local_functions
    monkeypatch.setattr(
        functions.inliner, "inline_local_functions", lambda m, **more: seen.append(m.ByteSize()) or inline(m, **more)
    )
    model = parse("a = MatMul(x, w) b = MatMul(a, v) y = mine.leaky<k = 0.3>(b)", FUNCTIONS)
    for name, shape in (("w", (3, 2000)), ("v", (2000, 3))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), name))
    result = made(model)
    assert max(seen) < 2000 and initializers(result)["w"].raw_data
    same_outputs(model, result, X)


def test_a_model_without_functions_or_conditions_stays():
    assert functions.rewrite(Graph(parse("y = Relu(x)"))) == []


@pytest.mark.parametrize("condition, operator", [("yes", "Relu"), ("no", "Neg")])
def test_the_branch_of_a_known_condition_takes_its_place(condition, operator):
    model = parse(branches(condition, "z = Relu(x)", "z = Neg(x)"))
    result = made(model)
    assert operators(result) == {operator, "Identity"}
    same_outputs(model, result, X)


def test_branches_in_branches_and_names_that_are_in_both():
    inner = branches("no", "w = Exp(v) z = Relu(w)", "w = Neg(v) z = Abs(w)", "z")
    model = parse("o = Sin(x) v = Cos(o) " + branches("yes", inner, "w = Identity(v) z = Identity(w)"))
    result = made(model)
    assert operators(result) == {"Sin", "Cos", "Neg", "Abs", "Identity"}
    same_outputs(model, result, X)


def test_a_branch_may_hold_its_own_constants():
    then = "then_branch = g1 () => (float[n,3] z) <float two = {2}> { z = Mul(a, two) }"
    model = parse(f"k = Relu(x) a = Neg(k) y = If(yes) <{then}, else_branch = g2 () => (float[n,3] z) {{ z = Neg(a) }}>")
    same_outputs(model, made(model), X)


def test_an_if_that_depends_on_the_images_stays():
    body = "s = ReduceSum<keepdims = 0>(x) zero = Constant<value_float = 0.0>() c = Greater(s, zero) "
    assert "If" in operators(made(parse(body + branches("c", "z = Relu(x)", "z = Neg(x)"))))


def test_a_function_that_the_inliner_refuses_is_an_input_error(monkeypatch):
    def refuses(*_, **__):
        raise RuntimeError("planted\nmore")

    monkeypatch.setattr(functions.inliner, "inline_local_functions", refuses)
    with pytest.raises(InputError, match="functions cannot be inlined: planted. Export it without them"):
        made(parse("y = mine.leaky<k = 0.3>(x)", FUNCTIONS))
