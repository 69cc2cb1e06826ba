"""result.json: what each model of a run was found to be worth, written and read back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnx_distill.evaluate import Evaluation
from onnx_distill.files.replacing import replacing

RESULT = "result.json"
REPORTS = ("report.html", "report.json", "verify.json")  # as page/run_report.py and docs/cli.md name them


@dataclass(frozen=True)
class Row:
    """One line of the result: a name and what was measured."""

    name: str
    measured: Evaluation


def records(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The rows for a table, pandas.DataFrame(records(rows)): plain names to plain values, latency by batch size."""
    return [_record(row) for row in rows]


def _record(row: Row) -> dict[str, Any]:
    measured = asdict(row.measured)
    latency = measured.pop("latency_seconds") or {}
    return {"model": row.name, **measured, **{f"latency_seconds_batch_{size}": seconds for size, seconds in latency.items()}}


def write_result(folder: Path, rows: list[Row], configs: dict[str, Any], kept: str = "") -> None:
    """configs: the choices that the models were made with. kept: why the exported file is the PTQ model, where it is."""
    summary = {"config": configs, "kept": kept, "rows": [{"name": row.name, **asdict(row.measured)} for row in rows]}
    with replacing(folder / RESULT) as temporary:
        temporary.write_text(json.dumps(summary, indent=1))


def forget_result(folder: Path) -> None:
    """What an earlier student was worth is gone, before another one takes its place."""
    for name in (RESULT, *REPORTS):
        (folder / name).unlink(missing_ok=True)


def mark_refused(folder: Path, why: str) -> None:
    """Write into the result why the student is refused; '': it is not."""
    summary = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    changed = {**{name: value for name, value in summary.items() if name != "refused"}, **({"refused": why} if why else {})}
    if changed != summary:
        with replacing(folder / RESULT) as temporary:
            temporary.write_text(json.dumps(changed, indent=1))


def read_rows(folder: Path) -> list[Row] | None:
    """The rows that were written to the folder; None where there are none, or they are damaged."""
    try:
        found = json.loads((folder / RESULT).read_text(encoding="utf-8"))["rows"]
        return [Row(row.pop("name"), Evaluation(**{**row, "latency_seconds": _by_size(row)})) for row in found]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _by_size(row: dict[str, Any]) -> dict[int, float] | None:
    """Batch size -> seconds; the names of JSON are text."""
    latency = row["latency_seconds"]
    return None if latency is None else {int(size): seconds for size, seconds in latency.items()}
