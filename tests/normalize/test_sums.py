import numpy as np
import pytest
from classifier import becomes, classifier, stays, with_output_shape
from equal import operators


@pytest.mark.parametrize("operator, made_of", [("Sum", {"Add"}), ("Mean", {"Add", "Mul"})])
@pytest.mark.parametrize("body", ["(a, t)", "(a, t, p)", "(p, a, t, a)"], ids=["two", "three that broadcast", "one twice"])
def test_sums_are_chains_of_add(operator, made_of, body):
    values = {"p": (4, 1, 1)} if "p" in body else {}
    made = becomes(classifier(f"t = Tanh(a) b = {operator}{body}", **values), "sums")
    assert operator not in operators(made) and made_of <= operators(made)


@pytest.mark.parametrize("operator", ["Sum", "Mean"])
def test_a_sum_of_one_is_that_one(operator):
    made = becomes(classifier(f"t = {operator}(a) b = Tanh(t)"), "sums")
    assert [node.op_type for node in made.graph.node if node.op_type in ("Add", "Mul", "Identity", operator)] == []


def test_a_sum_that_is_an_output_keeps_its_name():
    assert (
        becomes(with_output_shape(classifier("b = Sum(a, a)", head=False), "n", 4, 8, 8), "sums", trains=False)
        .graph.node[-1]
        .output[0]
        == "b"
    )


def test_sums_of_other_types_stay():
    stays(classifier("d = Cast<to = 11>(a) s = Sum(d, d) b = Cast<to = 1>(s)"), "sums")


def test_constants_that_are_summed_train():
    becomes(classifier("b = Sum(a, p, q)", p=(4, 1, 1), q=np.ones((1, 4, 8, 8), np.float32)), "sums")
