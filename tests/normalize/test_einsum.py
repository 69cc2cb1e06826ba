import pytest
from classifier import becomes, classifier, stays
from equal import operators


@pytest.mark.parametrize(
    "equation, operands",
    [
        ("bhid,bhjd->bhij", "a, c"),
        ("bhij,bhjd->bhid", "a, c"),
        ("bchw,dc->bdhw", "a, p"),
        ("dc,bchw->bdhw", "p, a"),
        ("bchw,cd->bhwd", "a, p"),
        ("bhwc,hkc->bhwk", "a, q"),
        ("bchw,chk->bwk", "a, q"),
        ("...ij,jk->...ik", "a, r"),
        ("bchw,bdhw->bcd", "a, c"),
        ("bchw,chw->b", "a, s"),
        ("bchw,bc->bchw", "a, m"),
        ("bc,bd->bcd", "m, m"),
        ("bchw,dhe->bcwde", "a, q"),
        ("bchw,dh", "a, r"),
        ("...hw,...hv->...wv", "a, c"),
    ],
)
def test_products_become_matmul_or_mul(equation, operands):
    body = f'c = Tanh(a) m = ReduceMean<axes = [2, 3], keepdims = 0>(c) b = Einsum<equation = "{equation}">({operands})'
    relative = (4, 5, 8) if "hkc" in equation else (4, 8, 8)
    model = classifier(body, p=(4, 4), q=relative, r=(8, 8), s=(4, 8, 8))
    assert "Einsum" not in operators(becomes(model, "einsum"))


@pytest.mark.parametrize("equation", ["bchw->bhwc", "bchw->bc", "bchw->bh", "bchw", "...hw->...wh", "bchw->bchw"])
def test_one_operand_is_moved_and_summed(equation):
    assert "Einsum" not in operators(becomes(classifier(f'c = Tanh(a) b = Einsum<equation = "{equation}">(c)'), "einsum"))


def test_constant_operands_stay_the_weights_of_a_matmul():
    made = becomes(classifier('b = Einsum<equation = "dc,bchw->bhwd">(p, a)', p=(5, 4)), "einsum")
    product = next(node for node in made.graph.node if node.op_type == "MatMul")
    assert {tuple(t.dims) for t in made.graph.initializer if t.name == product.input[1]} == {(4, 5)}


@pytest.mark.parametrize(
    "equation, operands, image",
    [
        ("bchh->bch", "a", "float[n,4,8,8] x"),
        ("bchw,bdhw,bc->bd", "a, a, m", "float[n,4,8,8] x"),
        ("bchw,bdhv->bcwdv", "a, a", "float[n,4,h,w] x"),
    ],
    ids=["diagonal", "three", "two groups of free sizes"],
)
def test_it_does_not_fire(equation, operands, image):
    body = f'm = ReduceMean<axes = [2, 3], keepdims = 0>(a) b = Einsum<equation = "{equation}">({operands})'
    stays(classifier(body, image, head=False), "einsum")
