"""What several test files share: a tiny QDQ student, steps built from a model, the real teacher, real images."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from onnx_distill import _ort, artifacts, calibrate, cut, data, gradients, loss, placement, quantize
from onnx_distill.config import DistillConfig, QuantizeConfig
from onnx_distill.lookup import initializers
from onnx_distill.trainable import fake_quant, feature_error
from onnx_distill.training.step import Step

hypothesis.settings.register_profile("no time limit", deadline=None)  # a machine may stand still; time is for benchmarks
hypothesis.settings.load_profile("no time limit")

ROOT = Path(__file__).resolve().parent.parent
TINY = """<ir_version: 8, opset_import: ["": 17]>
tiny (float[n,1,4,4] image) => (float[n,3] logits) <int64[2] rows = {0, 64}> {
    [stem] c1 = Conv<kernel_shape = [3,3], pads = [1,1,1,1]>(image, w1, b1)
    [relu] a1 = Relu(c1)
    [depthwise] c2 = Conv<kernel_shape = [3,3], pads = [1,1,1,1], group = 4>(a1, w2, b2)
    [residual] d = Add(a1, c2)
    [flat] f = Reshape(d, rows)
    [classifier] logits = Gemm(f, w3, b3)
}"""
SHAPES = {"w1": (4, 1, 3, 3), "b1": (4,), "w2": (4, 1, 3, 3), "b2": (4,), "w3": (64, 3), "b3": (3,)}
RANGES = {"image": (-1, 1), "a1": (0, 2), "c2": (-2, 2), "d": (-2, 4), "logits": (-3, 3)}


@pytest.fixture
def set_values():
    """(model, {initializer: values}) -> a copy of the model with these values, added where there are none."""

    def set_values(model: onnx.ModelProto, values: dict[str, np.ndarray]) -> onnx.ModelProto:
        made = onnx.ModelProto()
        made.CopyFrom(model)
        for name, array in values.items():
            tensor = numpy_helper.from_array(np.asarray(array, np.float32), name)
            known = initializers(made).get(name)
            known.CopyFrom(tensor) if known is not None else made.graph.initializer.append(tensor)
        return made

    return set_values


@pytest.fixture
def tiny_float(set_values):
    """A float network of three weighted layers and a residual sum: image [n, 1, 4, 4] -> logits [n, 3]."""
    rng = np.random.default_rng(0)
    return set_values(onnx.parser.parse_model(TINY), {n: rng.normal(0, len(s) / 12, s) for n, s in SHAPES.items()})


@pytest.fixture
def tiny_student(tiny_float):
    """config -> the QDQ form of tiny_float, its ranges written by hand; 4 bits, edges at 8 unless told otherwise."""

    def student(config=QuantizeConfig(weight_bits=4, activation_bits=4)) -> onnx.ModelProto:
        return quantize.quantize(tiny_float, placement.plan(tiny_float, config), RANGES, config)

    return student


@pytest.fixture
def make_step(tmp_path):
    """(student, config, learn_steps, batch_size) -> its Step on one thread; lowered=False leaves the quantizers as FakeQuantize functions."""

    def make_step(student, config=DistillConfig(), learn_steps="all", batch_size=None, lowered=True, features=()) -> Step:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        build = artifacts.build if lowered else _build_without_lowering
        return Step(build(student, config, learn_steps, folder, batch_size, features=features), threads=1)

    return make_step


def _build_without_lowering(student, config, learn_steps, folder, batch_size=None, features=()) -> artifacts.Artifacts:
    parameters = artifacts.trainable(student, learn_steps)
    prepared = fake_quant.fake_quantized(student, parameters.steps)
    logits = prepared.model.graph.output[0]
    classes = artifacts.class_count(logits)
    add = lambda graph, name: loss.add_loss(graph, name, classes, config, features)  # noqa: E731
    trained = gradients.differentiable(prepared.model, parameters.all)
    trained.functions.extend([feature_error.feature_error_function(17)] if features else [])
    _ort.generate_artifacts(trained, parameters.all, add, folder, [logits.name])
    return artifacts.Artifacts(folder, parameters, config)


@pytest.fixture
def training_graph(tmp_path):
    """(student, learn_steps, batch_size, lowered) -> the graph of its training model."""

    def training_graph(student, learn_steps="all", batch_size=None, lowered=True) -> onnx.GraphProto:
        build = artifacts.build if lowered else _build_without_lowering
        build(student, DistillConfig(), learn_steps, tmp_path, batch_size)
        return onnx.load(str(tmp_path / artifacts.TRAINING_MODEL)).graph

    return training_graph


@pytest.fixture(scope="session")
def teacher():
    """The teacher of models/, cut at its logits: 28x28 grey -> [n, 11]."""
    return placement.with_node_names(cut.cut(onnx.load(str(ROOT / "models" / "mobilenetv2-fashion.onnx"))))


@pytest.fixture(scope="session")
def fashion():
    """Name ('train', 't10k') -> those Fashion-MNIST images, preprocessed as the teacher wants them."""
    preprocess = data.Preprocess.of(onnx.load(str(ROOT / "models" / "mobilenetv2-fashion.onnx")))

    def fashion(name: str) -> data.Images:
        path = ROOT / "data" / f"{name}-images-idx3-ubyte.gz"
        if not path.is_file():
            pytest.fail(f"no file {path}: run make data")
        return data.open_images(path, preprocess=preprocess)

    return fashion


@pytest.fixture(scope="session")
def fashion_train(fashion):
    return fashion("train")


@pytest.fixture(scope="session")
def fashion_test(fashion):
    return fashion("t10k")


@pytest.fixture(scope="session")
def w3a3_student(teacher, fashion_train):
    """The teacher in 3 bits, edges at 8, calibrated on 128 training images: PTQ that visibly loses."""
    config = QuantizeConfig(weight_bits=3, activation_bits=3)
    plan = placement.plan(teacher, config)
    batches = (b.images for b in data.batches(fashion_train.subset(np.arange(128)), 64))
    seen = calibrate.calibrate(teacher, [site.value for site in plan.activations], batches)
    ranges = {
        s.value: calibrate.choose_range(seen[s.value], "mse" if s.integers.qmax < 255 else "minmax", s.integers, False)
        for s in plan.activations
    }
    return quantize.quantize(teacher, plan, ranges, config)


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    """A folder with teacher.onnx (8x8 grey, three classes), its clipped student s.onnx, set/ (a folder per class), list.txt and test.npz."""
    from test_cli import CLIPPED, onnx_distill  # not above: pytest is to rewrite its assertions

    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
    tiny (float[n,1,8,8] image) => (float[n,3] probabilities) <int64[2] rows = {0, -1}> {
        c = Conv<kernel_shape = [3,3]>(image, w1, b1)  a = Relu(c)  f = Reshape(a, rows)
        logits = Gemm(f, w2, b2)  probabilities = Softmax(logits)
    }""")
    for name, shape in {"w1": (4, 1, 3, 3), "b1": (4,), "w2": (144, 3), "b2": (3,)}.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name))
    onnx.save(model, str(folder / "teacher.onnx"))
    pixels, labels = rng.integers(0, 256, (60, 8, 8), np.uint8), np.repeat(np.arange(3), 20)
    np.savez(folder / "test.npz", images=pixels, labels=labels)
    lines = []
    for number, (image, label) in enumerate(zip(pixels, labels)):
        name = f"{'abc'[label]}/{number:02}.png"
        (folder / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / "set" / name)
        lines.append(f"{name} {label}")
    (folder / "list.txt").write_text("\n".join(lines))
    scale = "--mean 127.5 --scale 0.01"
    assert onnx_distill(f"cut {folder}/teacher.onnx -o {folder}/logits.onnx").code == 0
    line = f"quantize {folder}/logits.onnx --data {folder}/test.npz {scale} --weight-bits 3 {CLIPPED} --threads 1 -o {folder}/s.onnx"
    assert onnx_distill(line).code == 0
    return folder
