"""How the installed onnxruntime would run a model on this CPU: which nodes in integers, which in floats, and why those."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime as ort

from onnx_distill import runtime
from onnx_distill.facts.logits import label, value_types
from onnx_distill.lookup import consumers, initializers, producers
from onnx_distill.placement.table import PASSING, PLACEMENT, role_of
from onnx_distill.qdq import PACKED

INTEGER_TYPES = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
BETWEEN = ("QuantizeLinear", "DequantizeLinear")  # they go from one world to the other
BLOCKED = "_nchwc"  # what the runtime adds to the names of nodes that it moves to its blocked layout
LAYOUT = ("ReorderInput", "ReorderOutput")


@dataclass(frozen=True)
class FloatNode:
    """A node that computes in floats, and why."""

    node: str
    operator: str
    reason: str


@dataclass(frozen=True)
class Execution:
    """The graph that a runtime made of a model. integers: operator -> nodes that read or give 8-bit integers."""

    onnxruntime: str
    integers: dict[str, int]
    conversions: int
    floats: tuple[FloatNode, ...]


def execution(model: onnx.ModelProto) -> Execution:
    """Load the model as users do, with default optimizations, and look at what they made. Raises InputError where it does not load."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        runtime.open_session(model, log_path=str(path), exact=False)
        made = onnx.load(str(path))
    constants, made_by, readers = initializers(made), producers(made), consumers(made)
    integer_values = _integer_values(made)
    integers: Counter[str] = Counter()
    floats, conversions = [], 0
    for node in made.graph.node:
        if node.op_type in BETWEEN:
            conversions += 1
        elif any(name in integer_values for name in (*node.input, *node.output)):
            integers[node.op_type] += 1
        elif node.op_type not in (*LAYOUT, "Constant", "Identity") and any(n not in constants for n in node.input if n):
            floats.append(
                FloatNode(label(node).removesuffix(BLOCKED), node.op_type, _reason(node, constants, made_by, readers))
            )
    return Execution(ort.__version__, dict(integers.most_common()), conversions, tuple(floats))


def _integer_values(model: onnx.ModelProto) -> set[str]:
    """Values of 8-bit integers: those of inference, and what the runtime's own operators, unknown to it, give."""
    found = {name for name, t in value_types(model).items() if t.type.tensor_type.elem_type in INTEGER_TYPES}
    for node in model.graph.node:
        own = node.op_type.startswith("QLinear") or node.op_type == "QuantizeLinear"
        own = own or (node.op_type == "QGemm" and len(node.input) > 7 and bool(node.input[7]))
        if own or (PLACEMENT.get(node.op_type) == PASSING and node.input[0] in found):
            found.update(name for name in node.output if name)
    return found


def _reason(node: onnx.NodeProto, constants, made_by, readers) -> str:
    plain = node.op_type[5:] if node.op_type.startswith("Fused") else node.op_type
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.op_type, copy.domain = plain, ""
    stored = [made_by[name].input[0] for name in node.input if name in made_by and made_by[name].op_type == BETWEEN[1]]
    if any(name in constants and constants[name].data_type in PACKED for name in stored):
        return "its weights are stored in 4 bits, which no integer kernel reads"
    if plain not in PLACEMENT:
        return "the runtime has no integer kernel for it"
    if role_of(copy, constants) is None:
        return "the runtime has no integer kernel for this form of it"
    bare = [
        name
        for name in node.input[:2]
        if name and (made_by[name].op_type != "DequantizeLinear" if name in made_by else name not in constants)
    ]
    if bare:
        return f"it reads {bare[0]!r}, which is not quantized"
    if any(reader.op_type not in BETWEEN for name in node.output for reader in readers.get(name, [])):
        return "its result is read as floats"
    if not any(readers.get(name) for name in node.output):
        return "its result is an output, in floats"
    return "the runtime did not fuse it with its quantizers"


def render_execution(found: Execution) -> str:
    """As aligned lines, as `inspect` prints."""
    lines = [("runs in", f"onnxruntime {found.onnxruntime}, CPU")]
    lines += [("integers" if i == 0 else "", f"{count:5} {op}") for i, (op, count) in enumerate(found.integers.items())]
    lines += [] if found.integers else [("integers", "nothing")]
    lines += [("conversions", f"{found.conversions:5} between floats and integers")]
    for i, one in enumerate(found.floats):
        lines.append(("floats" if i == 0 else "", f"      {one.operator} {one.node}: {one.reason}"))
    lines += [] if found.floats else [("floats", "nothing")]
    return "\n".join(f"{word:14} {text}".rstrip() for word, text in lines)
