"""Cuts a classifier at its logits, and puts what was cut off back behind another network with the same logits.

Law: put_back_tail(cut(teacher), teacher) computes the teacher's outputs bit for bit; cut(cut(teacher)) is cut(teacher).
"""

from __future__ import annotations

import onnx
from onnx import TensorProto

from onnx_distill.edit import fresh_name, prune, rename_values
from onnx_distill.errors import InputError
from onnx_distill.facts.logits import MARK, find_logits, value_types
from onnx_distill.lookup import (
    array,
    data_inputs,
    image_input,
    initializers,
    names,
    opset,
    producers,
    quantized_node,
    read_by,
    shape_of,
)
from onnx_distill.normalize.opset import to_opset
from onnx_distill.normalize.prepare import one_input
from onnx_distill.normalize.trace import declared

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)


def cut(model: onnx.ModelProto, logits: str | None = None) -> onnx.ModelProto:
    """A new model whose one output is the logits [batch, classes]; every name, opset and metadata entry is kept.

    logits: a value or node name; None: find_logits looks for it. Nodes, initializers, functions and inputs that the logits
    do not need are gone. Raises InputError for a quantized model, for several image inputs, and for logits that are not
    float of rank 2.
    """
    _refuse_quantized(model)
    value = find_logits(model, logits).value
    output = _logits_output(model, value)
    student = onnx.ModelProto()
    student.CopyFrom(model)
    _replace(student.graph.output, [output])
    prune(student)
    _drop_unused_inputs(student)
    _drop_unused_functions(student)
    _set_mark(student, value)
    one_input(student)
    return student


def _refuse_quantized(model: onnx.ModelProto) -> None:
    node = quantized_node(model)
    if node is not None:
        raise InputError(f"already quantized: node {node.name or node.output[0]!r} is {node.op_type}; give the float model.")


def _logits_output(model: onnx.ModelProto, value: str) -> onnx.ValueInfoProto:
    """The logits' name, type and shape, once they are seen to be float and of rank 2."""
    output = value_types(model).get(value)
    if output is None or not output.type.tensor_type.HasField("shape"):
        output = declared(model, value)
    if output is None:
        raise InputError(
            f"the shape of {value!r} cannot be inferred; wanted [batch, classes]. Declare it in the model's value_info, "
            "or name another value with --logits NAME."
        )
    shape, dtype = shape_of(output), output.type.tensor_type.elem_type
    if len(shape) != 2 or dtype not in FLOATS:
        wanted = "float [batch, classes]; name the value after the last Reshape or Flatten with --logits NAME."
        raise InputError(f"logits {value!r} are {TensorProto.DataType.Name(dtype)} of shape {_text(shape)}; wanted {wanted}")
    return onnx.helper.make_value_info(value, output.type)


def _text(shape: list[int | str]) -> str:
    return f"[{', '.join(str(size) for size in shape)}]"


def _drop_unused_inputs(model: onnx.ModelProto) -> None:
    read = {name for node in model.graph.node for name in read_by(node)}
    _replace(model.graph.input, [value for value in model.graph.input if value.name in read])


def _drop_unused_functions(model: onnx.ModelProto) -> None:
    bodies = {(function.domain, function.name): function for function in model.functions}
    used, stack = set(), list(model.graph.node)
    while stack:
        node = stack.pop()
        stack += [inner for entry in node.attribute for graph in (entry.g, *entry.graphs) for inner in graph.node]
        key = (node.domain, node.op_type)
        if key in bodies and key not in used:
            used.add(key)
            stack += bodies[key].node
    _replace(model.functions, [function for function in model.functions if (function.domain, function.name) in used])


def _set_mark(model: onnx.ModelProto, value: str | None) -> None:
    _replace(model.metadata_props, [entry for entry in model.metadata_props if entry.key != MARK])
    if value is not None:
        model.metadata_props.add(key=MARK, value=value)


def _replace(repeated, items: list) -> None:
    del repeated[:]
    repeated.extend(items)


def put_back_tail(student: onnx.ModelProto, teacher: onnx.ModelProto, logits: str | None = None) -> onnx.ModelProto:
    """A new model: the student, then the teacher's nodes from the logits on, with the teacher's inputs and outputs.

    The student's one output is the value of the teacher that it was cut at, under the same name; `logits`, if given, is
    checked to be that value. A value inside the tail whose name the student uses is
    renamed. Raises InputError when the two do not fit.
    """
    seam = _seam(student, teacher, logits)
    before = _ancestors(teacher, seam)
    tail = _same_opset(_tail(teacher, before), student)
    _refuse_lost(tail, teacher, before, student)
    _rename_clashes(tail, teacher, student)
    whole = onnx.ModelProto()
    whole.CopyFrom(student)
    _append(whole, tail, teacher)
    constants = initializers(student)
    listed = [value for value in student.graph.input if value.name in constants]  # IR 3 lists initializers as inputs
    _replace(whole.graph.input, [*data_inputs(teacher), *listed])
    _replace(whole.graph.output, list(teacher.graph.output))
    _set_mark(whole, None)
    return whole


