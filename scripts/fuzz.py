"""Damaged ONNX files, given to everything from load to one training step: each must end in one line of error or a right answer.

    python scripts/fuzz.py 5000 0              5,000 files of seed 0, two at a time; counts, and every file that did neither
    python scripts/fuzz.py --file model.onnx   one file, here in this process

A worker process has a limit of memory, and for each file one of time; that it dies or hangs is counted and the file is kept.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from onnx import TensorProto, numpy_helper

from onnx_distill.lookup import image_input, shape_of
from onnx_distill.ready.deployable import deployable

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
MEMORY_BYTES = 6 << 30  # of address space: the runtime's thread stacks and libraries take 2 of them
SECONDS = 60  # for one file; the largest bases take 2 whole
FILES_A_WORKER = 200
LARGEST_IMAGE = 1 << 16  # values; a file may claim any size of image, and a user has images of one size
TOLERANCE = 1e-3  # between the outputs of the file and of its normalized form; damaged weights cancel badly

NETS = {
    "convolutions": """<ir_version: 8, opset_import: ["": 17]> g (float[N,3,8,8] x) => (float[N,5] p) {
        [c1] a = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w_4x3x3x3, b_4) [r] r = Relu(a)
        [dw] d = Conv<group=4, auto_pad="SAME_UPPER">(r, w_4x1x3x3) [k] k = Clip(d, lo, hi) [s] s = Add(k, r)
        [m] m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(s) [g] g = GlobalAveragePool(m)
        [f] f = Flatten(g) [fc] l = Gemm<transB=1>(f, w_5x4, b_5) [sm] p = Softmax(l) }""",
    "old": """<ir_version: 4, opset_import: ["": 9]> g (float[1,3,8,8] x) => (float[1,5] p) {
        a = Conv<kernel_shape=[3,3]>(x, w_4x3x3x3) n = BatchNormalization(a, b_4, b_4, b_4, v_4) k = Clip<min=0.0, max=6.0>(n)
        q = AveragePool<kernel_shape=[2,2], strides=[2,2]>(k) y = Dropout(q) z = Pad<pads=[0,0,1,1,0,0,1,1]>(y)
        s = Shape(z) i = Constant<value=int64[1] {0}>() h = Gather(s, i) t = Constant<value=int64[1] {-1}>()
        v = Concat<axis=0>(h, t) f = Reshape(z, v) l = MatMul(f, w_100x5) o = Add(l, b_5) p = Softmax(o) }""",
    "attention": """<ir_version: 9, opset_import: ["": 18]> g (float[N,6,8] x) => (float[N,5] p) {
        q = MatMul(x, w_8x8) k = MatMul(x, w_8x8) kt = Transpose<perm=[0,2,1]>(k) s = MatMul(q, kt) a = Softmax<axis=-1>(s)
        y = MatMul(a, x) m = ReduceMean<keepdims=1>(y, last) c = Sub(y, m) e = Pow(c, two) v = ReduceMean<keepdims=1>(e, last)
        u = Add(v, hi) d = Sqrt(u) n = Div(c, d) b1, b2 = Split<axis=1, num_outputs=2>(n) b = Add(b1, b2)
        h = Gather<axis=1>(b, zero) o = Gemm(h, w_8x5, b_5) p = Softmax(o) }""",
    "one dimension": """<ir_version: 8, opset_import: ["": 13]> g (float[N,4,16] x) => (float[N,5] p) {
        a = Conv<group=4, pads=[1,1]>(x, w_4x1x3) r = LeakyRelu(a) h = HardSigmoid(r) e = Mul(r, h) q = MaxPool<kernel_shape=[2]>(e)
        z = Unsqueeze(q, last) y = Squeeze(z, last) f = Flatten(y) l = Gemm(f, w_60x5) p = LogSoftmax(l) }""",
    "subgraphs": """<ir_version: 8, opset_import: ["": 17]> g (float[N,4] x) => (float[N,5] p) {
        m = ReduceMax<keepdims=0>(x) t = Greater(m, lo)
        a = If (t) <then_branch = g1 () => (float[N,4] u) { u = Relu(x) }, else_branch = g2 () => (float[N,4] w) { w = Neg(x) }>
        b = Loop (three, yes, a) <body = g3 (int64 i, bool c, float[N,4] v) => (bool d, float[N,4] o) { d = Identity(c) o = Add(v, b_4) }>
        l = Gemm(b, w_4x5) p = Softmax(l) }""",
    "functions": """<ir_version: 9, opset_import: ["": 17, "own": 1]> g (float[N,4] x) => (float[N,5] p) {
        a = own.Swish(x) l = MatMul(a, w_4x5) p = Softmax(l) }
        <domain: "own", opset_import: ["": 17]> Swish (v) => (o) { s = Sigmoid(v) o = Mul(v, s) }""",
}  # fmt: skip
VALUES = {
    "lo": np.float32(0), "hi": np.float32(6), "two": np.float32(2), "last": np.int64([-1]), "zero": np.int64(0),
    "three": np.int64(3), "yes": np.array(True),
}  # fmt: skip
NUMBERS = [0, 1, -1, 2, 3, 7, 255, -(2**31), 2**31 - 1, 2**31, 2**40, -(2**40), 2**62, -(2**63), 2**63 - 1]
REALS = [0.0, -1.0, 1e-30, 1e30, float("inf"), float("-inf"), float("nan"), 0.5]
TEXTS = [
    "",
    "x",
    "\0",
    "SAME_UPPER",
    "NOTSET",
    "../../../../etc/passwd",
    "/etc/passwd",
    "a" * 500,
    "ü",
    "com.microsoft",
    "ai.onnx",
]
KINDS = {TensorProto.FLOAT: np.float32, TensorProto.INT64: np.int64, TensorProto.BOOL: np.bool_}
OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""})


def bases() -> list[onnx.ModelProto]:
    """Small whole models: those above, what exporters wrote for the tests, and the teacher of models/."""
    files = sorted((ROOT / "tests" / "zoo").glob("*.onnx")) + [ROOT / "models" / "mobilenetv2-fashion.onnx"]
    return [_net(text) for text in NETS.values()] * 4 + [onnx.load(str(path)) for path in files]


def _net(text: str) -> onnx.ModelProto:
    model, rng = onnx.parser.parse_model(text), np.random.default_rng(0)
    made = {name for node in model.graph.node for name in node.output} | {value.name for value in model.graph.input}
    inner = [n for node in model.graph.node for entry in node.attribute for n in entry.g.node]
    for name in dict.fromkeys(name for node in [*model.graph.node, *inner] for name in node.input):
        if name in VALUES or "_" in name and name not in made:
            shape = [int(size) for size in name.partition("_")[2].split("x")] if name not in VALUES else []
            content = VALUES.get(name, np.abs(rng.standard_normal(shape)).astype(np.float32) / 3)
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(content), name))
    return model


# --- damage


def damaged(model: onnx.ModelProto, rng: np.random.Generator) -> bytes:
    """One to three kinds of damage to the model, and in one of five to the bytes of its file."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for _ in range(rng.choice([1, 1, 1, 1, 2, 3])):
        _pick(rng, DAMAGE)(made, rng)
    content = made.SerializeToString()
    return _damaged_bytes(content, rng) if rng.random() < 0.2 else content


