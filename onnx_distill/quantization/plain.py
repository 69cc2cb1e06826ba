"""QDQ models of other tools in the one way of writing quantizers that qdq.py reads; what they compute stays.

ONNX leaves much open. Scales and zero points may be made by Constant nodes; a zero point may be left out, or be the empty name;
QuantizeLinear may say its type by `output_dtype` (opset 21) in place of a zero point; a scale of a whole tensor may have the shape [1].
Here scales and zero points are initializers, each quantizer has a zero point (int32 biases have none), and those of whole tensors are scalars.
Must not fire on scales that the graph computes, and on values of other domains.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_distill.edit import fresh_name, prune
from onnx_distill.errors import InputError
from onnx_distill.lookup import array, attribute, consumers, initializers, names, producers

QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


def plain_quantizers(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its quantizers in that form; itself where they are. Raises InputError for blocks of a tensor with scales of their own."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    form = _Form(made)
    changed = [form.settle(node) for node in made.graph.node if node.op_type in QUANTIZERS]
    if not any(changed):
        return model
    prune(made)
    return made


class _Form:
    def __init__(self, model: onnx.ModelProto):
        self.model, self.taken = model, names(model)
        self.constants, self.made_by, self.readers = initializers(model), producers(model), consumers(model)
        self.scalars: set[str] = set()
        self.zeros: dict[tuple[str, int], str] = {}

    def settle(self, node: onnx.NodeProto) -> bool:
        """Change the quantizer where it is written otherwise; whether it was."""
        if attribute(node, "block_size", 0):
            raise InputError(
                f"{node.op_type} {node.name or node.output[0]!r} has a scale for each block of {attribute(node, 'block_size', 0)} values; "
                "wanted one a tensor or channel. Quantize the model without blocks."
            )
        before = list(node.input)
        while node.input and not node.input[-1]:
            node.input.pop()
        for place in range(1, len(node.input)):
            node.input[place] = self._initializer(node.input[place])
        if len(node.input) == 2:
            kind = self._kind(node)
            if kind != TensorProto.INT32 and node.input[1] in self.constants:
                node.input.append(self._zeros(node.input[1], kind))
        said = [entry for entry in node.attribute if entry.name == "output_dtype" and len(node.input) > 2]
        for entry in said:  # the zero point says it; onnxruntime 1.19.2 refuses some models that say it twice
            node.attribute.remove(entry)
        return bool(said) or list(node.input) != before or not self.scalars.isdisjoint(before)

    def _initializer(self, name: str) -> str:
        """The scale or zero point as an initializer, of one number as a scalar; as it is where the graph computes it."""
        tensor, node = self.constants.get(name), self.made_by.get(name)
        if tensor is None and node is not None and node.op_type == "Constant":
            tensor = self._of_constant(node)
        if tensor is None or (name in self.constants and list(tensor.dims) != [1]):
            return name
        if name in self.constants and all(reader.op_type in QUANTIZERS for reader in self.readers[name]):
            del tensor.dims[:]
            self.scalars.add(name)
            return name
        tensor = tensor if list(tensor.dims) != [1] else numpy_helper.from_array(array(tensor).reshape(()), name)
        return self._add(tensor, name)

    def _of_constant(self, node: onnx.NodeProto) -> onnx.TensorProto | None:
        value = next((entry for entry in node.attribute if entry.name in ("value", "value_float", "value_int")), None)
        if value is None:
            return None
        number = helper.get_attribute_value(value)
        kinds = {"value_float": np.float32, "value_int": np.int64}
        return number if value.name == "value" else numpy_helper.from_array(np.array(number, kinds[value.name]))

    def _kind(self, node: onnx.NodeProto) -> int:
        """Type of the integers of a quantizer without a zero point."""
        if node.op_type == "QuantizeLinear":
            return attribute(node, "output_dtype", 0) or TensorProto.UINT8
        stored, maker = self.constants.get(node.input[0]), self.made_by.get(node.input[0])
        if stored is not None:
            return stored.data_type
        while maker is not None and maker.op_type == "Clip":
            maker = self.made_by.get(maker.input[0])
        if maker is None or maker.op_type != "QuantizeLinear":
            return TensorProto.INT32
        point = self.constants.get(maker.input[2]) if len(maker.input) > 2 else None
        return point.data_type if point is not None else self._kind(maker)

    def _zeros(self, scale: str, kind: int) -> str:
        if (scale, kind) not in self.zeros:
            dims = list(self.constants[scale].dims)
            zeros = helper.make_tensor("", kind, dims, np.zeros(dims, np.int64).reshape(-1).tolist())
            self.zeros[scale, kind] = self._add(zeros, f"{scale}/zero_point")
        return self.zeros[scale, kind]

    def _add(self, tensor: onnx.TensorProto, base: str) -> str:
        name = fresh_name(base, self.taken)
        self.model.graph.initializer.append(tensor)
        self.model.graph.initializer[-1].name = name
        self.constants[name] = self.model.graph.initializer[-1]
        return name
