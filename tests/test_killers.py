"""Every graph that is known to kill the runtime (1.19.2) goes the whole way in a process of its own, from loading to one training step:
the process lives, and says in one line what is wrong, or trains.

The first tests let the runtime alone have some of them, and see it die: they would tell if it no longer did.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import fuzz
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_distill.errors import InputError
from onnx_distill.ready.measure import logits_of

ROOT = Path(__file__).resolve().parent.parent
IMAGE, LINE, BLOCK = "float[N,4,8,8] x", "float[N,4,16] x", "float[N,4,4,4,4] x"
LOOP = "float[N,4,8,8]"


def whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def make(first: str, body: str, image: str = IMAGE, opset: int = 17, **values) -> onnx.ModelProto:
    """A classifier: `first`, which makes a of x and the weight w, then `body`, which makes z of a, then pooling and Softmax."""
    tail = "pooled = GlobalAveragePool(z) rows = Flatten(pooled) logits = Gemm(rows, head, head_b) p = Softmax(logits)"
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]> g ({image}) => (float[N,5] p) {{ {first} {body} {tail} }}'
    )
    for node in model.graph.node:  # onnx 1.16 parses no first input that is left out
        node.input[:] = ["" if name == "nothing" else name for name in node.input]
    rng = np.random.default_rng(0)
    for name, value in {"w": (4, 4, 3, 3), "head": (4, 5), "head_b": (5,), **values}.items():
        content = rng.standard_normal(value).astype(np.float32) / 4 if isinstance(value, tuple) else np.asarray(value)
        model.graph.initializer.append(numpy_helper.from_array(content, name))
    return model


def net(body: str, **values) -> onnx.ModelProto:
    return make("a = Conv<pads = [1, 1, 1, 1]>(x, w)", body, **values)


def on_integers(body: str, **values) -> onnx.ModelProto:
    """i: whole numbers computed from the images; q: what `body` makes of them."""
    return net(f"i = Cast<to = 7>(a) {body} f = Cast<to = 1>(q) z = Add(a, f)", **values)


def loop(count: str, reads: str = "a", body: str = "", n: int = 0) -> str:
    names = f"int64 i{n}, bool c{n}, {LOOP} v{n}"
    body = body or f"o{n} = Relu(v{n})"
    return (
        f"Loop({count}, yes, {reads}) <body = g{n} ({names}) => (bool d{n}, {LOOP} o{n}) {{ d{n} = Identity(c{n}) {body} }}>"
    )


BRANCHES = f"<then_branch = t () => ({LOOP} u) {{ u = Relu(a) }}, else_branch = e () => ({LOOP} v) {{ v = Neg(a) }}>"
DIVIDING = BRANCHES.replace("u = Relu(a)", "i = Cast<to = 7>(a) q = Div(i, i) u = Cast<to = 1>(q)")
YES = {"yes": np.array(True)}
TRAINED = "trained"
# name -> the graph, and what must come of it: TRAINED, or a part of the one line
KILLERS = {
    "AveragePool, free batch": (net("z = AveragePool<kernel_shape = [2, 2]>(a)"), TRAINED),
    "AveragePool, free size": (net("z = AveragePool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(a)", image="float[N,4,H,W] x"), TRAINED),
    "AveragePool, auto_pad": (net('z = AveragePool<kernel_shape = [3, 3], auto_pad = "SAME_UPPER">(a)'), TRAINED),
    "AveragePool, ceil_mode": (net("z = AveragePool<kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1>(a)"), TRAINED),
    "AveragePool in three dimensions": (make("a = Conv<pads = [1, 1, 1, 1, 1, 1]>(x, w)", "z = AveragePool<kernel_shape = [2, 2, 2]>(a)", BLOCK, w=(4, 4, 3, 3, 3)), TRAINED),
    "AveragePool, a size nobody knows": (net("n = NonZero(a) s = Shape(n) m = Gather(s, one) q = Mul(m, zero) c = Concat<axis = 0>(q, rest) r = Reshape(a, c) z = AveragePool<kernel_shape = [2, 2]>(r)", one=whole(1), zero=whole(0), rest=whole(4, 8, 8)), "reads an image of free size"),
    "grouped Conv over one axis": (make("a = Conv<group = 4, pads = [1, 1]>(x, w)", "z = Relu(a)", LINE, w=(4, 1, 3)), TRAINED),
    "grouped Conv over one axis, every attribute": (make('a = Conv<group = 2, dilations = [2], strides = [2], auto_pad = "SAME_UPPER">(x, w, b)', "z = Relu(a)", LINE, w=(4, 2, 3), b=(4,)), TRAINED),
    "grouped Conv over three axes": (make("a = Conv<group = 4, pads = [1, 1, 1, 1, 1, 1]>(x, w)", "z = Relu(a)", BLOCK, w=(4, 1, 3, 3, 3)), "kills the process in 3D with groups"),
    "If of the images": (net(f"m = ReduceMax<keepdims = 0>(a) c = Greater(m, zero) z = If(c) {BRANCHES}", zero=np.float32(0)), "If .* kills the process; export the model with its condition fixed"),
    "If that is known": (net(f"z = If(yes) {BRANCHES}", **YES), TRAINED),
    "Clip with attributes": (net("z = Clip<min = 0.0, max = 6.0>(a)", opset=10), TRAINED),
    "Clip with attributes, opset 7": (net("z = Clip<min = 0.0, max = 6.0>(a)", opset=7), TRAINED),
    "Split, an output unused": (net("b, z = Split<axis = 2>(a, halves)", halves=whole(4, 4)), TRAINED),
    "Split, an output left out": (net("b, , z = Split<axis = 2>(a, parts)", parts=whole(2, 2, 4)), "leaves out its output 1"),
    "Where that broadcasts": (net("c = Greater(a, zero) z = Where(c, a, zero)", zero=np.float32(0)), TRAINED),
    "Conv, auto_pad": (make('a = Conv<auto_pad = "SAME_LOWER">(x, w)', "z = Relu(a)"), TRAINED),
    "BatchNormalization of the batch": (net("z, m, v = BatchNormalization<training_mode = 1>(a, s, t, t, s)", s=np.ones(4, np.float32), t=np.zeros(4, np.float32)), "batch statistics"),
    "constants divided by 0": (on_integers("q = Div(n, zero)", n=whole(3), zero=whole(0)), "Div 'q' divides whole numbers by zero"),
    "smallest constant by -1": (on_integers("q = Div(n, m)", n=whole(-(2**63)), m=whole(-1)), "Div 'q' overflows"),
    "images divided by 0": (on_integers("q = Div(i, zero)", zero=whole(0)), "Div 'q' divides whole numbers by zero"),
    "images divided by a Constant of 0": (on_integers("zero = Constant<value_int = 0>() q = Mod(i, zero)"), "Mod 'q' divides whole numbers by zero"),
    "images divided by images": (on_integers("n = Sub(i, i) q = Div(i, n)"), "Div 'q' divides whole numbers by what it computes from the images"),
    "images modulo images": (on_integers("n = Sub(i, i) q = Mod(i, n)"), "Mod 'q' divides whole numbers by what it computes"),
    "images divided by -1": (on_integers("q = Div(i, m)", m=whole(-1)), "divides whole numbers by -1"),
    "images divided by sizes, 0 among them": (on_integers("s = Shape(a) n = Sub(s, s) k = Gather(n, zero) q = Div(i, k)", zero=whole(0)), "divides whole numbers by zero|nothing is left"),
    "images divided in a branch": (net(f"m = ReduceMax<keepdims = 0>(a) c = Greater(m, zero) z = If(c) {DIVIDING}", zero=np.float32(0)), "Div 'q' divides whole numbers by what it computes"),
    "RoiAlign": (net("z = RoiAlign(a, boxes, batch)", boxes=np.float32([[0, 0, 5, 5]]), batch=whole(10**7)), "RoiAlign 'z' goes wherever in memory"),
    "MaxUnpool": (net("m, i = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(a) z = MaxUnpool<kernel_shape = [2, 2], strides = [2, 2]>(m, far)", far=np.full((1, 4, 4, 4), 10**9)), "MaxUnpool 'z' goes wherever in memory"),
    "Loop for ever": (net(f"z = {loop('n')}", n=np.int64(2**40), **YES), "runs 1099511627776 times"),
    "Loop without a count": (net(f"z = {loop('nothing')}", **YES), "may run for ever"),
    "Loop in a Loop": (net(f"z = {loop('n', body='o0 = ' + loop('n', 'v0', n=1))}", n=np.int64(99999), **YES), "runs 9999800001 times"),
    "a bias too short": (make("a = Conv(x, w, b)", "z = Relu(a)", b=(2,)), "4 output channels and a bias of shape"),
    "pads below 0": (make("a = Conv<pads = [-9, -9, -9, -9]>(x, w)", "z = Relu(a)"), "pads"),
    "an operand left out": (net("z = Min(a, , a)"), "leaves out its input 1"),
    "many scales": (net("z = Resize(a, , s)", s=np.ones(40, np.float32)), "where a list belongs|Number of elements"),
    "scales of no size": (net("z = Resize(a, , s)", s=np.float32([1, 1, np.nan, 1])), "resizes by .*; wanted positive numbers"),
    "a scale of 0": (net("z = Upsample(a, s)", s=np.float32([1, 1, 0, 1]), opset=9), "resizes by|Scale value"),
    "more output_padding than a stride": (net("z = ConvTranspose<strides = [2, 2], output_padding = [7, 7]>(a, k)", k=(4, 4, 2, 2)), "wanted less than its stride"),
    "weights of no number": (net("z = Conv(a, k)", k=np.full((4, 4, 1, 1), np.nan, np.float32)), "has a weight of nan"),
    "a billion copies": (net("e = Expand(a, s) z = ReduceMax<axes = [0]>(e)", s=whole(10**9, 1, 4, 8, 8)), "."),
}  # fmt: skip


@pytest.fixture(scope="module")
def worker():
    made = fuzz.Worker()
    yield made
    made.stop()


@pytest.mark.parametrize("name", KILLERS)
def test_no_graph_kills_the_process(name, worker, tmp_path):
    model, wanted = KILLERS[name]
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    kind, text = worker.take(path)
    assert kind == ("right" if wanted == TRAINED else "refused"), text
    assert re.search(wanted, text)


def test_evaluation_of_a_model_that_divides_by_a_size_of_0_is_refused():
    """`eval` runs a model as it is, without what quantize and train make of it first."""
    model, _ = KILLERS["images divided by sizes, 0 among them"]
    images = fuzz._images(model)
    with pytest.raises(InputError, match="divides whole numbers by zero"):
        logits_of(model, images)


# --- what the runtime does where it is not kept from it


def alone(code: str) -> int:
    """Exit code of the code in a process of its own; below 0 for a signal."""
    start = f"import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); import sys; sys.path[:0] = {[str(ROOT)]}\n"
    return subprocess.run([sys.executable, "-c", start + textwrap.dedent(code)], capture_output=True, timeout=120).returncode


INFERENCE = """
    import numpy as np, onnx
    from onnx_distill import runtime
    model = onnx.parser.parse_model('''{}''')
    runtime.open_session(model, 1, optimized=False).run(None, {{"x": np.ones((1, 4, 8, 8), np.float32)}})
