"""Every operator whose form or meaning changed keeps what it computes, from each opset on that had the old one."""

import numpy as np
import onnx
import pytest
from equal import operators, outputs

from onnx_distill import lookup
from onnx_distill import model as models
from onnx_distill.errors import InputError
from onnx_distill.normalize import opset
from onnx_distill.normalize.graph import Graph

NORM = "float[3] s = {1,2,3}, float[3] b = {3,2,1}, float[3] m = {1,0,2}, float[3] v = {1,2,3}"
# name: (first opset, last opset of this form, nodes, initializers)
OLD = {
    "softmax over all that follows": (7, 12, "y = Softmax(x)", ""),
    "softmax axis 2": (7, 12, "y = Softmax<axis = 2>(x)", ""),
    "softmax axis 0": (7, 12, "y = Softmax<axis = 0>(x)", ""),
    "softmax axis -2": (11, 12, "y = Softmax<axis = -2>(x)", ""),
    "logsoftmax": (7, 12, "y = LogSoftmax(x)", ""),
    "batch normalization": (7, 16, "y = BatchNormalization<epsilon = 0.01>(x, s, b, m, v)", NORM),
    "dropout": (7, 11, "y = Dropout<ratio = 0.3>(x)", ""),
    "clip": (7, 10, "y = Clip<min = -0.5, max = 0.5>(x)", ""),
    "clip with one bound": (7, 10, "y = Clip<max = 0.5>(x)", ""),
    "pad constant": (7, 10, 'y = Pad<mode = "constant", pads = [0,0,1,1,0,0,2,1], value = 1.5>(x)', ""),
    "pad reflect": (7, 10, 'y = Pad<mode = "reflect", pads = [0,0,1,1,0,0,2,1], value = 1.5>(x)', ""),
    "pad edge": (7, 10, 'y = Pad<mode = "edge", pads = [0,0,1,1,0,0,2,1], value = 1.5>(x)', ""),
    "slice": (7, 9, "y = Slice<axes = [2,3], starts = [1,0], ends = [3,-1]>(x)", ""),
    "unsqueeze and squeeze": (7, 12, "a = Unsqueeze<axes = [0,2]>(x) y = Squeeze<axes = [0]>(a)", ""),
    "split": (7, 12, "y, z = Split<axis = 1, split = [1,2]>(x)", ""),
    "reduce sum": (7, 12, "y = ReduceSum<axes = [2,3], keepdims = 0>(x)", ""),
    "reduce mean": (7, 16, "y = ReduceMean<axes = [2,3]>(x)", ""),
    "reduce all": (7, 16, "y = ReduceMax<keepdims = 0>(x)", ""),
    "upsample nearest": (7, 8, 'y = Upsample<mode = "nearest", scales = [1.0,1.0,2.0,3.0]>(x)', ""),
    "upsample linear": (7, 8, 'y = Upsample<mode = "linear", scales = [1.0,1.0,2.0,2.0]>(x)', ""),
    "upsample by an input": (9, 9, 'y = Upsample<mode = "linear">(x, s)', "float[4] s = {1,1,2,3}"),
    "resize nearest": (10, 10, 'y = Resize<mode = "nearest">(x, s)', "float[4] s = {1,1,1.5,1.75}"),
    "resize nearest down": (10, 10, 'y = Resize<mode = "nearest">(x, s)', "float[4] s = {1,1,0.5,0.6}"),
    "resize linear down": (10, 10, 'y = Resize<mode = "linear">(x, s)', "float[4] s = {1,1,0.5,0.6}"),
    "resize since 11": (11, 12, 'y = Resize<mode = "linear">(x, r, s)', "float[0] r = {}, float[4] s = {1,1,2,2}"),
    "gemm": (
        7,
        10,
        "f = Flatten(x) y = Gemm<transB = 1>(f, w, c)",
        "float[1,48] w = {" + "1," * 47 + "1}, float[1] c = {2}",
    ),
    "add, broadcast": (7, 16, "y = Add(x, c)", "float[3,1,1] c = {1,2,3}"),
    "topk": (7, 9, "y, i = TopK<k = 2, axis = 1>(x)", ""),
    "inside a branch": (
        7,
        12,
        "y = If(t) <then_branch = g1 () => (float[n,3,4,4] p) { p = Softmax(x) }, "
        "else_branch = g2 () => (float[n,3,4,4] q) { q = Identity(x) }>",
        "bool t = {1}",
    ),
}
CASES = [(name, version) for name, (first, last, *_) in OLD.items() for version in {first, (first + last) // 2, last}]


def parse(version: int, body: str, initializers: str = "", outputs: str = "float y") -> onnx.ModelProto:
    header = f'<ir_version: 8, opset_import: ["": {version}]> g (float[n,3,4,4] x) => ({outputs})'
    return onnx.parser.parse_model(f"{header} <{initializers}> {{ {body} }}")


def normal(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = Graph(models.load(model))
    opset.rewrite(graph)
    return graph.finish()


X = {"x": np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)}


@pytest.mark.parametrize("name, version", sorted(CASES), ids=lambda value: str(value))
def test_old_operators_compute_the_same_at_17(name, version):
    _, _, body, initializers = OLD[name]
    model = parse(version, body, initializers)
    made = normal(model)
    assert lookup.opset(made) == 17
    for wanted, found in zip(outputs(model, X), outputs(made, X)):
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("version", [17, 19, 21])
def test_an_opset_of_today_stays(version):
    model = parse(version, "y = Relu(x)")
    assert opset.rewrite(Graph(models.load(model))) == [] and normal(model) == models.load(model)


def test_the_model_that_cannot_reach_17_reaches_the_newest_it_can(monkeypatch):
    convert = onnx.version_converter.convert_version

    def stops_at_15(model, target):
        if target > 15:
            raise RuntimeError("planted")
        return convert(model, target)

    monkeypatch.setattr(opset.version_converter, "convert_version", stops_at_15)  # no operator stops there today
    assert lookup.opset(normal(parse(11, "y = Clip(x)"))) == 15
    assert lookup.opset(normal(parse(16, "y = Clip(x)"))) == 16


def test_weights_are_handed_on_and_never_converted(monkeypatch):
    seen = []
    convert = onnx.version_converter.convert_version
    monkeypatch.setattr(
        opset.version_converter, "convert_version", lambda m, target: seen.append(m.ByteSize()) or convert(m, target)
    )
    model = parse(9, "k = Constant<value = float[1] {1.0}>() a = Add(x, w) b = Add(a, big) y = Clip<min = 0.0>(b)")
    weights = np.random.default_rng(0).standard_normal((300, 3, 4, 4)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights[:1], "w"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.repeat(weights, 10, 0), "unread"))
    model.graph.node[0].attribute[0].t.CopyFrom(onnx.numpy_helper.from_array(weights[:1] * 2))
    model.graph.node[0].output[0] = "big"
    made = normal(model)
    assert max(seen) < 2000 and lookup.initializers(made)["w"] == lookup.initializers(model)["w"]
    np.testing.assert_array_equal(outputs(model, X)[0], outputs(made, X)[0])


def test_newer_models_are_declared_older():
    made = normal(parse(23, "a = Relu(x) y = MaxPool<kernel_shape = [2,2]>(a)"))
    assert lookup.opset(made) == 21 and operators(made) == {"Relu", "MaxPool"}
    assert outputs(made, X)[0].shape == (2, 3, 3, 3)


def test_newer_operators_are_written_out():
    made = normal(parse(24, "y = Swish<alpha = 1.5>(x)"))
    assert lookup.opset(made) == 21 and "Swish" not in operators(made)
    x = X["x"]
    np.testing.assert_allclose(outputs(made, X)[0], x / (1 + np.exp(-1.5 * x)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "version, body, why",
    [
        (24, 'a = Cast<to = 10, round_mode = "up">(x) y = Cast<to = 1>(a)', "Cast 'a' has the attribute 'round_mode'"),
        (9, "y = Hardmax(x)", "Hardmax 'y' meant something else before opset 13"),
        (8, "y = BatchNormalization<spatial = 0>(x, x, x, x, x)", "BatchNormalization 'y' with spatial = 0"),
        (11, "y = Nonsense(x)", "onnx cannot convert it to 17"),
    ],
    ids=["attribute that came later", "hardmax", "spatial", "unknown operator"],
)
def test_what_cannot_be_converted_is_refused(version, body, why):
    with pytest.raises(InputError, match=f"the model has opset {version}, wanted 13 to 21, and {why}.*Export it again"):
        normal_unchecked(parse(version, body))


def normal_unchecked(model: onnx.ModelProto) -> list[str]:
    return opset.rewrite(Graph(model))


def test_group_normalization_is_never_brought_to_21():
    model = parse(18, "y = GroupNormalization<num_groups = 1>(x, s, b)", "float[1] s = {1}, float[1] b = {1}")
    with pytest.raises(InputError, match="GroupNormalization 'y' wrongly for 21"):
        opset.to_opset(model, 21)
    assert lookup.opset(opset.to_opset(model, 20)) == 20
