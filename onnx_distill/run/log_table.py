"""log.csv, for a spreadsheet: a row for each line of log.jsonl, in the same order, after any interruption too."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from onnx_distill.files.replacing import replacing

TABLE = "log.csv"
AFTER = "after_step"  # in log.jsonl: the step after which an evaluation was
COLUMNS = (
    "step",
    "epoch",
    "images",
    "loss",
    "learning_rate",
    "score",
    "kl",
)  # as in log.jsonl; a step has no score, and so on


def table_of(lines: Sequence[Mapping[str, float]]) -> str:
    """The heads and a row for each line of log.jsonl."""
    return _rows([dict(zip(COLUMNS, COLUMNS)), *map(_row, lines)])


def write_table(folder: Path, lines: Sequence[Mapping[str, float]]) -> None:
    with replacing(folder / TABLE) as temporary:
        temporary.write_text(table_of(lines), encoding="utf-8")


def add_row(folder: Path, line: Mapping[str, float]) -> None:
    """At the end, below heads that are written first where there is no table yet. Raises OSError."""
    with (folder / TABLE).open("a", encoding="utf-8") as file:
        file.write(_rows([_row(line)]) if file.tell() else table_of([line]))


def _row(line: Mapping[str, float]) -> dict[str, float]:
    return {"step": line[AFTER], **line} if AFTER in line else dict(line)


def _rows(rows: Sequence[Mapping[str, object]]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n").writerows(rows)
    return text.getvalue()
