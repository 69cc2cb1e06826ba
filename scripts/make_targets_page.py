"""docs/targets.md, from the table of targets. `make docs` writes it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from onnx_distill.targets import DEFAULT, TARGETS, Target

PAGE = Path(__file__).resolve().parent.parent / "docs" / "targets.md"
FIELDS = {  # heading -> how a target's row fills it
    "activations": lambda t: "int8, zero point 0" if t.symmetric else "uint8",
    "8-bit weights": lambda t: (
        f"{t.weights}, {'-' if t.weights == 'int8' else '128 +- '}{t.weight_limit}"
        + (f"..{t.weight_limit}" if t.weights == "int8" else "")
    ),
    "weight scales": lambda t: "per channel" if t.per_channel else "per tensor",
    "below 8 bits": lambda t: "weights and activations" if t.clips else "weights",
    "sums": lambda t: ("one operand " + ("16 bits" if t.wide_sums else "float")) if t.float_sums else "integers",
    "bias": lambda t: t.bias,
}


def page() -> str:
    lines = [
        "# Targets",
        "",
        "Made by `make docs` from onnx_distill/targets.py. `--target` of `quantize` and `run` says where the student will run; training",
        "simulates what that target computes. The default, `auto`, is onnxruntime's row for this machine, found by running a small product",
        "of matrices: `ort-x86-novnni` where its sums saturate, `ort-arm` on Arm, else `ort-x86`. The file's metadata and run/config.yaml say",
        f"which it was. The library's `QuantizeConfig` takes no `auto`, its default is `{DEFAULT}` on any machine; `machine.own_target()` tells",
        "what the command line would take. `export` takes the target that the student was quantized for, or another one that computes the",
        "same, and refuses one that does not.",
        "",
        "| target | " + " | ".join(FIELDS) + " |",
        "|---|" + "---|" * len(FIELDS),
    ]
    lines += [f"| `{t.name}` | " + " | ".join(fill(t) for fill in FIELDS.values()) + " |" for t in TARGETS.values()]
    for target in TARGETS.values():
        lines += ["", f"## {target.name}", "", f"For {target.runs_on}.", *_sources(target)]
    return "\n".join(lines) + "\n"


def _sources(target: Target) -> list[str]:
    defaults = {f.name: f.default for f in dataclasses.fields(Target) if f.name not in ("name", "runs_on", "sources")}
    silent = [name for name, value in defaults.items() if getattr(target, name) != value and name not in target.sources]
    assert not silent, f"{target.name} has no source for {silent}"
    return ["", *(f"- `{name}`: {text}." for name, text in target.sources.items())] if target.sources else []


if __name__ == "__main__":
    PAGE.write_text(page())
