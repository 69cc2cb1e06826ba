"""The public names: few, typed, documented, quick to import; and docs/api.md, whose code is run as it stands."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from test_cli import classifier

import onnx_distill as od

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
FUNCTIONS = [name for name in od.__all__ if name.islower() and not name.startswith("_")]
QUICK = dict(validation=12)
CLIPPED = od.QuantizeConfig(
    weight_bits=3, rounding="nearest", calibration_method="percentile", percentile=60
)  # a student that loses much,
RECIPE = od.TrainConfig(threads=1, batch_size=8, epochs=2, learning_rate=0.3, step_rate=0.3)  # and a training that mends it


def python(code: str, folder: Path = ROOT) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> onnx.ModelProto:
    path = tmp_path_factory.mktemp("api") / "teacher.onnx"
    onnx.save(classifier(), str(path))
    return od.load_model(path)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 6, 6), np.uint8)


@pytest.fixture(scope="module")
def images(teacher, pixels):
    return od.read_images(pixels, teacher, np.random.default_rng(1).integers(0, 3, 60))


@pytest.fixture(scope="module")
def student(teacher, images) -> onnx.ModelProto:
    return od.quantize_model(od.cut_model(teacher), images, CLIPPED, threads=1, **QUICK)


# ---- the names


def test_the_code_of_the_page_runs_and_brings_the_student_nearer_to_the_teacher(tmp_path):
    for name in ("models", "data"):
        (tmp_path / name).symlink_to(ROOT / name)
    out = python("\n".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)), tmp_path)
    loss = {name: float(kl) for name, kl in re.findall(r"^(\w+) +top-1 .*KL ([\d.]+)$", out, re.M)}
    assert loss["float"] == 0 < loss["distilled"] < loss["PTQ"]
    exported = ort.InferenceSession(str(tmp_path / "student.int8.onnx"), providers=["CPUExecutionProvider"])
    original = ort.InferenceSession(str(ROOT / "models/mobilenetv2-fashion.onnx"), providers=["CPUExecutionProvider"])
    for ends in ("get_inputs", "get_outputs"):
        assert [v.name for v in getattr(exported, ends)()] == [v.name for v in getattr(original, ends)()]


def test_the_page_has_every_name(teacher):
    assert set(re.findall(r"^\| .*\| `(\w+)\(", PAGE, re.M)) == set(FUNCTIONS)
    assert all(f"`{name}`" in PAGE for name in od.__all__ if not name.islower())


def test_importing_the_package_imports_no_runtime():
    heavy = ("onnx", "numpy", "onnxruntime", "click", "onnx_distill.pipeline")
    assert python(f"import sys, onnx_distill; print([n for n in {heavy} if n in sys.modules])").strip() == "[]"


def test_no_public_name_is_that_of_a_module():
    assert [name for name in od.__all__ if importlib.util.find_spec(f"onnx_distill.{name}")] == []


def test_dir_lists_the_public_names_and_another_is_an_attribute_error():
    assert dir(od) == sorted(od.__all__)
    with pytest.raises(AttributeError, match="module 'onnx_distill' has no attribute 'quantise'"):
        od.quantise  # noqa: B018


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_has_a_type_and_a_word_in_the_docstring(name):
    function = getattr(od, name)
    signature = inspect.signature(function)
    untyped = [p.name for p in signature.parameters.values() if p.annotation is inspect.Parameter.empty]
    assert not untyped and signature.return_annotation is not inspect.Signature.empty
    assert "Raises InputError" in function.__doc__


def test_types_are_shipped():
    assert (ROOT / "onnx_distill" / "py.typed").is_file() and "onnx_distill = py.typed" in (ROOT / "setup.cfg").read_text()


# ---- images


def test_the_models_metadata_are_done_to_arrays_and_files_alike(teacher, pixels, tmp_path):
    np.savez(tmp_path / "i.npz", images=pixels, labels=np.zeros(60, int))
    one, other = od.read_images(tmp_path / "i.npz", teacher), od.read_images(pixels, teacher, np.zeros(60, int))
    wanted = ((pixels[:, None].astype(np.float32) - 128) * np.float32(0.01)).astype(np.float32)
    for images in (one, other):
        np.testing.assert_allclose(images.read(np.arange(60)), wanted, rtol=1e-6)
        assert images.labels.tolist() == [1] * 60  # the metadata's offset


def test_without_a_model_images_are_handed_on_as_they_are(pixels):
    assert np.array_equal(od.read_images(pixels).read(np.arange(60))[:, 0], pixels)


def test_a_preset_goes_over_the_models_own(teacher, pixels):
    images = od.read_images(pixels, teacher, np.zeros(60, int), preprocess="mobilenet")
    np.testing.assert_allclose(images.read(np.arange(1))[0, 0], (pixels[0] - 127.5) / 127.5, rtol=1e-6)
    assert images.labels[0] == 1


def test_an_unknown_preset_and_labels_beside_a_path_are_refused(pixels, tmp_path):
    with pytest.raises(od.InputError, match="no preset 'imagnet'; closest: 'imagenet'"):
        od.read_images(pixels, preprocess="imagnet")
    np.save(tmp_path / "i.npy", pixels)
    with pytest.raises(od.InputError, match="the labels of .*i.npy are a ndarray; wanted a path"):
        od.read_images(tmp_path / "i.npy", labels=np.zeros(60))


# ---- the stages


def test_stages_make_what_the_whole_way_makes(teacher, images, student, tmp_path):
    outcome = od.run_pipeline(teacher, images, images, tmp_path / "run", CLIPPED, training=RECIPE, **QUICK)
    trained = od.train_model(student, teacher, images, training=RECIPE, **QUICK)
    exported = od.export_model(trained.best.student, teacher)
    assert outcome.student.read_bytes() == exported.SerializeToString(deterministic=True)
    found = od.evaluate_models({"float": teacher, "distilled": exported}, images, threads=1)
    assert found["distilled"].top1 == next(row.measured.top1 for row in outcome.rows if row.name == "distilled")
    assert found["float"].kl == 0 and found["distilled"].latency_seconds is None


def test_training_tells_of_every_step_and_evaluation(teacher, images, student):
    steps, scores = [], []
    trained = od.train_model(
        student, teacher, images, training=RECIPE, on_step=steps.append, on_evaluation=scores.append, **QUICK
    )
    assert [p.step for p in steps] == list(range(1, 13))
    assert [(at.epoch, at.score) for at in scores] == [*trained.scores[-len(scores) :]]


def test_a_further_teacher_and_features_teach_too(teacher, images, student):
    other = onnx.ModelProto()
    other.CopyFrom(teacher)
    for tensor in (t for t in other.graph.initializer if t.data_type == onnx.TensorProto.FLOAT):
        tensor.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(tensor), tensor.name))
    distillation = od.DistillConfig(features=("auto",))
    losses = []
    for more, also in (((), ()), ((distillation,), ()), ((), [other])):
        seen = []
        od.train_model(student, teacher, images, *more, training=RECIPE, also_teachers=also, on_step=seen.append, **QUICK)
        losses.append(seen[-1].loss)
    assert len(set(losses)) == 3


def test_an_interrupted_training_goes_on_in_its_folder_to_the_same_student(teacher, images, student, tmp_path):
    training = dataclasses.replace(RECIPE, save_every=2)
    whole = od.train_model(student, teacher, images, training=training, **QUICK)
    assert not whole.kept

    def killed(progress):
        if progress.step == 7:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        od.train_model(student, teacher, images, training=training, folder=tmp_path, on_step=killed, **QUICK)
    with pytest.raises(od.InputError, match="was interrupted at step 6"):
        od.train_model(student, teacher, images, training=training, folder=tmp_path, **QUICK)
    again = od.train_model(student, teacher, images, training=training, folder=tmp_path, resume=True, **QUICK)
    assert again.best.student.SerializeToString(deterministic=True) == whole.best.student.SerializeToString(
        deterministic=True
    )
    assert not list(tmp_path.glob("checkpoints/*"))


def test_unless_told_otherwise_a_quarter_of_few_images_is_held_out(teacher, images, student):
    trained = od.train_model(student, teacher, images, training=RECIPE)
    facts = {entry.key: entry.value for entry in trained.best.student.metadata_props}
    assert facts["onnx_distill.score_of"] == "top-1 on 15 held-out images" and trained.best.images == 15


@pytest.mark.parametrize(
    "quantization, training, why",
    [
        (od.QuantizeConfig(), dataclasses.replace(RECIPE, split_seed=2), "PTQ is enough: the KL to the teacher is "),
        (CLIPPED, dataclasses.replace(RECIPE, learning_rate=1e-9, step_rate=0), "training did not help: "),
    ],
    ids=["not trained", "trained in vain"],
)
def test_a_student_that_training_does_not_improve_comes_back_as_it_was_and_says_why(
    teacher, images, tmp_path, quantization, training, why
):
    outcome = od.run_pipeline(teacher, images, images, tmp_path / "run", quantization, training=training, **QUICK)
    assert outcome.trained.kept.startswith(why) and [row.name for row in outcome.rows] == ["float", "PTQ"]
    seed = training.split_seed or 0
    student = od.quantize_model(od.cut_model(teacher), images, quantization, seed=seed, threads=1, **QUICK)
    trained = od.train_model(student, teacher, images, training=training, **QUICK)
    constants = [{t.name: t.raw_data for t in model.graph.initializer} for model in (student, trained.best.student)]
    assert trained.kept == outcome.trained.kept and constants[0] == constants[1]
    found = od.evaluate_models({"float": teacher, "shipped": od.load_model(outcome.student)}, images, threads=1)
    assert (found["shipped"].kl, found["shipped"].size_bytes) == (
        outcome.rows[1].measured.kl,
        outcome.rows[1].measured.size_bytes,
    )


def test_a_ranking_may_choose_the_bits(teacher, images):
    from onnx_distill.mixed.budget import Budget
    from onnx_distill.mixed.sensitivity import sensitivity
    from onnx_distill.ready.calibrated import calibrated

    rest, float_model = od.QuantizeConfig(edge_bits=0), od.cut_model(teacher)
    ranking = sensitivity(calibrated(float_model, images, rest, 1), images, rest, (3,), threads=1)
    made = od.quantize_model(float_model, images, budget=Budget(ranking, size=0.6), threads=1)
    assert {x.name: x.weight_bits for x in od.inspect_model(made).layers if x.weights} == {"stem": 8, "classifier": 3}


def test_a_missing_model_is_an_input_error(tmp_path):
    with pytest.raises(od.InputError, match="no file"):
        od.load_model(tmp_path / "teacher.onnx")
