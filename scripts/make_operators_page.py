"""docs/operators.md, from the tables of rewrites, gradients and placement. `make docs` writes it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import onnx

from onnx_distill import integer_form, normalize
from onnx_distill.gradients import ONLY_WHERE, RULES
from onnx_distill.normalize import auto_pad, opset
from onnx_distill.placement.table import ABSORBED, FORMS, JOINING, PASSING, PLACEMENT, WEIGHTED
from onnx_distill.trainable.trainability import CASES, CONSTANT_OUTPUT, EXACT, FAKE_QUANTIZED, NO_GRADIENT, OBSTACLES

PAGE = Path(__file__).resolve().parent.parent / "docs" / "operators.md"
QUANTIZED = {
    WEIGHTED: "integers",
    JOINING: "integers, between integers",
    ABSORBED: "bound of a quantizer",
    PASSING: "moves integers",
}
NEWER = {"Swish": 24}  # what the oldest onnx that this project runs with does not know
SINCE = {
    schema.name: min(other.since_version for other in onnx.defs.get_all_schemas_with_history() if other.name == schema.name)
    for schema in onnx.defs.get_all_schemas()
    if schema.domain == ""
}
DEPRECATED = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == "" and schema.deprecated}


def page() -> str:
    rewritten = sorted({operator for rule in (*normalize.REWRITES, *integer_form.REWRITES) for operator in rule.OPS})
    known = {*EXACT, *OBSTACLES, *CASES, *RULES, *CONSTANT_OUTPUT, *FAKE_QUANTIZED, *PLACEMENT, *rewritten}
    return "\n".join(
        [
            "# Operators",
            "",
            "Made by `make docs` from the tables in the code: normalize/, gradients/, trainable/trainability.py, placement/table.py and integer_form/. An",
            "operator that is not here is refused: nobody has tried whether its gradient is right.",
            "",
            "- **since**: the first opset of ONNX that has it. Models of opset 7 and newer are read.",
            "- **training**: `runtime`: onnxruntime-training's own gradient, tried against differences. `ours`: the runtime has none or a wrong one, and a",
            "  rule of this project is registered with it. `rewritten`: it is trained as what it becomes. `refused`: with this reason, by name, before",
            "  anything is spent on it. `none needed`: its output does not change with the floats that it reads.",
            "- **quantized**: `integers`: stock ONNX Runtime has an integer kernel. `integers, between integers`: where its neighbours are integers anyway.",
            "  `bound of a quantizer`: it becomes the end of a range and costs nothing. `moves integers`: passes on what it reads. `floats`: an island",
            "  between DequantizeLinear and QuantizeLinear.",
            "- **how**: the rewrites that look at it, by file (below), and what its gradient and its integer kernel want.",
            "",
            "| operator | since | training | quantized | how |",
            "|---|---|---|---|---|",
            *(_row(operator) for operator in sorted(known, key=lambda name: ("::" in name, name))),
            *_rules("Rewrites of one operator", "normalize", normalize.REWRITES),
            *_rules("Rewrites of the whole graph", "normalize", dict.fromkeys(normalize.PREPARATIONS + normalize.FINISHING)),
            *_rules("Written for integers, when a model is quantized", "integer_form", integer_form.REWRITES),
        ]
    )


def _row(operator: str) -> str:
    cells = [operator.replace("::", " "), _since(operator), _training(operator), _quantized(operator), _how(operator)]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _since(operator: str) -> str:
    return "-" if "::" in operator else str(SINCE.get(operator) or NEWER[operator])


def _is_rewritten(operator: str) -> bool:
    """Whether what cannot be trained as it stands becomes something else first."""
    by_rule = any(operator in rule.OPS and rule is not auto_pad for rule in normalize.REWRITES)  # it keeps the operator
    return operator not in RULES and (by_rule or _is_converted(operator))


def _is_converted(operator: str) -> bool:
    """Whether normalize/opset.py leaves none: deprecated operators are converted, those of later opsets written out."""
    return operator in DEPRECATED or (SINCE.get(operator) or NEWER.get(operator, 0)) > opset.NEWEST


def _training(operator: str) -> str:
    if operator in FAKE_QUANTIZED:
        return "fake quantization"
    if operator in CONSTANT_OUTPUT:
        return "none needed"
    if operator in RULES:
        return "runtime, ours" if operator in ONLY_WHERE and operator in EXACT else "ours"
    if operator in EXACT:
        return "runtime"
    return "rewritten" if _is_rewritten(operator) else f"refused: {OBSTACLES[operator]}"


def _quantized(operator: str) -> str:
    if operator in PLACEMENT:
        return QUANTIZED[PLACEMENT[operator]]
    if any(operator in rule.OPS for rule in integer_form.REWRITES):
        return "integers, in parts"
    if operator in FAKE_QUANTIZED:
        return "the quantizers"
    trains = operator in EXACT or operator in RULES
    return "floats" if trains else "as what it becomes" if _is_rewritten(operator) else "-"


def _how(operator: str) -> str:
    names = [_name(rule) for rule in (*normalize.REWRITES, *integer_form.REWRITES) if operator in rule.OPS]
    parts = [", ".join(f"`{name}`" for name in names)] if names else []
    parts += ["`opset`"] if _is_converted(operator) else []
    gradient = (CASES.get(operator), RULES.get(operator), FORMS.get(operator))
    words = ("gradient", "gradient", "integers")
    parts += [f"{word}: {_line(table.__doc__)}" for word, table in zip(words, gradient) if table is not None]
    reason = OBSTACLES.get(operator, NO_GRADIENT)
    parts += [reason] if reason != NO_GRADIENT and _training(operator) == "rewritten" else []
    return "; ".join(parts)


def _line(doc: str | None) -> str:
    """The first line of a function's docstring, without what it raises."""
    assert doc, "every row of a table has a docstring"
    return doc.splitlines()[0].partition(" Raises ")[0].rstrip(".")


def _sentence(doc: str | None) -> str:
    """The first paragraph of a docstring, on one line."""
    assert doc, "every rewrite has a docstring"
    return " ".join(doc.partition("\n\n")[0].split()).rstrip(".")


def _name(rule: ModuleType) -> str:
    return rule.__name__.rpartition(".")[2]


def _rules(title: str, folder: str, rules) -> list[str]:
    lines = ["", f"## {title}", "", f"In onnx_distill/{folder}/, in this order; each file says when it must not fire.", ""]
    for rule in rules:
        operators = f" ({', '.join(sorted(rule.OPS))})" if hasattr(rule, "OPS") else ""
        lines.append(f"- `{_name(rule)}`{operators}: {_sentence(rule.__doc__)}.")
    return lines


if __name__ == "__main__":
    PAGE.write_text(page() + "\n")
