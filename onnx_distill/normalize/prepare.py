"""The images become the one input of a model: listed weights are no inputs, other inputs get constants, height and width are pinned.

Operators of an opset that the runtime does not know are declared to be of one that it does. Nothing else changes, so that a
prepared model computes, bit for bit, what it computed.
"""

from __future__ import annotations

import base64
import math
from typing import Mapping, Sequence

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper

from onnx_distill import lookup
from onnx_distill.checks.check import check_tensor
from onnx_distill.edit import keep
from onnx_distill.errors import InputError
from onnx_distill.facts.rows import add_rows
from onnx_distill.normalize.opset import NEWEST, to_opset

MARK = "onnx_distill.constant."  # metadata of a model that was given a constant for an input, and the input's name
OLDEST_IR = 4  # from it on initializers need not be listed as inputs
IMAGE_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16, TensorProto.UINT8)


def prepare(
    model: onnx.ModelProto, input_shape: Sequence[int] | None = None, constants: Mapping[str, object] | None = None
) -> onnx.ModelProto:
    """A copy whose initializers are no inputs, whose inputs in `constants` are initializers, and whose images have `input_shape`.

    input_shape: of one image, without the batch axis. constants: input name -> array or number, which fills the input's shape.
    The metadata says which were given. Of several inputs that stay, `one_input` complains. Raises InputError for a constant or a shape that does not fit the model.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    held = {*lookup.initializers(made), *(constants or {})}
    for name, value in (constants or {}).items():
        made.graph.initializer.append(_constant(model, name, value))
        made.metadata_props.add(key=MARK + name, value=_text(made.graph.initializer[-1]))
    keep(made.graph.input, lambda value: value.name not in held)
    made.ir_version = max(made.ir_version, OLDEST_IR)
    _free_negative(made)
    if lookup.opset(made) > NEWEST:
        to_opset(made, NEWEST)
    add_rows(made)
    if input_shape is not None:
        _pin(_image(made), input_shape)
    return made


def constants_of(student: onnx.ModelProto, teacher: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Input of the teacher -> constant that the student has for it, as an initializer or, worked into weights since, as metadata."""
    marks = {entry.key[len(MARK) :]: entry.value for entry in student.metadata_props if entry.key.startswith(MARK)}
    held = {**{name: _parse(name, text) for name, text in marks.items()}, **lookup.initializers(student)}
    return {value.name: lookup.array(held[value.name]) for value in lookup.data_inputs(teacher) if value.name in held}


def _text(tensor: TensorProto) -> str:
    return base64.b64encode(tensor.SerializeToString()).decode()


def _parse(name: str, text: str) -> TensorProto:
    try:
        tensor = TensorProto.FromString(base64.b64decode(text, validate=True))
        check_tensor(tensor)
        return tensor
    except (ValueError, DecodeError):
        raise InputError(
            f"the metadata {MARK + name} holds no tensor; it was changed since. Quantize the model again."
        ) from None


def one_input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """The images. Raises InputError where there are other inputs, with what to say about them."""
    inputs = lookup.data_inputs(model)
    if len(inputs) < 2:
        return lookup.image_input(model)
    image = _image(model)
    rest = [value for value in inputs if value.name != image.name]
    listed = ", ".join(f"{value.name!r} {_describe(value)}" for value in rest)
    raise InputError(
        f"the model has {len(inputs)} inputs: besides the images, {image.name!r}, it reads {listed}; wanted a constant for each. "
        f"Give {' '.join(f'--constant {value.name}=VALUE' for value in rest)}."
    )


def pinned_to(model: onnx.ModelProto, shape: Sequence[int]) -> onnx.ModelProto:
    """The model, with height and width pinned to those of images [*shape] where it leaves them free; else itself."""
    return model if _is_fixed(lookup.image_input(model)) else prepare(model, shape)


def image_shape(model: onnx.ModelProto) -> tuple[int, ...]:
    """Shape of one image, without the batch axis. Raises InputError where some of it is free."""
    image = one_input(model)
    free = [str(size) for size in lookup.shape_of(image)[1:] if not isinstance(size, int)]
    if free:
        raise InputError(
            f"input {image.name!r} is {_describe(image)}, in which {', '.join(free)} is free; wanted a size for each. "
            "Give --input-shape, such as 3x224x224."
        )
    return tuple(size for size in lookup.shape_of(image)[1:] if isinstance(size, int))


def _image(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """The input with the most axes, of those that may be images the first."""
    inputs = lookup.data_inputs(model)
    if not inputs:
        return lookup.image_input(model)
    return max(inputs, key=lambda value: (value.type.tensor_type.elem_type in IMAGE_TYPES, len(lookup.shape_of(value))))


def _is_fixed(image: onnx.ValueInfoProto) -> bool:
    return all(isinstance(size, int) for size in lookup.shape_of(image)[1:])


def _describe(value: onnx.ValueInfoProto) -> str:
    dtype = TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
    return f"{dtype} [{', '.join(map(str, lookup.shape_of(value)))}]"


def _free_negative(model: onnx.ModelProto) -> None:
    """Paddle writes -1 for a free axis; the runtime wants it left out."""
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value < 0:
                dim.Clear()


def _pin(image: onnx.ValueInfoProto, shape: Sequence[int]) -> None:
    dims, have = image.type.tensor_type.shape.dim[1:], lookup.shape_of(image)[1:]
    clash = any(isinstance(size, int) and size != wanted for size, wanted in zip(have, shape))
    if len(dims) != len(shape) or clash or min(shape, default=1) < 1:
        raise InputError(
            f"--input-shape is {'x'.join(map(str, shape))}, but input {image.name!r} is {_describe(image)}; "
            "wanted the size of one image that fits it, without the batch."
        )
    for dim, size in zip(dims, shape):
        dim.dim_value = size


def _constant(model: onnx.ModelProto, name: str, value: object) -> TensorProto:
    inputs = {given.name: given for given in lookup.data_inputs(model)}
    if name not in inputs:
        known = ", ".join(map(repr, inputs)) or "none"
        raise InputError(f"--constant names {name!r}, which is no input of the model; its inputs: {known}.")
    dtype, array = onnx.helper.tensor_dtype_to_np_dtype(inputs[name].type.tensor_type.elem_type), np.asarray(value)
    if array.dtype.kind not in "biuf" or (dtype.kind in "biu" and not np.array_equal(array.astype(dtype), array)):
        raise InputError(f"--constant {name} is {value!r}; wanted numbers of type {dtype}.")
    return numpy_helper.from_array(_filled(array.astype(dtype), inputs[name]), name)


def _filled(array: np.ndarray, given: onnx.ValueInfoProto) -> np.ndarray:
    shape = lookup.shape_of(given)
    least = tuple(size if isinstance(size, int) else 1 for size in shape)
    if array.size == math.prod(least):
        return array.reshape(least)
    if array.size == 1:
        return np.full(least, array.reshape(-1)[0])
    if len(shape) == array.ndim and all(isinstance(want, str) or have == want for have, want in zip(array.shape, shape)):
        return array
    raise InputError(
        f"--constant {given.name} has shape {list(array.shape)}; wanted {_describe(given)}, or one number to fill it with."
    )
