"""Images as this project hands them out, float32 [n, channels, height, width], go into any model; and back.

A model that wants other numbers (uint8, float16) or NHWC gets a Cast or a Transpose in front, and one that ends in logits of other
floats a Cast behind. Law: back_to(as_images(model), model) takes what the model takes and computes what it computes.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from onnx_distill.edit import fresh_name, rename_values
from onnx_distill.facts.logits import value_types
from onnx_distill.lookup import image_input, names, shape_of

TO_NHWC, TO_NCHW = [0, 2, 3, 1], [0, 3, 1, 2]
CHANNELS = (1, 3, 4)  # grey, RGB, RGBA


def as_images(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that takes float32 [n, channels, height, width] under the same name; the model itself where it does already."""
    image = image_input(model)
    dtype, nhwc = image.type.tensor_type.elem_type, is_nhwc(image)
    if dtype == TensorProto.FLOAT and not nhwc:
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    if nhwc:
        _put_in_front(made, "Transpose", perm=TO_NHWC)
        _permute(image_input(made), TO_NCHW)
    if dtype != TensorProto.FLOAT:
        _put_in_front(made, "Cast", to=dtype)
        image_input(made).type.tensor_type.elem_type = TensorProto.FLOAT
    return made


def back_to(model: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    """The model itself, which now takes what the original takes, in type and layout; a size that was pinned stays pinned."""
    now, wanted = image_input(model), image_input(original)
    if is_nhwc(wanted) and not is_nhwc(now):
        _put_in_front(model, "Transpose", perm=TO_NCHW)
        _permute(now, TO_NHWC)
    if now.type.tensor_type.elem_type != wanted.type.tensor_type.elem_type:
        _put_in_front(model, "Cast", to=now.type.tensor_type.elem_type)
        now.type.tensor_type.elem_type = wanted.type.tensor_type.elem_type
    return model


def with_float_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model that ends in its logits, which come out as float32 under the same name; itself where they do already."""
    if model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT:
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return _logits_cast(made, TensorProto.FLOAT)


def logits_back_to(model: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
    """The model itself, which ends in logits of the type that this value of the original has."""
    logits = model.graph.output[0]
    known = value_types(original).get(logits.name)
    wanted = known.type.tensor_type.elem_type if known is not None else logits.type.tensor_type.elem_type
    return model if wanted == logits.type.tensor_type.elem_type else _logits_cast(model, wanted)


def _logits_cast(model: onnx.ModelProto, to: int) -> onnx.ModelProto:
    logits, taken = model.graph.output[0], names(model)
    inner = fresh_name(f"{logits.name}/Cast", taken)
    for node in model.graph.node:
        rename_values(node, {logits.name: inner})
    name = fresh_name(f"{inner}/node", taken)
    model.graph.node.append(helper.make_node("Cast", [inner], [logits.name], name, to=to))
    logits.type.tensor_type.elem_type = to
    return model


def is_nhwc(image: onnx.ValueInfoProto) -> bool:
    """Whether the channels are the last axis, as far as sizes tell: 1, 3 or 4 there, and something else where NCHW has them."""
    shape = shape_of(image)
    return len(shape) == 4 and shape[3] in CHANNELS and shape[1] not in CHANNELS


def _permute(image: onnx.ValueInfoProto, order: list[int]) -> None:
    dims = [onnx.TensorShapeProto.Dimension() for _ in order]
    for dim, axis in zip(dims, order):
        dim.CopyFrom(image.type.tensor_type.shape.dim[axis])
    del image.type.tensor_type.shape.dim[:]
    image.type.tensor_type.shape.dim.extend(dims)


def _put_in_front(model: onnx.ModelProto, op: str, **attributes) -> None:
    """A node between the images and all that reads them."""
    image, taken = image_input(model).name, names(model)
    new = fresh_name(f"{image}/{op}", taken)
    for node in model.graph.node:
        rename_values(node, {image: new})
    model.graph.node.insert(0, helper.make_node(op, [image], [new], fresh_name(f"{new}/node", taken), **attributes))
