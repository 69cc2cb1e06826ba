"""The profile of a step names its operators and sums what the runtime measured."""

from __future__ import annotations

import json

import pytest

from onnx_distill.errors import InputError
from onnx_distill.training import profile


def event(operator: str, name: str, microseconds: float) -> dict:
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": microseconds, "args": {"op_name": operator}}


def written(path, *events: dict, runs: int = 1):
    path.write_text(json.dumps([{"cat": "Session", "name": "model_run", "dur": 1}] * runs + list(events)))
    return path


def test_costs_are_sums_of_medians_over_the_runs(tmp_path):
    events = (
        [event("Conv", "a", t) for t in (9000, 1000, 2000)] + [event("Conv", "b", 1000)] * 3 + [event("Add", "c", 1000)] * 3
    )
    found = profile.costs(written(tmp_path / "p.json", *events, runs=3))
    assert [(cost.operator, cost.nodes, cost.milliseconds) for cost in found] == [("Conv", 2, 3.0), ("Add", 1, 1.0)]
    assert [cost.share for cost in found] == [0.75, 0.25]


def test_the_table_shows_ten_kinds_and_sums_the_rest(tmp_path):
    events = [event(f"Op{k:02}", "n", 1000 * (20 - k)) for k in range(14)]
    lines = profile.cost_table(profile.costs(written(tmp_path / "p.json", *events))).splitlines()
    assert [line.split()[0] for line in lines[1:]] == [f"Op{k:02}" for k in range(10)] + ["others", "all"]
    assert lines[-2].split()[1:3] == ["4", f"{10 + 9 + 8 + 7:.2f}"]


@pytest.mark.parametrize("text", ["", "{}", "[1]", "[]"], ids=["empty", "an object", "a number", "no events"])
def test_what_is_no_profile_is_an_error(text, tmp_path):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(InputError, match="profile"):
        profile.costs(tmp_path / "p.json")
