"""Where a training step's time goes: the runtime's own profile, summed over kinds of node."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from onnx_distill.errors import InputError
from onnx_distill.files.replacing import replacing
from onnx_distill.training.step import Step

MOST = 10  # kinds in the table


@dataclass(frozen=True)
class Cost:
    """All nodes of one operator: how many run in a step, and the sum of their median times."""

    operator: str
    nodes: float
    milliseconds: float
    share: float  # of all nodes


class Recording:
    """The profile of one Step, which goes to the file `path`; of none where the path is empty.

    folder: where the runtime is to write it while the Step lives, or None.
    """

    def __init__(self, path: str):
        self._path = path
        self._place = tempfile.TemporaryDirectory(prefix="onnx-distill-") if path else None
        self.folder = Path(self._place.name) if self._place else None

    def finish(self, step: Step) -> None:
        """Close the step and keep its profile: JSON events, which the trace viewers of browsers open."""
        if self._place is None:
            return
        step.close()
        with self._place as folder, replacing(Path(self._path)) as temporary:
            temporary.write_text(
                json.dumps([event for part in sorted(Path(folder).glob("*.json")) for event in _events(part)])
            )


def _events(path: Path) -> list[dict]:
    text = path.read_text().rstrip().rstrip(",")
    return json.loads(
        text if text.endswith("]") else text + "]"
    )  # without its end where the session was not closed (1.19.2)


def costs(path: Path) -> list[Cost]:
    """The kinds of node in a profile, the dearest first. Raises InputError for a file that holds no profile."""
    try:
        events = json.loads(Path(path).read_text())
        runs = sum(event["name"] == "model_run" for event in events)
        times: dict[tuple[str, str], list[float]] = defaultdict(list)
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                times[event["args"]["op_name"], event["name"]].append(event["dur"] / 1000)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no profile ({error}); wanted the file that `train --profile` wrote.") from None
    if not times or not runs:
        raise InputError(f"the profile {path} holds no nodes; wanted at least one training step.")
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for (operator, _), each in times.items():
        sums[operator][0] += len(each) / runs
        sums[operator][1] += statistics.median(each) * len(each) / runs
    total = sum(milliseconds for _, milliseconds in sums.values()) or 1.0
    made = [Cost(operator, nodes, milliseconds, milliseconds / total) for operator, (nodes, milliseconds) in sums.items()]
    return sorted(made, key=lambda cost: -cost.milliseconds)


def cost_table(found: list[Cost]) -> str:
    """Aligned columns: the dearest kinds of node, what the others take, and the sum."""
    rest = found[MOST:]
    rows = [(cost.operator, cost.nodes, cost.milliseconds, cost.share) for cost in found[:MOST]]
    if rest:
        rows.append(("others", *(sum(getattr(c, name) for c in rest) for name in ("nodes", "milliseconds", "share"))))
    rows.append(("all", *(sum(getattr(c, name) for c in found) for name in ("nodes", "milliseconds", "share"))))
    width = max(len(row[0]) for row in rows)
    lines = [f"{'a step'.ljust(width)}  nodes     ms   share"]
    return "\n".join([*lines, *(f"{n.ljust(width)}  {k:5.0f} {ms:6.2f}  {100 * s:4.0f} %" for n, k, ms, s in rows)])
