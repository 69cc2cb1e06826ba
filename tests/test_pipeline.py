"""The whole way, on a tiny network: what each step of it promises, and what is refused before any work is done."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_distill import model as models
from onnx_distill import pipeline, runtime
from onnx_distill.config import DistillConfig, QuantizeConfig, TrainConfig
from onnx_distill.cut import cut
from onnx_distill.data import ArrayImages, Preprocess, split
from onnx_distill.errors import InputError
from onnx_distill.evaluate import predict
from onnx_distill.facts.provenance import provenance
from onnx_distill.lookup import array, initializers, shape_of
from onnx_distill.normalize.prepare import prepare
from onnx_distill.ready.calibrated import drawn, ready
from onnx_distill.ready.deployable import deployable, logits_model
from onnx_distill.ready.distillation import EQUAL, Scorer, distill
from onnx_distill.ready.measure import logits_of, measure
from onnx_distill.run.watch import Watch

RECIPE = TrainConfig(epochs=2, batch_size=4, learning_rate=0.1, threads=1)
LOSS = DistillConfig(temperature=4)
W3A3 = QuantizeConfig(weight_bits=3, activation_bits=3)


@pytest.fixture
def tiny_teacher(tiny_float):
    """tiny_float with a Softmax behind its logits."""
    made = onnx.ModelProto()
    made.CopyFrom(tiny_float)
    made.graph.node.append(helper.make_node("Softmax", ["logits"], ["probabilities"], "softmax"))
    del made.graph.output[:]
    made.graph.output.append(helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["n", 3]))
    return made


@pytest.fixture
def images(tiny_float):
    """96 random images, labelled by tiny_float itself."""
    pixels = np.random.default_rng(1).normal(0, 1, (96, 1, 4, 4)).astype(np.float32)
    scores = predict(runtime.open_session(tiny_float, 1), ArrayImages(pixels, preprocess=Preprocess(layout="NCHW")))
    return ArrayImages(pixels, scores.argmax(axis=1), Preprocess(layout="NCHW"))


@pytest.fixture
def student(tiny_float, images):
    return pipeline.quantize_with_images(tiny_float, images, W3A3, threads=1)


def bytes_of(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)


# --- quantize_with_images


@pytest.mark.parametrize("bits, method", [(8, "mse"), (7, "mse"), (6, "mse"), (4, "mse")])
def test_the_automatic_calibration_is_mse_at_any_bits(bits, method, tiny_float, images):
    auto, named = (QuantizeConfig(bits, bits, 0, calibration_method=name) for name in ("auto", method))
    made = [pipeline.quantize_with_images(tiny_float, images, config, threads=1) for config in (auto, named)]
    assert bytes_of(made[0]) == bytes_of(made[1])


def test_calibration_sees_as_many_images_as_asked_for_drawn_by_the_seed(tiny_float, images):
    config, chosen = QuantizeConfig(), np.random.default_rng(7).permutation(96)[::-1][:10]
    few = pipeline.quantize_with_images(tiny_float, images, config, samples=10, seed=7, threads=1)
    same = pipeline.quantize_with_images(tiny_float, images.subset(chosen), config, threads=1, validation=0)
    assert bytes_of(few) == bytes_of(same)
    assert bytes_of(few) != bytes_of(
        pipeline.quantize_with_images(tiny_float, images, config, samples=10, seed=8, threads=1)
    )


@pytest.mark.parametrize("count, held_out", [(96, None), (96, 30), (7, None), (1, None)])
def test_no_image_that_a_student_is_calibrated_on_is_held_out_to_choose_it(count, held_out, images):
    images = images.subset(np.arange(count))
    chosen = drawn(images, 1000, 3, held_out)
    both = {image.tobytes() for image in chosen.read(np.arange(len(chosen)))}
    assert len(chosen) == len(both)
    if count > 1:
        rest, held = split(images, held_out, 3)
        assert both == {image.tobytes() for image in rest.read(np.arange(len(rest)))}
        assert both.isdisjoint(image.tobytes() for image in held.read(np.arange(len(held))))


@pytest.mark.parametrize(
    "bits, rounding, together", [(4, "auto", True), (7, "auto", False), (7, "compensated", True), (4, "nearest", False)]
)
def test_weights_are_rounded_together_where_bits_are_few_or_it_is_asked_for(bits, rounding, together, tiny_float, images):
    config = QuantizeConfig(bits, 8, 0, rounding=rounding)
    made, nearest = (
        pipeline.quantize_with_images(tiny_float, images, each, threads=1)
        for each in (config, replace(config, rounding="nearest"))
    )
    assert (bytes_of(made) != bytes_of(nearest)) == together
    assert provenance(made).get("rounding") == ("compensated" if together else None)


def test_quantize_with_images_does_not_change_its_model(tiny_float, images):
    before = bytes_of(tiny_float)
    pipeline.quantize_with_images(tiny_float, images, W3A3, threads=1)
    assert bytes_of(tiny_float) == before


# --- deployable and scorer


def test_deployable_gives_the_softmax_of_the_simulated_logits(student, tiny_teacher, images):
    simulated = predict(runtime.open_session(student, 1, optimized=False), images)
    deployed = predict(runtime.open_session(deployable(student, tiny_teacher), 1), images)
    expected = np.exp(simulated) / np.exp(simulated).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(deployed, expected, atol=1e-6)  # float32 rounding of numbers below 1


def test_deployable_refuses_a_float_student(tiny_float, tiny_teacher):
    with pytest.raises(InputError, match="the student has no quantizers; wanted a QDQ model"):
        deployable(tiny_float, tiny_teacher)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_student_is_scored_in_its_exported_form_by_labels_or_else_by_its_teacher(
    labelled, student, tiny_float, tiny_teacher, images
):
    held_out = images if labelled else ArrayImages(images.pixels, preprocess=Preprocess(layout="NCHW"))
    answers = predict(runtime.open_session(deployable(student, tiny_teacher), 1), images).argmax(axis=1)
    assert Scorer(held_out, [tiny_float], threads=1)(student).share == pytest.approx(np.mean(answers == images.labels))


# --- distill


def test_distill_keeps_a_student_that_is_no_worse_than_the_one_given(student, tiny_teacher, images):
    seen = []
    trained = distill(student, tiny_teacher, images, 32, LOSS, RECIPE, Watch(evaluation=seen.append))
    assert trained.best.kl <= seen[0].kl and trained.best.score in [score for _, score in trained.scores]
    assert [epoch for epoch, _ in trained.scores] == [0, 1, 2]


def test_distill_never_trains_on_what_it_holds_out(student, tiny_teacher, images):
    """Held-out images are a thousand times as large: a step that met one would have a loss like no other."""
    order = np.random.default_rng(RECIPE.seed).permutation(96)
    pixels = images.pixels.copy()
    pixels[order[:32]] *= 1000
    spoilt = ArrayImages(pixels, images.labels, Preprocess(layout="NCHW"))
    steps = []
    distill(student, tiny_teacher, spoilt, 32, LOSS, RECIPE, Watch(step=steps.append))
    assert len(steps) == 32 and max(step.loss for step in steps) < 10


def test_distill_without_labels_learns_from_the_teacher(student, tiny_teacher, images):
    unlabelled = ArrayImages(images.pixels, preprocess=Preprocess(layout="NCHW"))
    trained = distill(student, tiny_teacher, unlabelled, 32, DistillConfig(alpha=1.0), RECIPE)
    assert 0 <= trained.best.score <= 1


def test_distill_refuses_before_training_what_could_not_be_exported_after_it(student, tiny_teacher, images):
    other = onnx.ModelProto()
    other.CopyFrom(tiny_teacher)
    other.graph.input[0].name = other.graph.node[0].input[0] = "picture"
    with pytest.raises(InputError, match="the student reads 'image', the teacher 'picture'"):
        distill(student, other, images, 32, LOSS, RECIPE, Watch(evaluation=_unexpected, step=_unexpected))


def _unexpected(found):
    raise AssertionError(f"training had begun: {found}")


@pytest.mark.parametrize("name", ["tiny_float", "tiny_teacher"])
def test_a_student_of_another_tool_is_trained_at_the_logits_of_its_teacher(name, student, request):
    """It says nothing about where it was cut: its output is one of the teacher's, behind a Softmax or not."""
    teacher, foreign = request.getfixturevalue(name), onnx.ModelProto()
    foreign.CopyFrom(student)
    foreign.graph.output[0].name = teacher.graph.output[0].name
    assert [value.name for value in logits_model(foreign, teacher).graph.output] == ["logits"]


