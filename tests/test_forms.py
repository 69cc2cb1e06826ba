"""What exporters write, form by form, goes the whole way: file, inspect, cut, quantize, preflight, training steps, integers.

Each graph is a few lines; that a rewrite is right is tested beside it, in tests/normalize.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_distill import artifacts, lookup, pipeline
from onnx_distill import model as models
from onnx_distill.config import DistillConfig, QuantizeConfig, TrainConfig
from onnx_distill.cut import cut
from onnx_distill.data import ArrayImages, Preprocess
from onnx_distill.edit import rename_values
from onnx_distill.inspection import inspect
from onnx_distill.normalize.prepare import prepare
from onnx_distill.preflight import preflight
from onnx_distill.ready.deployable import deployable
from onnx_distill.ready.measure import logits_of
from onnx_distill.training.optimizer import Optimizer
from onnx_distill.training.step import Step

CLOSE = 0.05  # of the largest logit: W8A8 of three layers; a wrong network is off by 1
FIRST = "a = Conv<pads = [1, 1, 1, 1]>(x, w, b)"
HEAD = "pooled = GlobalAveragePool(z) rows = Flatten(pooled) logits = Gemm(rows, head, head_b) p = Softmax<axis = 1>(logits)"
RNG = np.random.default_rng(0)
VALUES = {
    "w": (4, 4, 3, 3), "b": (4,), "head": (4, 5), "head_b": (5,), "point": (4, 4, 1, 1), "depthwise": (4, 1, 3, 3), "colours": (4, 3, 3, 3),
    "wide": (256, 5), "classes": (5, 4, 1, 1), "row": np.array([1, 256]), "large": np.array([1, 4, 16, 16]), "size": np.array([16, 16]),
    "zero": np.array([0]), "two": np.array([2]), "k255": np.float32(255), "mean": np.float32([0.4, 0.5, 0.6]).reshape(1, 3, 1, 1),
    "gain": np.float32([1, 0.5, 2, 1.5]), "shift": np.float32([0.1, -0.2, 0.3, 0]), "variance": np.float32([1, 2, 0.5, 1]),
    "shape": np.array([1, 4, 1, 1]),
}  # fmt: skip


def make(
    body: str,
    image: str = "float[N,4,8,8] x",
    opset: int = 17,
    ir: int = 8,
    first: str = FIRST,
    head: str = HEAD,
    out: str = "float[N,5] p",
) -> onnx.ModelProto:
    """A classifier: `first` makes a of the images, `body` z of a, `head` the output. Constants by their names in VALUES."""
    text = f'<ir_version: {ir}, opset_import: ["": {opset}]> g ({image}) => ({out}) {{ {first} {body} {head} }}'
    model = onnx.parser.parse_model(text)
    for name in dict.fromkeys(name for node in model.graph.node for name in node.input if name in VALUES):
        value = VALUES[name]
        content = RNG.standard_normal(value) / np.sqrt(np.prod(value[1:])) if isinstance(value, tuple) else value
        content = content.astype(np.float32) if isinstance(value, tuple) else content
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(content), name))
    return model


RELU = "z = Relu(a)"


def listed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Initializers are inputs too, as IR 3 wants it."""
    model.graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer)
    return model


def of_type(model: onnx.ModelProto, kind: int) -> onnx.ModelProto:
    for tensor in model.graph.initializer:
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.elem_type = kind
    return model


