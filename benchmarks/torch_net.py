"""A QDQ (or float) ONNX classifier as a PyTorch module: the same network for the comparison, needs only torch and onnx."""

from __future__ import annotations

import onnx
import torch
from onnx import helper, numpy_helper
from torch import nn
from torch.nn import functional as F


class LearnedStep(torch.autograd.Function):
    """s * clip(round(x / s)) with the step's gradient (Esser et al. 2020), in operators that torch.compile fuses."""

    @staticmethod
    def forward(ctx, x, scale, low, high, axis):
        s = scale if axis is None else scale.reshape([-1 if d == axis else 1 for d in range(x.dim())])
        level = x / s
        ctx.save_for_backward(x, s)
        ctx.low, ctx.high, ctx.axis = low, high, axis
        return torch.clamp(torch.round(level), low, high) * s

    @staticmethod
    def backward(ctx, dy):
        x, s = ctx.saved_tensors
        level = x / s
        inside = (level >= ctx.low) & (level <= ctx.high)
        dx = torch.where(inside, dy, torch.zeros_like(dy))
        if not ctx.needs_input_grad[1]:
            return dx, None, None, None, None
        ds = dy * (torch.clamp(torch.round(level), ctx.low, ctx.high) - torch.where(inside, level, torch.zeros_like(level)))
        dims = [d for d in range(x.dim()) if d != ctx.axis]
        return dx, ds.sum(dims).reshape(-1), None, None, None


class FakeQuantize(nn.Module):
    """PyTorch's own operators (formula=False), or the same in elementary ones."""

    def __init__(self, scale, zero_point, low, high, axis, learned: bool, formula: bool):
        super().__init__()
        self.low, self.high, self.axis, self.formula, self.learned = low, high, axis, formula, learned
        self.scale = nn.Parameter(scale.reshape(-1)) if learned else None  # PyTorch's operators want rank 1
        self.register_buffer("fixed", scale)
        self.register_buffer(
            "zero", torch.as_tensor(zero_point, dtype=torch.float32).reshape(-1).expand(scale.numel()).clone()
        )
        self.register_buffer("integer_zero", self.zero.to(torch.int32))
        self.shift, self.number = int(self.zero.reshape(-1)[0]), float(scale.reshape(-1)[0])

    def forward(self, x):
        scale = self.fixed if self.scale is None else self.scale
        if self.formula:
            return LearnedStep.apply(x, scale, self.low - self.shift, self.high - self.shift, self.axis)
        if self.learned and self.axis is None:
            return torch._fake_quantize_learnable_per_tensor_affine(x, scale, self.zero, self.low, self.high, 1.0)
        if self.learned:
            return torch._fake_quantize_learnable_per_channel_affine(
                x, scale, self.zero, self.axis, self.low, self.high, 1.0
            )
        if self.axis is None:
            return torch.fake_quantize_per_tensor_affine(x, self.number, self.shift, self.low, self.high)
        return torch.fake_quantize_per_channel_affine(x, scale, self.integer_zero, self.axis, self.low, self.high)


class Net(nn.Module):
    """Runs the nodes in order. learned: quantization steps are parameters."""

    def __init__(self, path: str, learned: bool = False, formula: bool = False):
        super().__init__()
        model = onnx.load(path)
        self.constants = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in model.graph.initializer}
        self.input, self.output = model.graph.input[0].name, model.graph.output[0].name
        self.weights, self.quantizers, self.plan = nn.ParameterList(), nn.ModuleList(), []
        self.slots: dict[str, int] = {}
        self.shared: dict[str, FakeQuantize] = {}
        made_by = {name: node for node in model.graph.node for name in node.output}
        for node in model.graph.node:
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "DequantizeLinear":
                self._add_quantizer(node, made_by, attributes, learned, formula)
            elif not self._on_integers(node, made_by):
                self.plan.append((node.op_type, [self._source(name) for name in node.input], node.output[0], attributes))

    @staticmethod
    def _on_integers(node, made_by) -> bool:
        clips_levels = (
            node.op_type == "Clip" and node.input[0] in made_by and made_by[node.input[0]].op_type == "QuantizeLinear"
        )
        return node.op_type == "QuantizeLinear" or clips_levels

    def _source(self, name: str):
        """A value's name, the number of a parameter, or a constant."""
        if name not in self.constants:
            return name
        value = self.constants[name]
        if value.dtype != torch.float32 or value.dim() == 0:
            return value
        if name not in self.slots:
            self.slots[name] = len(self.weights)
            self.weights.append(nn.Parameter(value))
        return self.slots[name]

    def _add_quantizer(self, node, made_by, attributes, learned, formula) -> None:
        before, bounds = made_by[node.input[0]], None
        if before.op_type == "Clip":
            bounds = [int(self.constants[name]) for name in before.input[1:3]]
            before = made_by[before.input[0]]
        zero = self.constants[node.input[2]]
        low, high = bounds or ((0, 255) if zero.dtype == torch.uint8 else (-128, 127))
        scale, axis = self.constants[node.input[1]], attributes.get("axis", 1)
        image = before.input[0] == self.input
        fake = FakeQuantize(scale, zero, low, high, axis if scale.dim() else None, learned and not image, formula)
        self.quantizers.append(fake)
        self.plan.append(("FakeQuantize", [self._source(before.input[0])], node.output[0], {"at": len(self.quantizers) - 1}))

    def forward(self, images):
        values = {self.input: images}
        for kind, inputs, output, attributes in self.plan:
            given = [values[i] if isinstance(i, str) and i else self.weights[i] if isinstance(i, int) else i for i in inputs]
            values[output] = self._node(kind, given, attributes)
        return values[self.output]

    def _node(self, kind, given, a):
        x = given[0]
        if kind == "FakeQuantize":
            return self.quantizers[a["at"]](x)
        if kind == "Conv":
            bias = given[2] if len(given) > 2 else None
            pads = a.get("pads", [0, 0, 0, 0])
            return F.conv2d(x, given[1], bias, a.get("strides", 1), pads[:2], a.get("dilations", 1), a.get("group", 1))
        if kind == "Clip":
            return torch.clamp(x, *(None if isinstance(v, str) else float(v) for v in given[1:3]))
        if kind == "MaxPool":
            return F.max_pool2d(x, a["kernel_shape"], a["strides"], a["pads"][:2])
        if kind == "GlobalAveragePool":
            return x.mean((2, 3), keepdim=True)
        if kind == "ReduceMean":
            axes = a.get("axes") or [int(d) for d in given[1]]
            return x.mean(axes, keepdim=bool(a.get("keepdims", 1)))
        if kind == "Gemm":
            return F.linear(x, given[1] if a.get("transB") else given[1].t(), given[2])
        simple = {
            "Relu": lambda: F.relu(x),
            "Add": lambda: x + given[1],
            "MatMul": lambda: x @ given[1],
            "Identity": lambda: x,
            "Flatten": lambda: x.flatten(1),
            "Squeeze": lambda: x.flatten(1),
            "Reshape": lambda: x.reshape([x.shape[0], -1]),
        }
        return simple[kind]()
