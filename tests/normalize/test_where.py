import numpy as np
import pytest
from classifier import becomes, classifier, stays

HALF, MASK = np.float32(0.5), np.array([True, False] * 4)


@pytest.mark.parametrize(
    "body",
    [
        "m = GlobalAveragePool(a) z = Greater(x, half) b = Where(z, m, a)",
        "m = GlobalAveragePool(a) z = Greater(x, half) b = Where(z, a, m)",
        "m = GlobalAveragePool(a) n1 = Tanh(m) z = Greater(x, half) b = Where(z, n1, m)",
        "m = GlobalAveragePool(a) n1 = Tanh(m) b = Where(mask, n1, m)",
        "z = Greater(x, half) b = Where(z, a, p)",
        "z = Greater(x, half) b = Where(z, row, p)",
        "b = Where(mask, p, a)",
    ],
)
def test_broadcasts_are_expanded(body):
    becomes(classifier(body, half=HALF, mask=MASK, p=(4, 1, 1), row=(1, 1, 1, 8)), "where")


@pytest.mark.parametrize(
    "body",
    [
        "z = Greater(x, half) b = Where(z, a, x)",
        "z = Greater(x, half) b = Where(z, half, a)",
        "b = Where(mask, a, x)",
        "s = Shape(a) o = Shape<start = 0, end = 1>(a) t = Where(true, s, o) b = Reshape(a, t)",
    ],
    ids=["full", "one number", "condition", "integers"],
)
def test_it_does_not_fire(body):
    true = np.array(True)
    stays(classifier(body, head=False, half=HALF, mask=MASK, true=true), "where")