def test_a_student_that_is_its_teachers_equal_is_not_trained_unless_training_is_asked_for(tiny_float, tiny_teacher, images):
    student, steps = pipeline.quantize_with_images(tiny_float, images, QuantizeConfig(), threads=1), []
    watch = Watch(step=steps.append)
    found = distill(student, tiny_teacher, images, 32, LOSS, RECIPE, watch)
    assert not steps and found.images == 0 and found.kept.startswith("PTQ is enough: the KL to the teacher is ")
    assert found.best.epoch == 0 and found.best.kl < EQUAL and provenance(found.best.student)["kept"] == found.kept
    distill(student, tiny_teacher, images, 32, LOSS, replace(RECIPE, train="always"), watch)
    assert max(step.step for step in steps) == 32


def test_a_training_that_helps_by_no_more_than_chance_gives_back_the_student_it_was_given_and_says_so(
    student, tiny_teacher, images
):
    before = bytes_of(student)
    found = distill(student, tiny_teacher, images, 32, LOSS, replace(RECIPE, learning_rate=1e-9))
    assert found.kept.startswith("training did not help: ") and "32 held-out images cannot show a small gain" in found.kept
    assert found.best.epoch == 0 and bytes_of(student) == before
    values = lambda model: {t.name: t.raw_data for t in model.graph.initializer}  # noqa: E731
    assert values(found.best.student) == values(student)


