"""Results as text: the table that ends a run."""

from __future__ import annotations

from typing import Any

from onnx_distill.evaluate import Evaluation
from onnx_distill.run.result import Row, records
from onnx_distill.training.score import share_error

FEW = 2500  # images; with more the standard error of a share near 95 % is below half a point


def table(rows: list[Row]) -> str:
    """Aligned columns: top-1, top-5, agreement with the first row, KL, size, latency with its ratio to the first row."""
    return _aligned(table_cells(rows))


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths)))
        for line in lines
    )


def table_cells(rows: list[Row]) -> list[list[str]]:
    """The heads, then the cells of each row."""
    sizes = sorted({size for row in rows for size in row.measured.latency_seconds or {}})
    heads = ["", "top-1 %", "top-5 %", "agree %", "KL", "size kB", *(f"batch {size}, ms" for size in sizes)]
    return [heads] + [_cells(row, rows[0], sizes) for row in rows]


def _cells(row: Row, first: Row, sizes: list[int]) -> list[str]:
    m = row.measured
    return [
        row.name,
        _percent(m.top1, m.count),
        _percent(m.top5, m.count),
        _percent(m.agreement, 0 if row is first else m.count),  # with itself a model agrees without an error
        "-" if m.kl is None else f"{m.kl:.4f}",
        _kilobytes(m.size_bytes),
        *(_latency(row, first, size) for size in sizes),
    ]


def _percent(share: float | None, count: int) -> str:
    """In %, with its standard error where that is large enough to matter. count: images; 0: the share is exact."""
    if share is None:
        return "-"
    return f"{100 * share:.2f}" + (f" ± {100 * share_error(share, count):.1f}" if 0 < count < FEW else "")


def _kilobytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1000:,.0f}"


def _latency(row: Row, first: Row, size: int) -> str:
    seconds, base = ((r.measured.latency_seconds or {}).get(size) for r in (row, first))
    if seconds is None or base is None:
        return "-"
    ratio = base / seconds
    return f"{1000 * seconds:.3f} ({ratio:.2f}x)"


class Evaluations(dict[str, Evaluation]):
    """Name -> what was measured; shown as the table that `onnx-distill eval` prints."""

    def __repr__(self) -> str:
        return table(self._rows()) if self else "{}"

    def records(self) -> list[dict[str, Any]]:
        """For a table: pandas.DataFrame(found.records())."""
        return records(self._rows())

    def _rows(self) -> list[Row]:
        return [Row(name, measured) for name, measured in self.items()]
