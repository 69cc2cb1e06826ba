"""What verify found, as text and as data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from onnx_distill.verify.agree import SIMULATION, Pair, Runner, Verification
from onnx_distill.verify.saturated import REMEDY
from onnx_distill.verify.trace import SATURATES, TIED, WIDE


def render(v: Verification) -> str:
    """What was found, as aligned text."""
    beside = {pair.second: pair for pair in v.pairs if pair.first == SIMULATION}
    heads = ["", "version", "top-1 %", "teacher %", "simulation %", "differ", "largest", "mean steps", "float nodes"]
    lines = [heads] + [_line(runner, beside.get(runner.name)) for runner in v.runners]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    text = ["  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths))) for line in lines]
    least = min(v.pairs, key=lambda pair: pair.agreement)
    verdict = "ok" if v.passed else "TOO LOW"
    text += [
        "",
        f"least agreement of any two on {v.images:,} images: {100 * least.agreement:.2f} % ({least.first}, {least.second}); "
        f"at least {100 * v.bound:g} % wanted: {verdict}",
    ]
    for pair in beside.values():
        if pair.first_differences:
            named = ", ".join(f"{value} ({count})" for value, count in list(pair.first_differences.items())[:3])
            text.append(f"{pair.second} parts from the {pair.first} first at {named}; {v.traced} images traced")
    if v.beyond_a_step:
        text.append(
            f"{v.beyond_a_step} images differ by more than one output step, {min(v.beyond_a_step, v.traced)} of them traced"
        )
    for runner in v.runners:
        text += [f"{runner.name} cannot be traced: {runner.untraceable}"] if runner.untraceable else []
        ties = [one for one in runner.departures if one.kind == TIED]
        if ties:
            text.append(
                f"{runner.name}: {sum(one.count for one in ties)} rounding ties in {len(ties)} values, "
                f"within {max(one.tie_distance for one in ties):.1e} steps of a tie"
            )
        wide = [one for one in runner.departures if one.kind == WIDE]
        if wide:
            text.append(
                f"{runner.name}: {sum(one.count for one in wide)} integers of {len(wide)} sums moved by quantizers of 16 bits, "
                f"by {max(one.tie_distance for one in wide):.1e} steps at most: the file is made for OpenVINO, which does not round there"
            )
        saturated = [one for one in runner.departures if one.kind == SATURATES]
        if saturated:
            text.append(
                f"{runner.name}: {sum(one.count for one in saturated)} integers of {len(saturated)} values off by up to "
                f"{max(one.largest for one in saturated)}: this machine has no VNNI and adds two 8-bit products in 16 bits "
                f"(VPMADDUBSW); quantize and train with --target {_remedy(runner.name)}"
            )
        text += [
            f"{runner.name}: UNEXPLAINED, {one.count} integers of {one.value} ({one.operator}), off by up to {one.largest}"
            for one in runner.departures
            if not one.explained
        ]
    return "\n".join(text)


def _remedy(runtime: str) -> str:
    return next((target for kind, target in REMEDY.items() if runtime.startswith(kind)), REMEDY["onnxruntime"])


def as_data(v: Verification) -> dict[str, Any]:
    """What was found, for JSON."""
    kinds = {(r.name, one.value): one.kind for r in v.runners for one in r.departures}
    data = {**asdict(v), "passed": v.passed}
    for runner in data["runners"]:
        for one in runner["departures"]:
            one["kind"] = kinds[runner["name"], one["value"]]
    return data


def _line(runner: Runner, pair: Pair | None) -> list[str]:
    percent = lambda share: "-" if share is None else f"{100 * share:.2f}"  # noqa: E731
    found = ["-"] * 4
    if pair is not None:
        found = [
            percent(pair.agreement),
            f"{pair.differing_images:,}",
            f"{pair.largest_steps:.1f}",
            f"{pair.mean_steps:.5f}",
        ]
    return [
        runner.name,
        runner.version,
        percent(runner.top1),
        percent(runner.teacher_agreement),
        *found,
        "-" if runner.float_nodes is None else str(runner.float_nodes),
    ]