def test_what_is_kept_instead_of_a_trained_student_is_nowhere_called_distilled(tiny_teacher, images, tmp_path):
    outcome = go(tiny_teacher, images, tmp_path, recipe=replace(RECIPE, learning_rate=1e-9))
    assert [row.name for row in outcome.rows] == ["float", "PTQ"]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["kept"] == outcome.trained.kept == provenance(models.load(outcome.student))["kept"]
    assert [row["name"] for row in result["rows"]] == ["float", "PTQ"]


# --- measure


def test_measure_compares_every_model_with_the_first(student, tiny_teacher, images):
    chain = {"float": tiny_teacher, "again": tiny_teacher, "student": deployable(student, tiny_teacher)}
    first, again, quantized = measure(chain, images, threads=1, batch_sizes=())
    assert [row.name for row in (first, again, quantized)] == list(chain)
    assert (first.measured.top1, first.measured.agreement, first.measured.kl) == (1.0, 1.0, 0.0)  # it gave the labels
    assert again.measured == first.measured
    assert quantized.measured.top1 == quantized.measured.agreement < 1 and quantized.measured.kl > 0


def test_measure_times_every_model_at_every_batch_size(tiny_teacher, images):
    rows = measure({"a": tiny_teacher, "b": tiny_teacher}, images, threads=1, batch_sizes=(1, 3))
    assert all(list(row.measured.latency_seconds) == [1, 3] for row in rows)
    assert all(seconds > 0 for row in rows for seconds in row.measured.latency_seconds.values())


def test_the_size_measured_is_that_of_the_file(tiny_teacher, images, tmp_path):
    models.save(tiny_teacher, tmp_path / "teacher.onnx")
    row = measure({"a": tiny_teacher}, images, threads=1, batch_sizes=())[0]
    assert row.measured.size_bytes == (tmp_path / "teacher.onnx").stat().st_size


def test_logits_are_found_before_the_softmax_or_where_they_are_named(tiny_float, tiny_teacher, images):
    found = logits_of(tiny_teacher, images, threads=1)
    assert np.array_equal(found, predict(runtime.open_session(tiny_float, 1), images))
    assert np.array_equal(found, logits_of(tiny_float, images, threads=1, logits="logits"))
    assert np.array_equal(found, logits_of(tiny_float, images, threads=1))  # no Softmax, but one output that a layer makes


# --- run


def go(teacher, images, folder, test_images=None, validation=32, loss=LOSS, recipe=RECIPE, bits=W3A3, **options):
    return pipeline.run(
        teacher, images, test_images or images, folder, bits, loss, recipe, samples=64, validation=validation, **options
    )


