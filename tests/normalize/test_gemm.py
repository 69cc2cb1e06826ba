import numpy as np
import pytest
from folds import folded, net, sequence

from onnx_distill.normalize import normalize

ROWS = "float[n,4] x"


@pytest.mark.parametrize(
    "body", ["a = MatMul(x, rows) y = Add(a, b)", "a = MatMul(x, rows) y = Add(row, a)"], ids=["vector", "row"]
)
def test_a_product_and_its_bias_become_a_gemm(body):
    assert sequence(folded(net(body, ROWS))) == ["Gemm"]


@pytest.mark.parametrize(
    "body, wanted",
    [
        ("y = Gemm<alpha = 0.5>(x, rows)", ["Gemm"]),
        ("y = Gemm<alpha = 0.5, beta = 3.0>(x, rows, b)", ["Gemm"]),
        ("y = Gemm<beta = 3.0>(x, rows, row)", ["Gemm"]),
        ("y = Gemm<alpha = 2.0, transB = 1>(x, columns)", ["Gemm"]),
        ("t = Transpose<perm = [1, 0]>(x) y = Gemm<transA = 1>(t, rows)", ["Transpose", "Transpose", "Gemm"]),
    ],
    ids=["alpha", "both", "beta", "transB", "transA"],
)
def test_factors_go_into_the_constants(body, wanted):
    made = folded(net(body, ROWS))
    assert sequence(made) == wanted
    assert {entry.name for entry in made.graph.node[-1].attribute} <= {"transB"}


@pytest.mark.parametrize(
    "body, image, outputs",
    [
        ("a = MatMul(x, rows) y = Add(a, b)", "float[n,3,4] x", "y"),
        ("a = MatMul(x, rows) y = Add(a, b)", ROWS, "y, a"),
        ("a = MatMul(x, rows) c = Relu(a) y = Add(a, c)", ROWS, "y"),
        ("a = MatMul(x, rows) s = Softmax(b) c = Relu(a) y = Add(c, s)", ROWS, "y"),
        ("k = ReduceMean(x) e = Mul(rows, k) a = MatMul(x, e) y = Add(a, b)", ROWS, "y"),
        ("k = ReduceMean(x) e = Mul(rows, k) y = Gemm<alpha = 0.5>(x, e)", ROWS, "y"),
        ("y = Gemm(x, rows, b)", ROWS, "y"),
    ],
    ids=[
        "rank 3",
        "an output in between",
        "no constant",
        "something in between",
        "computed weight",
        "computed weight, alpha",
        "plain",
    ],
)
def test_it_does_not_fire(body, image, outputs):
    model = net(body, image, outputs)
    assert "gemm" not in {rewrite.rule for rewrite in normalize(model)[1]}


def test_a_shared_weight_is_not_scaled_for_others():
    model = net("a = Gemm<alpha = 0.5>(x, rows, b) c = Gemm(x, rows, b) y = Add(a, c)", ROWS)
    made = folded(model)
    assert np.array_equal(*([t for t in m.graph.initializer if t.name == "rows"][0].raw_data for m in (model, made)))