def _pick(rng: np.random.Generator, items):
    return items[int(rng.integers(len(items)))] if len(items) else None


def _damaged_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    kind, data = int(rng.integers(4)), bytearray(content)
    if kind == 0:
        return bytes(data[: int(rng.integers(len(data)))])
    if kind == 1:
        return rng.bytes(int(rng.integers(2000)))
    if kind == 2:  # where the structure is, not the weights
        start = int(rng.integers(len(data)))
        return bytes(data[:start] + data[start + int(rng.integers(1, 50)) :])
    for _ in range(int(rng.integers(1, 12))):
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
    return bytes(data)


def _messages(message) -> list:
    """The message and all messages in it."""
    found, todo = [], [message]
    while todo:
        found.append(todo.pop())
        for field, value in found[-1].ListFields():
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                todo += list(value) if hasattr(value, "extend") else [value]
    return found


def _any_field(model, rng) -> None:
    """A field of any message in the model gets another value of its type, is dropped, doubled or turned round."""
    message = _pick(rng, [m for m in _messages(model) if m.ListFields()])
    field, value = _pick(rng, message.ListFields())
    if hasattr(value, "extend") and rng.random() < 0.6:
        _change_list(value, field, rng)
    elif rng.random() < 0.4 or field.type == FieldDescriptor.TYPE_MESSAGE:
        message.ClearField(field.name)
    elif not hasattr(value, "extend"):
        _set(message, field, _new_value(field, value, rng))


