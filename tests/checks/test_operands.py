"""operands.py and facts/declared.py: what the runtime takes on trust is refused when a model is loaded; wrong declarations are put right."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_distill import runtime
from onnx_distill.errors import InputError
from onnx_distill.model import load


def make(body: str, inputs: str = "float[N,3,8,8] x", opset: int = 17, **values) -> onnx.ModelProto:
    """A model of the nodes from x to y; a tuple among the values is the shape of zeros."""
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]> g ({inputs}) => (float[A,B,C,D] y) {{ {body} }}'
    )
    for name, value in values.items():
        content = np.zeros(value, np.float32) if isinstance(value, tuple) else np.asarray(value)
        model.graph.initializer.append(numpy_helper.from_array(content, name))
    return model


CONV = "y = Conv(x, w, b)"
LOOP = "y = Loop(n, {}, x) <body = f (int64 i, bool c, float[N,3,8,8] v) => (bool d, float[N,3,8,8] o) {{ d = Identity(c) o = Relu(v) }}>"
# onnx's own inference sees some of them, in words that vary with its version; what it does not see is operands.py's.
DAMAGED = {
    "bias too short": (make(CONV, w=(4, 3, 3, 3), b=(2,)), r"Conv 'y' has 4 output channels and a bias of shape \[2\]"),
    "bias of no values": (make(CONV, w=(4, 3, 3, 3), b=(0,)), "4 output channels and a bias of shape"),
    "bias that is an image": (make("b = Relu(x) y = Conv(x, w, b)", w=(4, 3, 3, 3)), r"a bias of shape \['N', 3, 8, 8\]"),
    "transposed, bias too long": (make("y = ConvTranspose<group=3>(x, w, b)", w=(3, 2, 3, 3), b=(4,)), "has 6 output channels"),
    "an operand of a Min left out": (make("y = Min(x, , x)"), "Min 'y' leaves out its input 1, which it cannot do without"),
    "types of nothing": (make("y, m, d = LayerNormalization<stash_type=999>(x, g)", g=(8,)), "stash_type = 999|type"),
    "weight of no values": (make("y = Conv(x, w)", w=(0, 3, 3, 3)), "without values"),
    "groups that do not divide": (make("y = Conv<group=3>(x, w)", w=(4, 1, 3, 3)), "and 3 groups"),
    "pads below 0": (make("y = Conv<pads=[-1,-1,-1,-1]>(x, w)", w=(4, 3, 1, 1)), r"has pads = |pads must not contain negative"),
    "steps of 0": (make("y = MaxPool<kernel_shape=[2,2], strides=[0,1]>(x)"), r"has strides = |strides must only contain positive"),
    "window of another size": (make("y = Conv<kernel_shape=[5,5]>(x, w)", w=(4, 3, 3, 3)), r"kernel_shape = \[5, 5\] and a weight"),
    "scales in a matrix": (make("y = Upsample(x, s)", opset=9, s=(32, 48)), "where a list belongs|Data size mismatch"),
    "computed scales in a matrix": (make("f = Flatten(x) y = Resize(x, , f)"), "where a list belongs"),
    "too many scales": (make("y = Resize(x, , s)", s=(40,)), "where a list belongs|Number of elements"),
    "bound of many": (make("y = Clip(x, b)", b=(3,)), "has a bound of shape"),
    "norm of another width": (make("y = BatchNormalization(x, a, a, b, a)", a=(3,), b=(4,)), "one entry for each channel|Dimension mismatch"),
    "constant of nothing": (make("c = Constant<value = int64[1] {1}>() y = Relu(x)"), None),
    "cast to no type": (make("y = Cast<to=99>(x)"), "has to = 99|does not specify a valid type"),
    "loop without end": (make(LOOP.format("t"), n=np.int64(2**40), t=np.array(True)), "runs 1099511627776 times; wanted at most"),
    "loop of any length": (make("n = Size(x) " + LOOP.format("t"), t=np.array(True)), "how often is not a constant"),
    "shapes that do not fit": (make("y = MatMul(x, w)", w=(7, 4)), "Incompatible dimensions"),
    "image beyond all memory": (make("y = Relu(x)", "float[1099511627776,3,8,8] x"), "its input 'x' is of shape"),
    "image of less than nothing": (make("y = Relu(x)", "float[N,3,8,8] x"), None),
}  # fmt: skip
SOUND = {
    "bias": make(CONV, w=(4, 3, 3, 3), b=(4,)),
    "no bias": make("y = Conv<group=3, pads=[0,1,0,1]>(x, w, )", w=(6, 1, 1, 3)),
    "computed weight and bias": make("b = Relu(c) w = Neg(v) y = Conv(x, w, b)", v=(4, 3, 3, 3), c=(4,)),
    "transposed": make("y = ConvTranspose<group=3>(x, w, b)", w=(3, 2, 3, 3), b=(6,)),
    "bound in a list": make("y = Clip(x, b)", b=(1,)),
    "scales": make("y = Resize(x, , s)", s=np.float32([1, 1, 2, 2])),
    "loop": make(LOOP.format("t"), n=np.int64(3), t=np.array(True)),
    "sequence": make("s = SequenceConstruct(x, x) y = SequenceAt(s, i)", i=np.int64(0)),
}


def test_constant_without_a_value_is_refused():
    model, _ = DAMAGED["constant of nothing"]
    del model.graph.node[0].attribute[:]
    with pytest.raises(InputError, match="Constant 'c' has 0 attributes; wanted one value|One and only one"):
        load(model)


def test_size_below_nothing_is_refused_and_minus_one_is_free():
    model, _ = DAMAGED["image of less than nothing"]
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    load(model)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -2
    with pytest.raises(InputError, match=r"its input 'x' is of shape \[-2, 3, 8, 8\]"):
        load(model)


@pytest.mark.parametrize("name", [name for name, (_, match) in DAMAGED.items() if match])
def test_damage_that_the_runtime_does_not_see_is_refused_in_one_line(name):
    model, match = DAMAGED[name]
    with pytest.raises(InputError, match=match) as error:
        load(model)
    assert "\n" not in str(error.value) and "Is the file damaged?" in str(error.value)


@pytest.mark.parametrize("model", SOUND.values(), ids=SOUND.keys())
def test_sound_operands_are_taken_and_run(model):
    loaded = load(model)
    runtime.run(runtime.open_session(loaded, 1), np.ones((1, 3, 8, 8), np.float32))


def test_wrong_declared_shapes_are_those_that_the_operators_make():
    model = make("a = Conv(x, w) y = Relu(a)", w=(4, 3, 3, 3))
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("a", 1, ["N", 9, 9]))
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", 1, [5, 4, 6, 6]))
    graph = load(model).graph
    shapes = [
        [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim] for v in (graph.value_info[0], graph.output[0])
    ]
    assert shapes == [["N", 4, 6, 6], ["N", 4, 6, 6]]


def test_declared_shapes_that_inference_cannot_know_stay():
    model = make("a = Mystery(x) y = Relu(a)")
    model.graph.node[0].domain = "own"
    model.opset_import.add(domain="own", version=1)
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("a", 1, [2, 5, 1, 1]))
    assert load(model).graph.value_info == model.graph.value_info


def test_model_that_loads_and_does_not_run_is_one_line():
    model = make("s = Shape(x) g = Gather(s, i) y0 = Cast<to=1>(g) y = Relu(y0)", i=np.int64([9]))
    session = runtime.open_session(model, 1, optimized=False)
    with pytest.raises(InputError, match="the model fails on a batch of images: .*Gather"):
        runtime.run(session, np.ones((1, 3, 8, 8), np.float32))