def _seam(student: onnx.ModelProto, teacher: onnx.ModelProto, logits: str | None) -> str:
    """The name of the logits, once student and teacher are seen to share it, and the images' name as well."""
    outputs = [value.name for value in student.graph.output]
    wanted = find_logits(teacher, logits or outputs[0]).value
    if outputs != [wanted]:
        raise InputError(f"the student's outputs are {outputs}; wanted the teacher's logits, {wanted!r}, alone.")
    images, read = image_input(student).name, [value.name for value in data_inputs(teacher)]
    if images not in read:
        raise InputError(
            f"the student reads {images!r}, the teacher {', '.join(map(repr, read))}; wanted the same input name."
        )
    return wanted


def _ancestors(model: onnx.ModelProto, value: str) -> set[str]:
    """Every value made by the nodes that `value` needs, itself included."""
    made_by, made, stack = producers(model), set(), [value]
    while stack:
        name = stack.pop()
        if name in made_by and name not in made:
            made.update(made_by[name].output)
            stack += read_by(made_by[name])
    return made


def _tail(teacher: onnx.ModelProto, before: set[str]) -> onnx.ModelProto:
    """The teacher without the nodes that make the values `before`; those it still reads are its inputs."""
    tail = onnx.ModelProto()
    tail.CopyFrom(teacher)
    _replace(tail.graph.output, [value for value in tail.graph.output if value.name not in before])
    _replace(tail.graph.node, [node for node in tail.graph.node if before.isdisjoint(node.output)])
    prune(tail)
    types = value_types(teacher)
    read = {name for node in tail.graph.node for name in read_by(node)}
    borrowed = [types.get(name, onnx.ValueInfoProto(name=name)) for name in sorted(read & before)]
    _replace(tail.graph.input, [*data_inputs(teacher), *borrowed])
    return tail


def _same_opset(tail: onnx.ModelProto, student: onnx.ModelProto) -> onnx.ModelProto:
    have, wanted = opset(tail), opset(student)
    if have == wanted or not tail.graph.node:
        return tail
    try:
        return to_opset(tail, wanted)
    except InputError as error:
        raise InputError(
            f"what follows the logits is opset {have} and cannot become the student's opset {wanted}: {error}"
        ) from None


def _refuse_lost(tail: onnx.ModelProto, teacher: onnx.ModelProto, before: set[str], student: onnx.ModelProto) -> None:
    needed = {value.name for value in [*tail.graph.input, *teacher.graph.output]} & before
    lost = sorted(needed - set(producers(student)))
    if lost:
        raise InputError(
            f"an output of the teacher needs {lost[0]!r}, from before the logits, which the student does not have. "
            "Remove that output from the teacher."
        )


def _rename_clashes(tail: onnx.ModelProto, teacher: onnx.ModelProto, student: onnx.ModelProto) -> None:
    """Give new names to what the tail makes or holds under a name of the student's; equal initializers are shared."""
    theirs, taken = initializers(student), names(student) | names(tail)
    _replace(tail.graph.initializer, [own for own in tail.graph.initializer if not _equal(own, theirs.get(own.name))])
    mine = {*producers(tail), *initializers(tail)}
    clashes = mine & {*producers(student), *theirs}
    for output in teacher.graph.output:
        if output.name in clashes:
            raise InputError(
                f"the student has its own value {output.name!r}, the name of an output of the teacher; rename it."
            )
    new = {name: fresh_name(f"tail/{name}", taken) for name in sorted(clashes)}
    for node in tail.graph.node:
        rename_values(node, new)
    for named in [*tail.graph.initializer, *tail.graph.value_info]:
        named.name = new.get(named.name, named.name)
    in_use = {node.name for node in student.graph.node}
    for node in tail.graph.node:
        node.name = fresh_name(f"tail/{node.name}", taken) if node.name and node.name in in_use else node.name


def _equal(tensor: onnx.TensorProto, other: onnx.TensorProto | None) -> bool:
    if other is None or (tensor.data_type, list(tensor.dims)) != (other.data_type, list(other.dims)):
        return False
    return array(tensor).tobytes() == array(other).tobytes()


def _append(whole: onnx.ModelProto, tail: onnx.ModelProto, teacher: onnx.ModelProto) -> None:
    outputs = {value.name for value in teacher.graph.output}
    whole.graph.node.extend(tail.graph.node)
    whole.graph.initializer.extend(tail.graph.initializer)
    whole.graph.sparse_initializer.extend(tail.graph.sparse_initializer)
    whole.graph.value_info.extend(value for value in tail.graph.value_info if value.name not in outputs)
    imported = {entry.domain for entry in whole.opset_import}
    whole.opset_import.extend(entry for entry in teacher.opset_import if entry.domain not in imported)
    known = {(function.domain, function.name) for function in whole.functions}
    whole.functions.extend(function for function in teacher.functions if (function.domain, function.name) not in known)
    _drop_unused_functions(whole)
    whole.ir_version = max(whole.ir_version, teacher.ir_version, 4)  # from IR 4 on initializers need not be listed as inputs