def _change_list(items, field, rng) -> None:
    place, kind = int(rng.integers(len(items))), int(rng.integers(4))
    if kind == 0:
        del items[place]
    elif kind == 1:
        copies = list(items) + [items[place]]
        _refill(items, copies)
    elif kind == 2:
        _refill(items, [items[i] for i in rng.permutation(len(items))])
    elif field.type != FieldDescriptor.TYPE_MESSAGE:
        items[place] = _new_value(field, items[place], rng)


def _refill(items, content) -> None:
    copies = [type(item).FromString(item.SerializeToString()) if hasattr(item, "ListFields") else item for item in content]
    del items[:]
    items.extend(copies)


def _new_value(field, value, rng):
    if field.type == FieldDescriptor.TYPE_BYTES:
        return rng.bytes(len(value)) if rng.random() < 0.5 else value[: len(value) // 2]
    if field.type == FieldDescriptor.TYPE_STRING:
        return _pick(rng, TEXTS)
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return _pick(rng, REALS)
    return _pick(rng, NUMBERS) if rng.random() < 0.5 else value + int(rng.integers(-2, 3))


def _set(message, field, value) -> None:
    try:
        setattr(message, field.name, value)
    except ValueError:  # a number that the field cannot hold: one that it can
        setattr(message, field.name, 1)


def _input_of_a_node(model, rng) -> None:
    """A node reads another value: one made later (a cycle), itself, nothing, or one that nobody makes."""
    node = _pick(rng, model.graph.node)
    if node is not None and node.input:
        names = [name for other in model.graph.node for name in other.output] + ["", "nobody"]
        node.input[int(rng.integers(len(node.input)))] = _pick(rng, names)


def _more_inputs(model, rng) -> None:
    node = _pick(rng, model.graph.node)
    if node is not None:
        node.input.append(_pick(rng, [tensor.name for tensor in model.graph.initializer] + [""]))


def _output_of_a_node(model, rng) -> None:
    node = _pick(rng, model.graph.node)
    if node is not None and node.output:
        names = [name for other in model.graph.node for name in other.output] + [
            "",
            model.graph.input[0].name if model.graph.input else "",
        ]
        node.output[int(rng.integers(len(node.output)))] = _pick(rng, names)


def _operator(model, rng) -> None:
    node = _pick(rng, model.graph.node)
    if node is not None:
        node.op_type = _pick(rng, OPERATORS)


def _attribute(model, rng) -> None:
    """An attribute of another type, absurd, or one that the operator does not have."""
    node = _pick(rng, model.graph.node)
    if node is None:
        return
    entry = _pick(rng, node.attribute) if node.attribute and rng.random() < 0.8 else node.attribute.add(name="axis")
    value = _pick(
        rng, [1, -1, 2**40, 0.5, "text", [1, 2], [0], [-1, -1, -1, -1], [2**40] * 4, [0.5], ["a", "b"], [1] * 1000]
    )
    entry.CopyFrom(onnx.helper.make_attribute(entry.name, value))


def _shape_of_a_tensor(model, rng) -> None:
    tensor = _pick(rng, model.graph.initializer)
    if tensor is not None:
        tensor.dims[:] = [_pick(rng, NUMBERS) for _ in range(int(rng.integers(6)))]


def _empty_tensor(model, rng) -> None:
    tensor = _pick(rng, model.graph.initializer)
    if tensor is not None and tensor.dims:
        dims = list(tensor.dims)
        dims[int(rng.integers(len(dims)))] = 0
        tensor.CopyFrom(TensorProto(name=tensor.name, data_type=tensor.data_type, dims=dims))


def _values_of_a_tensor(model, rng) -> None:
    """Shapes, axes and bounds that are whole tensors and absurd; weights that are not finite, of another shape or type."""
    tensor = _pick(rng, model.graph.initializer)
    if tensor is None or not tensor.raw_data or tensor.external_data or tensor.data_type not in KINDS:
        return
    values = np.frombuffer(tensor.raw_data[: len(tensor.raw_data) // 8 * 8], KINDS[tensor.data_type]).copy()
    if values.size == np.prod([float(size) for size in tensor.dims]):
        values = values.reshape(tuple(tensor.dims))
    numbers = NUMBERS if values.dtype.kind in "iu" else REALS
    if rng.random() < 0.4:
        values = values.reshape(-1)[: int(rng.integers(1, 9))] if rng.random() < 0.5 else values[None]
    elif values.size and values.dtype.kind in "iuf":
        values.reshape(-1)[int(rng.integers(values.size))] = np.array(_pick(rng, numbers)).astype(values.dtype)
    if rng.random() < 0.2:
        with np.errstate(all="ignore"):
            values = values.astype(_pick(rng, [np.float16, np.float64, np.int64, np.int32, np.uint8, np.bool_]))
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _external(model, rng) -> None:
    """A tensor said to lie in another file: outside the folder, far behind its end, or in the model itself."""
    tensor = _pick(rng, model.graph.initializer)
    if tensor is None:
        return
    for field in ("raw_data", "float_data", "int64_data"):
        tensor.ClearField(field)
    tensor.data_location = TensorProto.EXTERNAL
    places = [
        "../secret",
        "/etc/passwd",
        "weights",
        ".",
        "",
        "a/../../b",
        "\0",
        "/dev/zero",
        "/proc/self/mem",
        "weights\\..\\x",
    ]
    tensor.external_data.add(key="location", value=_pick(rng, places))
    tensor.external_data.add(key="offset", value=_pick(rng, ["0", "-1", "4096", "99999999999999", "x", "1e3"]))
    tensor.external_data.add(key="length", value=_pick(rng, ["0", "4", "-1", "99999999999999", "x", ""]))


def _input_shape(model, rng) -> None:
    value = _pick(rng, [*model.graph.input, *model.graph.output, *model.graph.value_info])
    if value is not None:
        dims = value.type.tensor_type.shape.dim
        kind = int(rng.integers(5))
        if kind == 0:
            value.type.tensor_type.ClearField("shape")
        elif kind == 1:
            value.type.tensor_type.elem_type = int(rng.integers(0, 24))
        elif kind == 2 or not dims:
            dims.add(dim_value=_pick(rng, NUMBERS))
        elif kind == 3:
            _pick(rng, dims).dim_value = _pick(rng, NUMBERS)
        else:
            _pick(rng, dims).dim_param = _pick(rng, ["N", "H", "", "N*2"])


def _opset(model, rng) -> None:
    entry = _pick(rng, model.opset_import)
    if entry is not None:
        entry.version = _pick(rng, [*range(-1, 26), 2**40])
        entry.domain = _pick(rng, ["", "", "", "ai.onnx", "ai.onnx.ml", "nobody"])
    model.ir_version = _pick(rng, [model.ir_version, model.ir_version, *range(15), 2**40])


def _name_twice(model, rng) -> None:
    named = [*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output]
    if named:
        _pick(rng, named).name = _pick(rng, named).name


def _order(model, rng) -> None:
    _refill(model.graph.node, [model.graph.node[i] for i in rng.permutation(len(model.graph.node))])


def _more_nodes(model, rng) -> None:
    """Any operator between a node and what it reads."""
    node = _pick(rng, model.graph.node)
    if node is not None and node.input:
        place = int(rng.integers(len(node.input)))
        new = onnx.helper.make_node(_pick(rng, OPERATORS), [node.input[place]], ["inserted"], "inserted")
        new.input.extend(_pick(rng, [t.name for t in model.graph.initializer] or [""]) for _ in range(int(rng.integers(3))))
        node.input[place] = "inserted"
        position = next(i for i, other in enumerate(model.graph.node) if other is node or other == node)
        _refill(model.graph.node, [*model.graph.node[:position], new, *model.graph.node[position:]])


def _deep(model, rng) -> None:
    """Subgraphs in subgraphs, deeper than anyone recurses."""
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["deep"])], "deep", [], [])
    for _ in range(int(rng.integers(2, 60))):
        graph = (
            onnx.helper.make_graph(
                [onnx.helper.make_node("If", ["c"], ["deep"], then_branch=graph, else_branch=graph)], "d", [], []
            )
            if graph.ByteSize() < 1 << 16
            else graph
        )
    model.graph.node.append(onnx.helper.make_node("If", ["c"], ["deep"], then_branch=graph, else_branch=graph))


