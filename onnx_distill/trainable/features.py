"""Which inner values the student is to share with its teacher: named by the user, or found by a rule.

The rule, `auto`: of the values that the student quantizes and the teacher has too, those made before the last layer (Conv, Gemm
or MatMul), and not merely rearranged from another one, are grouped by their size behind the channels (28x28, 14x14, ...; pooled
features are a group of their own), and the last of each group is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from onnx_distill import qdq
from onnx_distill.closest import closest
from onnx_distill.errors import InputError
from onnx_distill.facts.logits import value_types
from onnx_distill.lookup import initializers, producers, shape_of
from onnx_distill.placement.table import PASSING, role_of

AUTO = "auto"
LAYERS = frozenset(["Conv", "Gemm", "MatMul"])


@dataclass(frozen=True)
class Feature:
    """A value of the teacher, the one of the student that is to be like it, and the size of one image's part: [channels, ...]."""

    teacher: str
    student: str
    size: tuple[int, ...]


def choose(teacher: onnx.ModelProto, student: onnx.ModelProto, wanted: tuple[str, ...]) -> tuple[Feature, ...]:
    """The features that `wanted` names, each once: AUTO, NAME of a value or node of the teacher, or TEACHER=STUDENT.

    teacher: a float model that ends in its logits; student: a QDQ model of it. For NAME the student's quantized form of that
    value is taken, or the value itself where it is not quantized. Raises InputError for what is not there, or of unequal size.
    """
    pairing = _Pairing(teacher, student)
    found = [feature for text in wanted for feature in (pairing.auto() if text == AUTO else [pairing.named(text)])]
    return tuple(dict.fromkeys(found))


def check_names(teacher: onnx.ModelProto, wanted: tuple[str, ...]) -> None:
    """Raises InputError where `wanted` names what the teacher does not have; of what the student has nothing is known yet."""
    made = producers(teacher)
    for text in wanted:
        if text != AUTO:
            _of_teacher(teacher, made, text)


def _of_teacher(teacher: onnx.ModelProto, made: dict[str, onnx.NodeProto], text: str) -> tuple[str, str]:
    """(value of the teacher, what stands behind the =, or '') of NAME or TEACHER=STUDENT; a node's name stands for its first output."""
    by_node = {node.name: node.output[0] for node in teacher.graph.node if node.name}
    known = {**by_node, **{name: name for name in made}}
    name, _, partner = (text, "", "") if text in known else text.partition("=")
    if name not in known:
        raise InputError(f"the teacher has no value or node {name!r} for --features{closest(name, list(made))}")
    return known[name], partner


class _Pairing:
    def __init__(self, teacher: onnx.ModelProto, student: onnx.ModelProto):
        self.teacher, self.made, self.known = teacher, producers(teacher), value_types(teacher)
        self.theirs, self.sizes, self.constants = producers(student), value_types(student), initializers(teacher)
        constants = initializers(student)
        self.quantizers = [q for q in qdq.find(student) if q.source not in constants]

    def auto(self) -> list[Feature]:
        before, last = _made_before_the_last_layer(self.teacher), {}
        for name in (qdq.stands_for(q, self.made) or "" for q in self.quantizers):
            rearranged = name in before and role_of(self.made[name], self.constants) == PASSING
            size = self._size(self.known, name) if name in before and not rearranged else None
            partner = self._students(name) if size else None
            if size and partner and self._size(self.sizes, partner) in (size, None):
                last[size[1:]] = (before[name], Feature(name, partner, size))
        if not last:
            raise InputError(
                "no inner value of the teacher is found again in the student; name pairs yourself: --features TEACHER=STUDENT."
            )
        return [feature for _, feature in sorted(last.values(), key=lambda found: found[0])]

    def named(self, text: str) -> Feature:
        value, partner = _of_teacher(self.teacher, self.made, text)
        partner = partner or self._students(value) or ""
        if partner not in self.theirs:
            problem = f"no value {partner!r}" if partner else f"nothing like the teacher's {value!r}"
            raise InputError(
                f"the student has {problem}; wanted --features TEACHER=STUDENT{closest(partner or value, list(self.theirs))}"
            )
        return self._checked(value, partner)

    def _students(self, value: str) -> str | None:
        """The quantized form of a teacher's value in the student, or the value itself where it has none."""
        names = {qdq.stands_for(q, self.made): q.result for q in reversed(self.quantizers)}
        return names.get(value) or (value if value in self.theirs else None)

    def _checked(self, value: str, partner: str) -> Feature:
        size, other = self._size(self.known, value), self._size(self.sizes, partner)
        if size is None:
            raise InputError(
                f"the size of the teacher's {value!r} is not known; wanted [batch, ...] with the rest fixed. Choose another for --features."
            )
        if other not in (size, None):
            raise InputError(
                f"feature {value!r} of the teacher is {_text(size)} an image, {partner!r} of the student {_text(other)}; wanted the same."
            )
        return Feature(value, partner, size)

    @staticmethod
    def _size(known: dict[str, onnx.ValueInfoProto], value: str) -> tuple[int, ...] | None:
        """Of one image; None where the first axis is not the batch, or another one is not fixed."""
        shape = shape_of(known[value]) if value in known and known[value].type.tensor_type.HasField("shape") else []
        fixed = [size for size in shape[1:] if isinstance(size, int)]
        return tuple(fixed) if len(shape) > 1 and not isinstance(shape[0], int) and len(fixed) == len(shape) - 1 else None


def _made_before_the_last_layer(model: onnx.ModelProto) -> dict[str, int]:
    """Value -> its place in the graph."""
    nodes = list(model.graph.node)
    last = max((place for place, node in enumerate(nodes) if node.op_type in LAYERS), default=len(nodes))
    return {name: place for place, node in enumerate(nodes[:last]) for name in node.output if name}


def _text(size: tuple[int, ...] | None) -> str:
    return "x".join(map(str, size or ()))