def test_run_writes_each_stage_of_the_way_and_what_it_measured(tiny_teacher, images, tmp_path):
    stages = []
    recipe, bits = replace(RECIPE, epochs=30, learning_rate=0.02), QuantizeConfig(2, 4, edge_bits=0, rounding="nearest")
    outcome = go(tiny_teacher, images, tmp_path, watch=Watch(stage=stages.append), recipe=recipe, bits=bits)
    assert stages == ["cut", "quantize", "train", "export", "measure"]
    names = ["logits.onnx", "result.json", "student.int8.onnx", "student.qdq.onnx", "trained.qdq.onnx"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    result = json.loads((tmp_path / "result.json").read_text())
    assert [row["name"] for row in result["rows"]] == ["float", "PTQ", "distilled"]
    assert [row["top1"] for row in result["rows"]] == [row.measured.top1 for row in outcome.rows]
    assert TrainConfig(**result["config"]["train"]) == recipe and DistillConfig(**result["config"]["distill"]) == LOSS


def test_each_file_of_a_run_is_made_from_the_one_before(tiny_teacher, images, tmp_path):
    outcome = go(tiny_teacher, images, tmp_path)
    read = {path.stem: models.load(path) for path in tmp_path.glob("*.onnx")}
    again = pipeline.quantize_with_images(read["logits"], images, W3A3, 64, RECIPE.seed, 1, validation=32)
    assert bytes_of(again) == bytes_of(read["student.qdq"])
    assert bytes_of(outcome.trained.best.student) == bytes_of(read["trained.qdq"])
    assert bytes_of(deployable(read["trained.qdq"], tiny_teacher)) == bytes_of(read["student.int8"])


def test_two_runs_with_the_same_seed_give_the_same_bytes(tiny_teacher, images, tmp_path):
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made.append(go(tiny_teacher, images, tmp_path / name).student.read_bytes())
    assert made[0] == made[1]


def test_run_takes_a_teacher_without_softmax_when_told_its_logits(tiny_float, images, tmp_path):
    outcome = go(tiny_float, images, tmp_path, logits="logits")
    assert list(models.load(outcome.student).graph.output) == list(tiny_float.graph.output)


def test_run_takes_a_softmax_inside_the_network_for_what_it_is(tiny_float, images, tmp_path):
    """Attention has one; a teacher with such a one but without a final one ends in its logits."""
    inner = onnx.ModelProto()
    inner.CopyFrom(tiny_float)
    relu = next(node for node in inner.graph.node if node.op_type == "Relu")
    relu.op_type, relu.name = "Softmax", "attention"
    outcome = go(inner, images, tmp_path, logits="logits")
    assert list(models.load(outcome.student).graph.output) == list(inner.graph.output)


LARGE = ArrayImages(np.zeros((40, 1, 5, 5), np.float32), np.zeros(40), Preprocess(layout="NCHW"))
UNLABELLED = ArrayImages(np.zeros((40, 1, 4, 4), np.float32), None, Preprocess(layout="NCHW"))
REFUSED = {
    "large test images": ({"test_images": LARGE}, r"shape \[\d+, 1, 5, 5\] was given; input 'image' wants"),
    "large images": ({"images": LARGE}, r"shape \[\d+, 1, 5, 5\] was given; input 'image' wants"),
    "no labels": (
        {"images": UNLABELLED, "loss": DistillConfig(alpha=0.9)},
        r"alpha is 0\.9 but the images have no labels",
    ),
    "nothing left to train on": ({"validation": 96}, r"cannot hold out 96 of 96 images; wanted 1 to 95"),
    "no such logits": ({"logits": "logit"}, r"no node or value named 'logit'; closest: 'logits'"),
}


@pytest.mark.parametrize("options, message", REFUSED.values(), ids=REFUSED)
def test_a_run_that_is_refused_writes_nothing(options, message, tiny_teacher, images, tmp_path):
    with pytest.raises(InputError, match=message):
        go(tiny_teacher, **{"images": images, "test_images": images, "folder": tmp_path, **options})
    assert list(tmp_path.iterdir()) == []


def test_a_student_is_not_quantized_twice(student, images):
    with pytest.raises(InputError, match="already quantized"):
        go(student, images, None)


# --- models as exporters write them

OTHERS = {
    "a batch of 1": ("float[1,1,8,2] image", "f = Reshape(image, one) logits = MatMul(f, w)"),
    "free height and width": ("float[n,1,h,w] image", "f = Reshape(image, rows) logits = MatMul(f, w)"),
    "uint8": ("uint8[n,1,8,2] image", "c = Cast<to = 1>(image) f = Flatten(c) logits = MatMul(f, w)"),
    "float16": ("float16[n,1,8,2] image", "c = Cast<to = 1>(image) f = Flatten(c) logits = MatMul(f, w)"),
    "channels last": (
        "float[n,8,2,1] image",
        "t = Transpose<perm = [0,3,1,2]>(image) f = Flatten(t) logits = MatMul(f, w)",
    ),
    "uint8, channels last, a batch of 2": (
        "uint8[2,8,2,1] image",
        "c = Cast<to = 1>(image) t = Transpose<perm = [0,3,1,2]>(c) f = Reshape(t, two) logits = MatMul(f, w)",
    ),
}


def other(given: str, body: str) -> onnx.ModelProto:
    batch = given[given.index("[") + 1]
    constants = "int64[2] one = {1,16}, int64[2] two = {2,16}, int64[2] rows = {-1,16}"
    text = f"""<ir_version: 8, opset_import: ["": 17]> g ({given}) => (float[{batch},3] probabilities) <{constants}> {{
        {body} probabilities = Softmax(logits) }}"""
    model, rng = onnx.parser.parse_model(text), np.random.default_rng(0)
    weights = rng.normal(0, 0.02, (16, 3)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    return model


@pytest.mark.parametrize("kind", OTHERS)
def test_any_form_of_input_goes_the_whole_way_and_comes_out_as_it_was(kind, tmp_path):
    teacher = other(*OTHERS[kind])
    pixels = np.random.default_rng(1).integers(0, 256, (96, 1, 8, 2)).astype(np.float32)
    images = ArrayImages(pixels, preprocess=Preprocess(layout="NCHW"))
    loss, recipe = DistillConfig(alpha=1), TrainConfig(epochs=2, batch_size=8, threads=1)
    outcome = pipeline.run(teacher, images, images, tmp_path, QuantizeConfig(), loss, recipe, validation=16)
    float_row, *_, shipped = outcome.rows
    assert shipped.measured.agreement > 0.9 and float_row.measured.agreement == 1
    deployed, given = models.load(outcome.student).graph.input[0], teacher.graph.input[0]
    assert deployed.type.tensor_type.elem_type == given.type.tensor_type.elem_type
    sizes = [wanted if isinstance(wanted, int) else found for found, wanted in zip(shape_of(deployed), shape_of(given))]
    assert shape_of(deployed)[1:] == sizes[1:] and all(isinstance(size, int) for size in sizes[1:])


def test_constants_of_the_student_are_given_to_the_teacher(tiny_teacher, images):
    teacher = models.load(tiny_teacher)
    teacher.graph.input.append(helper.make_tensor_value_info("temperature", onnx.TensorProto.FLOAT, []))
    first = next(node for node in teacher.graph.node if "image" in node.input)
    first.input[0] = "scaled"
    teacher.graph.node.insert(0, helper.make_node("Div", ["image", "temperature"], ["scaled"], "scale"))
    student = pipeline.quantize_with_images(cut(prepare(teacher, constants={"temperature": 2})), images, W3A3)
    made = logits_model(student, teacher)
    assert [value.name for value in made.graph.input] == ["image"]
    assert array(initializers(made)["temperature"]) == 2
    assert [value.name for value in deployable(student, teacher).graph.input] == ["image"]


def test_a_batch_that_cannot_be_freed_is_refused_by_its_node(images):
    body = "f = Reshape(image, one) [mixing] s = Softmax<axis = 0>(f) logits = MatMul(s, w)"
    with pytest.raises(InputError, match="batches of 1 only: Softmax 'mixing' mixes.*free batch axis"):
        pipeline.quantize_with_images(cut(other("float[1,1,4,4] image", body)), images, QuantizeConfig())


def test_images_too_small_for_the_model_are_refused(images):
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> g (float[n,1,h,w] image) => (float[n,1] logits) {
        p = MaxPool<kernel_shape = [5,5]>(image) q = GlobalMaxPool(p) logits = Flatten(q) }"""
    )
    with pytest.raises(InputError, match="of images 1x4x4 nothing is left at MaxPool 'p'; wanted larger ones"):
        ready(model, (1, 4, 4))


def test_latency_is_measured_at_the_one_batch_size_that_a_model_takes(images):
    rows = measure({"float": other("float[1,1,4,4] image", "f = Flatten(image) logits = MatMul(f, w)")}, images, 1, (1, 64))
    assert list(rows[0].measured.latency_seconds) == [1]