DAMAGE = [
    _any_field, _any_field, _any_field, _any_field, _input_of_a_node, _more_inputs, _output_of_a_node, _operator, _operator,
    _attribute, _attribute, _shape_of_a_tensor, _empty_tensor, _values_of_a_tensor, _values_of_a_tensor, _external, _input_shape,
    _input_shape, _opset, _name_twice, _order, _more_nodes, _more_nodes, _deep,
]  # fmt: skip


# --- the whole way of one file


def whole_way(path: Path) -> str:
    """How far the file came. Raises InputError where it is refused, AssertionError where an answer is wrong."""
    from onnx_distill import artifacts, cut, inspection, model, normalize, pipeline
    from onnx_distill.config import DistillConfig, QuantizeConfig
    from onnx_distill.training import step

    loaded = model.load(path)
    inspection.render(inspection.inspect(loaded))
    images = _images(loaded)
    made, _ = normalize.normalize(loaded)
    _compare(loaded, made, images)
    float_model = cut.cut(made)
    student = pipeline.quantize_with_images(float_model, images, QuantizeConfig(), samples=2, threads=1)
    deployable(student, made)
    with tempfile.TemporaryDirectory() as folder:
        built = artifacts.build(student, DistillConfig(alpha=1.0), "all", Path(folder), len(images))
        wanted = np.zeros((len(images), artifacts.class_count(student.graph.output[0])), np.float32)
        step.Step(built, 1).run(images.values, wanted, None)
    return "trained"


