"""docs/operators.md is what the tables say, and has a row for every operator in any of them."""

from __future__ import annotations

import make_operators_page
import pytest

from onnx_distill import integer_form, normalize
from onnx_distill.gradients import RULES
from onnx_distill.placement.table import PLACEMENT
from onnx_distill.trainable.trainability import CASES, CONSTANT_OUTPUT, EXACT, FAKE_QUANTIZED, OBSTACLES

LINES = [line for line in make_operators_page.page().splitlines() if line.startswith("| ")]
ROWS = {line[2:].split(" | ")[0]: line[2:].split(" | ") for line in LINES}
TABLES = (EXACT, OBSTACLES, CASES, RULES, CONSTANT_OUTPUT, FAKE_QUANTIZED, PLACEMENT)


def test_page_is_what_the_tables_say():
    assert make_operators_page.PAGE.read_text() == make_operators_page.page() + "\n", "run: make docs"


def test_every_operator_of_a_table_has_a_row():
    rules = (*normalize.REWRITES, *integer_form.REWRITES)
    named = {operator for table in (*TABLES, *(rule.OPS for rule in rules)) for operator in table}
    assert {operator.replace("::", " ") for operator in named} <= set(ROWS)


@pytest.mark.parametrize(
    "operator, since, training, quantized",
    [
        ("Conv", "1", "runtime", "integers"),
        ("Relu", "1", "runtime", "bound of a quantizer"),
        ("Transpose", "1", "runtime", "moves integers"),
        ("Add", "1", "runtime", "integers, between integers"),
        ("HardSwish", "14", "ours", "integers, in parts"),
        ("Where", "9", "runtime, ours", "floats"),
        ("GlobalMaxPool", "1", "rewritten", "as what it becomes"),
        ("Swish", "24", "rewritten", "as what it becomes"),
        ("LpPool", "1", "refused: no gradient", "-"),
        ("If", "1", "refused: kills the process; export the model with its condition fixed", "-"),
        ("Shape", "1", "none needed", "-"),
        ("com.microsoft FastGelu", "-", "runtime", "floats"),
    ],
)
def test_rows_say_since_when_how_it_is_trained_and_quantized(operator, since, training, quantized):
    assert ROWS[operator][1:4] == [since, training, quantized]