"""
TRAINING = """
    import pathlib, tempfile, numpy as np, onnx
    from onnx_distill import _ort
    model = onnx.parser.parse_model('''{}''')
    def mean(graph, value):
        graph.node.append(onnx.helper.make_node("ReduceMean", [value], ["loss"], keepdims=0))
        graph.output.append(onnx.helper.make_tensor_value_info("loss", 1, []))
        return "loss"
    with tempfile.TemporaryDirectory() as folder:
        _ort.generate_artifacts(model, ["w"], mean, pathlib.Path(folder), [])
        module, state = _ort.open_module(pathlib.Path(folder), 1)
        module(np.ones((1, 4, 8, 8), np.float32))
"""
WEIGHT = f"<float[4,4,1,1] w = {{{', '.join(['1'] * 16)}}}>"
DEATHS = {
    "division": INFERENCE.format(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,4,8,8] x) => (int64[N,4,8,8] y) '
        "{ i = Cast<to = 7>(x) o = Sub(i, i) y = Div(i, o) }"
    ),
    "AveragePool": TRAINING.format(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[N,4,H,W] x) => (float[N,4,A,B] y) {WEIGHT} '
        "{ a = Conv(x, w) y = AveragePool<kernel_shape = [2, 2]>(a) }"
    ),
    "If": TRAINING.format(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[N,4,8,8] x) => (float[N,4,8,8] y) {WEIGHT} '
        "{ a = Conv(x, w) z = Constant<value = float {0.0}>() m = ReduceMax<keepdims = 0>(a) c = Greater(m, z) "
        f"y = If(c) {BRANCHES} }}"
    ),
}


@pytest.mark.parametrize("name", DEATHS)
def test_the_runtime_alone_dies_of(name):
    assert alone(DEATHS[name]) < 0