def _images(loaded: onnx.ModelProto):
    from onnx_distill.data import Images
    from onnx_distill.errors import InputError

    class Arrays(Images):
        """Images of any shape, as they are."""

        labels = None

        def __init__(self, values):
            self.values = values

        def __len__(self) -> int:
            return len(self.values)

        def read(self, indices):
            return self.values[indices]

        def subset(self, indices):
            return Arrays(self.values[indices])

        @property
        def fill(self):
            return self.values[0]

    shape = [size if isinstance(size, int) and size > 0 else 8 for size in shape_of(image_input(loaded))]
    if len(shape) < 2 or np.prod([float(size) for size in shape[1:]]) > LARGEST_IMAGE:
        raise InputError(f"nobody has images of shape {shape}.")
    return Arrays(np.random.default_rng(0).standard_normal((2, *shape[1:])).astype(np.float32))


def _compare(before: onnx.ModelProto, after: onnx.ModelProto, images) -> None:
    """Where the runtime takes the file as it is, what was made of it answers the same."""
    from onnx_distill import runtime
    from onnx_distill.errors import InputError

    fixed = shape_of(image_input(before))[0]
    batch = images.values[: fixed if isinstance(fixed, int) else None]
    try:
        session = runtime.open_session(before, 1, optimized=False)
        wanted, again = runtime.run(session, batch), runtime.run(session, batch)
    except InputError:
        return
    found = runtime.run(runtime.open_session(after, 1, optimized=False), batch)
    for one, same, other in zip(wanted, again, found):
        if (
            isinstance(one, np.ndarray)
            and np.array_equal(one, same)  # no numbers at random
            and one.dtype.kind == "f"
            and np.isfinite(one).all()
            and np.abs(one).max(initial=0) < 1e6
        ):
            assert one.shape == other.shape, f"normalize made {other.shape} of {one.shape}"
            allowed = TOLERANCE * max(1.0, float(np.abs(one).max(initial=0)))
            assert np.abs(one - other).max(initial=0) <= allowed, f"normalize is off by {np.abs(one - other).max():.3g}"


