"""Rewrites of a line or two: transpose, squeeze, matmul_vector, max_pool."""

import numpy as np
import pytest
from classifier import becomes, classifier, stays, with_output_shape

from onnx_distill.lookup import attribute
from onnx_distill.normalize import normalize


@pytest.mark.parametrize("image", ["float[3,4,8,8] x", "float[3,4,9] x"])
def test_a_transpose_without_perm_gets_one(image):
    becomes(classifier("t = Transpose(a) u = Tanh(t) b = Transpose(u)", image), "transpose")


def test_a_transpose_with_perm_stays():
    stays(classifier("b = Transpose<perm = [0, 2, 3, 1]>(a)"), "transpose")


def test_a_squeeze_of_everything_names_its_axes_and_keeps_a_batch_of_one():
    model = with_output_shape(classifier("m = GlobalAveragePool(a) b = Squeeze(m)", head=False), "n", 4)
    made = becomes(model, "squeeze", trains=False)
    node = next(node for node in made.graph.node if node.op_type == "Squeeze")
    assert [list(np.frombuffer(t.raw_data, np.int64)) for t in made.graph.initializer if t.name == node.input[1]] == [[2, 3]]


def test_a_squeeze_with_axes_stays():
    stays(classifier("m = GlobalAveragePool(a) b = Squeeze(m, axes)", axes=np.array([2, 3])), "squeeze")


@pytest.mark.parametrize("operands", ["a, v", "v, a"])
def test_a_constant_vector_becomes_a_matrix(operands):
    becomes(classifier(f"b = MatMul({operands})", v=(8,)), "matmul_vector")


def test_matrices_and_computed_vectors_stay():
    stays(classifier("b = MatMul(a, v)", v=(8, 2)), "matmul_vector")
    stays(classifier("u = ReduceMean<axes = [0, 1, 2], keepdims = 0>(a) b = MatMul(a, u)", head=False), "matmul_vector")


def test_storage_order_goes_where_no_indices_are_read():
    becomes(classifier("b = MaxPool<kernel_shape = [2, 2], storage_order = 1>(a)"), "max_pool")


def test_storage_order_stays_where_indices_are_read():
    body = "p, i = MaxPool<kernel_shape = [2, 2], storage_order = 1>(a) j = Cast<to = 1>(i) b = Add(p, j)"
    made, _ = normalize(classifier(body, head=False))
    assert [attribute(node, "storage_order") for node in made.graph.node if node.op_type == "MaxPool"] == [1]
