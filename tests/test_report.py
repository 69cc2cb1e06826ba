"""The table that ends a run: its numbers, and that they stand under their heads."""

from __future__ import annotations

import re

import pytest

from onnx_distill.evaluate import Evaluation
from onnx_distill.report import table
from onnx_distill.run.result import Row

FLOAT = Row("float", Evaluation(10000, 0.9466, 0.9998, 1.0, 0.0, 1_379_045, {1: 0.000150, 64: 0.0091}))
PTQ = Row("PTQ", Evaluation(10000, 0.5, 0.75, 0.625, 0.38761, 463_924, {1: 0.000100, 64: 0.0182}))
DISTILLED = Row("distilled", Evaluation(10000, 1.0, 1.0, 0.99995, 12.5, 999_499, {1: 0.000300, 64: 0.00455}))
FEW = Row("few", Evaluation(100, 0.9, 1.0, 0.5, 0.25, 463_924, {1: 0.000100, 64: 0.0182}))
UNKNOWN = Row("unlabelled, of unknown size", Evaluation(7))


def cells(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def test_table_has_a_head_and_a_line_for_each_row():
    first = [cells(line)[0] for line in table([FLOAT, PTQ, DISTILLED]).splitlines()]
    assert first == ["top-1 %", "float", "PTQ", "distilled"]


def test_table_shows_percent_kilobytes_and_milliseconds():
    head, line, *_ = table([FLOAT, PTQ]).splitlines()
    assert cells(head) == ["top-1 %", "top-5 %", "agree %", "KL", "size kB", "batch 1, ms", "batch 64, ms"]
    assert cells(line) == ["float", "94.66", "99.98", "100.00", "0.0000", "1,379", "0.150 (1.00x)", "9.100 (1.00x)"]


def test_table_says_how_many_times_as_fast_as_the_first_row_each_is():
    lines = table([FLOAT, PTQ, DISTILLED]).splitlines()
    assert cells(lines[2])[-2:] == ["0.100 (1.50x)", "18.200 (0.50x)"]
    assert cells(lines[3])[-2:] == ["0.300 (0.50x)", "4.550 (2.00x)"]


def test_percentages_of_few_images_have_their_standard_error_beside_them():
    """sqrt(0.9 * 0.1 / 100) is 3 points; all of 100 have the error of a share with one of 101 wrong."""
    assert cells(table([FLOAT, FEW]).splitlines()[2])[1:4] == ["90.00 ± 3.0", "100.00 ± 1.0", "50.00 ± 5.0"]


@pytest.mark.parametrize("count, shown", [(2499, "90.00 ± 0.6"), (2500, "90.00")])
def test_errors_are_shown_below_2500_images(count, shown):
    assert cells(table([FLOAT, Row("a", Evaluation(count, 0.9))]).splitlines()[2])[1] == shown


def test_the_first_row_agrees_with_itself_without_an_error():
    assert cells(table([FEW, FEW]).splitlines()[1])[1:4] == ["90.00 ± 3.0", "100.00 ± 1.0", "50.00"]


def test_table_shows_what_is_not_known_as_a_dash():
    assert cells(table([FLOAT, UNKNOWN]).splitlines()[2]) == [UNKNOWN.name, *["-"] * 7]


def test_table_of_rows_without_latency_has_no_latency_columns():
    assert cells(table([UNKNOWN]).splitlines()[0])[-1] == "size kB"


def test_table_orders_batch_sizes_by_number():
    row = Row("a", Evaluation(1, latency_seconds={64: 1.0, 1: 1.0, 8: 1.0}))
    assert cells(table([row]).splitlines()[0])[-3:] == ["batch 1, ms", "batch 8, ms", "batch 64, ms"]


@pytest.mark.parametrize(
    "rows", [[FLOAT], [FLOAT, PTQ, DISTILLED], [UNKNOWN, FLOAT], [FLOAT, UNKNOWN], [FEW, FLOAT, DISTILLED]], ids=len
)
def test_every_column_ends_in_the_same_place_on_every_line(rows):
    lines = table(rows).splitlines()
    assert len({len(line) for line in lines}) == 1
    ends = [[match.end() for match in re.finditer(r"\S+(?: \S+)*", line)] for line in lines]
    assert len({tuple(places[-7:]) for places in ends if len(places) >= 7}) == 1


def test_names_start_in_the_first_column():
    assert all(line.startswith(row.name) for line, row in zip(table([FLOAT, PTQ]).splitlines()[1:], [FLOAT, PTQ]))