def outcome(path: Path) -> tuple[str, str]:
    """(right | refused | wrong | error, one line)."""
    from onnx_distill.errors import InputError

    try:
        return "right", whole_way(path)
    except InputError as error:
        text = str(error)
        return ("refused", text) if text and len(text) < 3000 else ("error", f"a message of {len(text)} letters")
    except AssertionError as error:
        return "wrong", str(error)
    except BaseException as error:
        frames = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
        return "error", f"{type(error).__name__}: {' '.join(str(error).split())[:300]} ({' '.join(frames[-7:])})"


# --- workers


class Worker:
    """A process that takes one path a line and answers with one line of JSON."""

    def __init__(self):
        self.process, self.taken = None, 0
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the worker

    def take(self, path: Path) -> tuple[str, str]:
        if self.process is None or self.taken >= FILES_A_WORKER:
            self.stop()
            self.process, self.taken = self._start(), 0
        self.taken += 1
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], SECONDS)[0]:
            self.stop()
            return "hang", f"more than {SECONDS} s"
        line = self.process.stdout.readline()
        if line:
            kind, text = json.loads(line)
            return kind, text
        code, self.process = self.process.wait(), None
        self.log.seek(0)
        return "crash", f"exit code {code}: {' '.join(self.log.read()[-400:].split())}"

    def _start(self) -> subprocess.Popen:
        self.log.seek(0)
        self.log.truncate()
        command = [sys.executable, __file__, "--worker"]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def work() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        answers.write(json.dumps(outcome(Path(line.rstrip("\n")))) + "\n")
        answers.flush()


def fuzz(count: int, seed: int, keep: Path, workers: int = 2) -> collections.Counter:
    """Outcomes of `count` damaged files; those that are neither right nor refused are kept and printed."""
    models, counts, local, started = bases(), collections.Counter(), threading.local(), []

    def one(number: int) -> None:
        if not hasattr(local, "worker"):
            local.worker = Worker()
            started.append(local.worker)
        rng = np.random.default_rng([seed, number])
        folder = keep / f"{seed}-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "model.onnx"
        path.write_bytes(damaged(_pick(rng, models), rng))
        kind, text = local.worker.take(path)
        counts[kind] += 1
        if kind in ("right", "refused"):
            path.unlink()
            folder.rmdir()
        else:
            print(f"{kind:8} {folder.name}: {text}", flush=True)

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, range(count)))
    for worker in started:
        worker.stop()
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", nargs="?", type=int, default=200)
    parser.add_argument("seed", nargs="?", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that failed")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--file", type=Path, help="one file instead, in this process")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work()
        return 0
    if options.file:
        print(*outcome(options.file), sep=": ")
        return 0
    keep = options.keep or Path(tempfile.mkdtemp(prefix="onnx-distill-fuzz-"))
    counts = fuzz(options.count, options.seed, keep, options.workers)
    print(
        ", ".join(f"{kind} {counts[kind]}" for kind in sorted(counts)), f"; files in {keep}" if any(keep.iterdir()) else ""
    )
    return 0 if set(counts) <= {"right", "refused"} else 1


if __name__ == "__main__":
    sys.exit(main())
