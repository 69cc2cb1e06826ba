"""The student in its teacher's place, and the teacher in the student's form."""

from __future__ import annotations

import onnx
from onnx import helper

from onnx_distill import __version__
from onnx_distill.artifacts import class_count
from onnx_distill.cut import cut, put_back_tail
from onnx_distill.errors import InputError
from onnx_distill.export import export
from onnx_distill.facts.logits import MARK, find_logits
from onnx_distill.facts.provenance import provenance, stamp
from onnx_distill.integer_form.equalize import METADATA_KEY
from onnx_distill.lookup import data_inputs, image_input, producers, shape_of
from onnx_distill.normalize.image_form import back_to, is_nhwc, logits_back_to
from onnx_distill.normalize.prepare import constants_of, pinned_to, prepare
from onnx_distill.qdq import is_quantized
from onnx_distill.targets import DEFAULT, target_of


def deployable(
    student: onnx.ModelProto, teacher: onnx.ModelProto, target: str | None = None, weight_storage: str = "int8"
) -> onnx.ModelProto:
    """The QDQ student in integers with the teacher's own tail: a drop-in replacement for the teacher.

    It takes what the teacher takes, but for height and width that the student was pinned to and inputs that it has constants for.
    target: a name of targets.py; None: the one that it was quantized for. weight_storage: see export.
    """
    if not is_quantized(student):
        raise InputError("the student has no quantizers; wanted a QDQ model. Make one with `onnx-distill quantize`.")
    original, logits = like(student, teacher), student.graph.output[0].name
    runs_on = target_of(target or provenance(student).get("target", DEFAULT))
    integers = back_to(export(student, runs_on, weight_storage), original)
    made = put_back_tail(logits_back_to(integers, original), original)
    facts = {
        entry.key: entry.value for entry in made.metadata_props if entry.key != METADATA_KEY
    }  # factors: for training alone
    helper.set_model_props(made, facts)
    origin = provenance(teacher).get("teacher_sha256")
    storage = weight_storage if weight_storage != "int8" else None
    return stamp(made, tool=__version__, teacher_sha256=origin, logits=logits, target=runs_on.name, weight_storage=storage)


def like(student: onnx.ModelProto, teacher: onnx.ModelProto) -> onnx.ModelProto:
    """The teacher with the student's constants in place of the inputs that the student has none of, and with its height and width."""
    made = prepare(teacher, constants=constants_of(student, teacher))
    if len(data_inputs(made)) != 1:
        return made
    image, shape = image_input(student), shape_of(image_input(student))
    sizes = [axis for axis in shape[1:] if isinstance(axis, int)]
    if is_nhwc(image_input(made)) and not is_nhwc(image):
        sizes = [*sizes[1:], *sizes[:1]]
    fixed = len(sizes) + 1 == len(shape) == len(shape_of(image_input(made)))
    return pinned_to(made, sizes) if fixed else made


def logits_model(student: onnx.ModelProto, teacher: onnx.ModelProto) -> onnx.ModelProto:
    """The teacher cut where the student ends, or, when that is an output of the whole teacher, where its Softmax is fed."""
    teacher = like(student, teacher)
    end, marked = student.graph.output[0].name, any(entry.key == MARK for entry in student.metadata_props)
    if marked and producers(student)[end].op_type in ("Softmax", "LogSoftmax"):
        raise InputError(
            "the student ends in a Softmax, as exported ones do; wanted the QDQ model that ends in its logits, such as run/trained.qdq.onnx."
        )
    if marked or end not in {output.name for output in teacher.graph.output}:
        return cut(teacher, end)
    try:
        return cut(teacher, find_logits(teacher).value)
    except InputError:  # no Softmax behind the teacher's logits: they are its output
        return cut(teacher, end)


def classes_of(model: onnx.ModelProto) -> int:
    """Number of classes of a model that ends in its logits. Raises InputError for logits of another shape."""
    return class_count(model.graph.output[0])