def as_nodes(model: onnx.ModelProto, kind: str) -> onnx.ModelProto:
    """Nodes make the weights: a Constant, a Cast of half floats, or a Reshape of a list."""
    nodes: list[onnx.NodeProto] = []
    for tensor in model.graph.initializer:
        name, values = tensor.name, numpy_helper.to_array(tensor)
        if kind == "Constant":
            nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        elif kind == "Cast":
            half = numpy_helper.from_array(values.astype(np.float16))
            nodes += [helper.make_node("Constant", [], [f"{name}/half"], value=half)]
            nodes += [helper.make_node("Cast", [f"{name}/half"], [name], to=TensorProto.FLOAT)]
        else:
            nodes += [helper.make_node("Constant", [], [f"{name}/list"], value_floats=values.reshape(-1).tolist())]
            nodes += [helper.make_node("Constant", [], [f"{name}/shape"], value_ints=list(values.shape))]
            nodes += [helper.make_node("Reshape", [f"{name}/list", f"{name}/shape"], [name])]
    nodes += [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def renamed(model: onnx.ModelProto, new: dict[str, str], nodes: list[str]) -> onnx.ModelProto:
    for node, name in zip(model.graph.node, nodes):
        rename_values(node, new)
        node.name = name
    for named in [*model.graph.initializer, *model.graph.input, *model.graph.output]:
        named.name = new.get(named.name, named.name)
    return model


DEEP = "r = Relu(a) c = Conv<pads = [1, 1, 1, 1], group = 4>(r, depthwise) d = Add(c, r) z = Conv(d, point)"
ODD = {
    "x": "ü/ñ:0",
    "a": "a b",
    "r": '"quoted"',
    "c": "x" * 300,
    "d": "..",
    "w": "w;",
    "point": "p\n",
    "logits": "logits/loss",
}
OURS = {
    "x": "images",
    "a": "weights",
    "r": "scale",
    "c": "x_scale",
    "d": "zero_point",
    "logits": "teacher",
    "p": "loss",
    "w": "labels",
}
NORM = "n = BatchNormalization(a, gain, shift, shift, variance) z = Relu(n)"
PIXELS = "c = Cast<to = 1>(x) t = Transpose<perm = [0, 3, 1, 2]>(c) d = Div(t, k255) v = Sub(d, mean) a = Conv<pads = [1, 1, 1, 1]>(v, colours, b)"
FLAT = "rows = Reshape(z, row) logits = Gemm(rows, wide, head_b) p = Softmax<axis = 1>(logits)"
NCHW = "pooled = GlobalAveragePool(z) logits = Conv(pooled, classes) p = Softmax<axis = 1>(logits)"
BEST = HEAD + " best = ArgMax<axis = 1, keepdims = 0>(p)"
SQUEEZE = "q = GlobalAveragePool(a) f = Conv(q, point) r = Relu(f) e = Conv(r, point) s = Sigmoid(e) z = Mul(a, s)"
COMPUTED = 'sh = Shape(a) n = Slice(sh, zero, two) c = Concat<axis = 0>(n, size) z = Resize<mode = "nearest">(a, , , c)'
ONE = "float[1,4,8,8] x"
FORMS = {
    **{f"opset {n}": listed(make(RELU, opset=n, ir=3)) for n in (7, 8, 9, 10, 11, 12, 13, 15)},
    **{f"opset {n}": make(RELU, opset=n, ir=10) for n in (18, 21, 22, 24)},
    **{f"IR {n}": listed(make(RELU, ir=n)) for n in (3, 4, 11, 13)},
    **{f"weights by {kind}": as_nodes(make(NORM), kind) for kind in ("Constant", "Cast", "list")},
    "weights by ConstantOfShape": make("s = ConstantOfShape<value = float[1] {0.5}>(shape) q = Mul(a, s) z = Relu(q)"),
    "half floats": of_type(make(RELU), TensorProto.FLOAT16),
    "odd names": renamed(make(DEEP), ODD, ["", "a b", "", "1", "", "..", "ü", "x" * 300, ""]),
    "our own names, all nodes of one": renamed(make(DEEP), OURS, ["same"] * 9),
    "batch 1": make(RELU, ONE, out="float[1,5] p"),
    "batch 1 in a Reshape": make(RELU, ONE, head=FLAT, out="float[1,5] p"),
    "batch 1 in the sizes of a Resize": make('z = Resize<mode = "nearest">(a, , , large)', ONE, out="float[1,5] p"),
    "sizes of a Resize that are computed": make(COMPUTED),
    "free height and width": make(RELU, "float[N,4,H,W] x"),
    "pixels, NHWC, normalized inside": make(RELU, "uint8[N,8,8,3] x", first=PIXELS),
    "several outputs": make(RELU, head=BEST, out="float[N,5] p, int64[N] best, float[N,4,8,8] a"),
    "Softmax over an image of one pixel": make(RELU, head=NCHW, out="float[N,5,1,1] p"),
    "a gate that reads one weight twice": make(SQUEEZE),
    "GroupNormalization": make("n = GroupNormalization<num_groups = 2>(a, gain, shift) z = Relu(n)", opset=21),
    "Swish of opset 24": make("z = Swish(a)", opset=24, ir=10),
    "RMSNormalization of opset 23": make("t = Transpose<perm = [0, 2, 3, 1]>(a) n = RMSNormalization(t, gain) z = Transpose<perm = [0, 3, 1, 2]>(n)", opset=23, ir=10),
}  # fmt: skip


KNOWN = onnx.defs.onnx_opset_version()  # older releases of onnx do not know the newest operators
FORMS = {name: model for name, model in FORMS.items() if lookup.opset(model) <= KNOWN}


def loaded(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """As the commands load it."""
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return prepare(models.load(folder / "model.onnx"))


def some_images(model: onnx.ModelProto) -> ArrayImages:
    image = lookup.image_input(model)
    sizes, rng = [size if isinstance(size, int) else 8 for size in lookup.shape_of(image)[1:]], np.random.default_rng(1)
    if image.type.tensor_type.elem_type == TensorProto.UINT8:
        pixels = rng.integers(0, 256, (16, *sizes)).astype(np.uint8)
    else:
        pixels = rng.standard_normal((16, *sizes)).astype(np.float32)
    return ArrayImages(pixels, preprocess=Preprocess(layout="NHWC" if sizes[-1] == 3 else "NCHW"))


def train(student: onnx.ModelProto, images: np.ndarray, wanted: np.ndarray, folder: Path) -> list[str]:
    """Parameters that three steps did not move."""
    made = artifacts.build(student, DistillConfig(alpha=1.0, temperature=1.0), "all", folder, len(images))
    step, parameters = Step(made, 1), made.parameters
    recipe = TrainConfig(learning_rate=1e-3, units="plain", schedule="constant", warmup=0.0)
    optimizer = Optimizer(step.parameters, parameters.weights, parameters.biases, parameters.steps, recipe)
    before = {name: values.copy() for name, values in step.parameters.items()}
    for _ in range(3):
        loss, *_ = step.run(images, wanted, None)
        assert np.isfinite(loss)
        optimizer.update(step.gradients, 1.0)
    return [name for name, values in step.parameters.items() if np.array_equal(values, before[name])]


@pytest.mark.parametrize("name", FORMS)
def test_it_goes_the_whole_way(name, tmp_path):
    teacher = loaded(FORMS[name], tmp_path)
    assert inspect(teacher).obstacles == () and inspect(teacher).refused == ""
    images, float_model = some_images(teacher), cut(teacher)
    student = pipeline.quantize_with_images(float_model, images, QuantizeConfig(), samples=16, threads=1, validation=0)
    batch = images.read(np.arange(8))
    wanted = logits_of(float_model, images, 1).astype(np.float32)
    assert preflight(student, batch, TrainConfig(threads=1)) == []
    assert train(student, batch, wanted[:8], tmp_path) == []
    shipped = deployable(student, teacher)
    onnx.checker.check_model(shipped, full_check=True)
    for side in ("input", "output"):
        original, ours = (getattr(model.graph, side) for model in (FORMS[name], shipped))
        kept = {value.name: value.type.tensor_type.elem_type for value in original}
        assert {value.name: value.type.tensor_type.elem_type for value in ours}.items() <= kept.items()
    found = logits_of(shipped, images, 1)
    assert np.abs(found - wanted).max() <= CLOSE * np.abs(wanted).max()


@pytest.mark.parametrize("place", ["../w.bin", "/etc/passwd", "sub/../../w.bin", "a\\..\\..\\w.bin"])
def test_weights_outside_the_models_folder_are_refused(place, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    model = make(RELU)
    onnx.external_data_helper.convert_model_to_external_data(model, location="w.bin", size_threshold=0)
    onnx.save(model, str(folder / "model.onnx"))
    (tmp_path / "w.bin").write_bytes((folder / "w.bin").read_bytes())
    stored = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    for tensor in stored.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = place
    (folder / "model.onnx").write_bytes(stored.SerializeToString())
    with pytest.raises(
        models.InputError, match=f"lies in {re.escape(repr(place))}; wanted a file in the model's own folder"
    ):
        models.load(folder / "model.onnx")
