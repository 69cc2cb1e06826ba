"""A training step: its gradients against numpy, live parameters, and the artifacts that it runs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from faulty import Faulty
from onnx import numpy_helper
from tiny import batch

from onnx_distill import artifacts, runtime
from onnx_distill.config import DistillConfig, QuantizeConfig
from onnx_distill.errors import InputError
from onnx_distill.lookup import initializers
from onnx_distill.loss import log_softmax

COLUMN = (4, 1, 1, 1)  # a value for each output channel of a Conv
LABELS_ALONE = DistillConfig(alpha=0)


def gradients_of(step, *given) -> dict[str, np.ndarray]:
    step.run(*given)
    return {name: gradient.copy() for name, gradient in step.gradients.items()}


# ---- the whole student against numpy in float64


FOUR_BITS = QuantizeConfig(weight_bits=4, activation_bits=4, edge_bits=0)


def exact_student(tiny_student, set_values) -> onnx.ModelProto:
    """A student in 4 bits whose steps are powers of two, narrow ones, weights on half steps, and biases on their grid.

    float32 computes its forward pass without any rounding error, so that no value falls on another side of a tie than in
    float64, and values fall inside the clipping ranges, outside and exactly on the bounds.
    """
    student, rng = tiny_student(FOUR_BITS), np.random.default_rng(1)
    values = {t.name: numpy_helper.to_array(t) for t in student.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    made = {name: np.exp2(np.floor(np.log2(v))) for name, v in values.items() if name.endswith("/scale")}
    made.update({name: made[name] / 4 for name in ("c2/scale", "d/scale", "logits/scale")})
    for bias, activation, weight, shape in (
        ("b1", "image", "w1", COLUMN),
        ("b2", "a1", "w2", COLUMN),
        ("b3", "d", "w3", (1, 3)),
    ):
        made[weight] = rng.integers(-17, 18, values[weight].shape) / 2 * made[f"{weight}/scale"].reshape(shape)
        step = made[f"{activation}/scale"] * made[f"{weight}/scale"]
        made[bias] = np.rint(values[bias] / step) * step
    return set_values(student, made)


class Quantized:
    """s * clip(round(x / s), low, high), with its gradients, in float64; s broadcasts against x."""

    def __init__(self, x, s, low, high):
        self.x, self.s, self.y = x, s, s * np.clip(np.rint(x / s), low, high)
        self.inside = (low <= np.rint(x / s)) & (np.rint(x / s) <= high)
        self.on_bound = np.isin(x / s, (low - 0.5, low, high, high + 0.5))  # clipped or not, inside or not

    def dx(self, dy):
        return dy * self.inside

    def ds(self, dy):
        return dy * (self.y - self.inside * self.x) / self.s


def windows(x: np.ndarray) -> np.ndarray:
    """[n, c, h, w, 3, 3] of x padded by one."""
    return np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), axis=(2, 3))


def reference(student: onnx.ModelProto, images, labels) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, Quantized]]:
    """(logits, gradients of the mean cross entropy, quantizers) of the tiny student, written out by hand in float64."""
    v = {name: numpy_helper.to_array(tensor).astype(np.float64) for name, tensor in initializers(student).items()}

    def activation(x, name):
        return Quantized(x, v[f"{name}/scale"], -v[f"{name}/zero_point"], 15 - v[f"{name}/zero_point"])

    w1 = Quantized(v["w1"], v["w1/scale"].reshape(COLUMN), -7, 7)
    w2 = Quantized(v["w2"], v["w2/scale"].reshape(COLUMN), -7, 7)
    w3 = Quantized(v["w3"], v["w3/scale"].reshape(1, 3), -7, 7)
    image = activation(images.astype(np.float64), "image")
    a1 = activation(np.einsum("nihwkl,oikl->nohw", windows(image.y), w1.y) + v["b1"].reshape(4, 1, 1), "a1")
    c2 = activation(np.einsum("nchwkl,ckl->nchw", windows(a1.y), w2.y[:, 0]) + v["b2"].reshape(4, 1, 1), "c2")
    d = activation(a1.y + c2.y, "d")
    flat = d.y.reshape(len(images), -1)
    logits = activation(flat @ w3.y + v["b3"], "logits")

    g, spread = {}, (0, 2, 3)
    dl = (np.exp(log_softmax(logits.y)) - np.eye(3)[labels]) / len(labels)
    g["logits/scale"], dl = logits.ds(dl).sum(), logits.dx(dl)
    g["b3"], dw3 = dl.sum(axis=0), flat.T @ dl
    g["w3"], g["w3/scale"] = w3.dx(dw3), w3.ds(dw3).sum(axis=0)
    dd = (dl @ w3.y.T).reshape(d.y.shape)
    g["d/scale"], dd = d.ds(dd).sum(), d.dx(dd)
    g["c2/scale"], dc2 = c2.ds(dd).sum(), c2.dx(dd)
    g["b2"], dw2 = dc2.sum(axis=spread), np.einsum("nchwkl,nchw->ckl", windows(a1.y), dc2)[:, None]
    g["w2"], g["w2/scale"] = w2.dx(dw2), w2.ds(dw2).sum(axis=(1, 2, 3))
    da1 = dd + np.einsum("nchwkl,ckl->nchw", windows(dc2), w2.y[:, 0, ::-1, ::-1])
    g["a1/scale"], da1 = a1.ds(da1).sum(), a1.dx(da1)
    g["b1"], dw1 = da1.sum(axis=spread), np.einsum("nihwkl,nohw->oikl", windows(image.y), da1)
    g["w1"], g["w1/scale"] = w1.dx(dw1), w1.ds(dw1).sum(axis=(1, 2, 3))
    return logits.y, g, {"w1": w1, "w2": w2, "w3": w3, "a1": a1, "c2": c2, "d": d}


@pytest.mark.parametrize("lowered", [True, False], ids=["lowered", "as functions"])
@pytest.mark.parametrize("seed", range(3))
def test_gradients_of_the_whole_student_equal_numpy(seed, lowered, tiny_student, set_values, make_step):
    student = exact_student(tiny_student, set_values)
    images, _, labels = batch(seed=seed)
    wanted_logits, wanted, _ = reference(student, images, labels)
    step = make_step(student, LABELS_ALONE, lowered=lowered)
    _, logits = step.run(images, None, labels)
    assert np.array_equal(logits, wanted_logits)
    assert set(step.gradients) == set(wanted)
    for name, gradient in step.gradients.items():
        # sums of up to a thousand terms, most far below 1, in float32: half a unit in the last place is 2^-24
        np.testing.assert_allclose(gradient, wanted[name], rtol=0, atol=2.0**-24 * 20, err_msg=name)


@pytest.mark.parametrize("name", ["w1", "w2", "w3", "a1", "c2", "d"])
def test_the_reference_sees_values_inside_outside_and_on_the_bounds(name, tiny_student, set_values):
    student = exact_student(tiny_student, set_values)
    quantizers = [reference(student, *batch(seed=seed)[::2])[2][name] for seed in range(3)]
    assert any(q.inside.any() for q in quantizers)
    assert any((~q.inside).any() for q in quantizers)
    assert any(q.on_bound.any() for q in quantizers)


# ---- the float network by central differences


def directional_error(step, given, rng, size: float = 1e-2) -> float:
    """|slope of the loss along a random direction - gradient . direction|, relative to the gradient's norm."""
    gradients = gradients_of(step, *given)
    kept = {name: values.copy() for name, values in step.parameters.items()}
    direction = {name: rng.normal(size=values.shape).astype(np.float32) for name, values in kept.items()}
    ends = []
    for sign in (1, -1):
        for name, values in step.parameters.items():
            values[...] = kept[name] + np.float32(sign * size) * direction[name]
        ends.append(step.run(*given)[0])
    for name, values in step.parameters.items():
        values[...] = kept[name]
    along = sum(float((gradients[name] * direction[name]).sum()) for name in kept)
    norm = np.sqrt(sum(float(np.square(g).sum()) for g in gradients.values()))
    return abs((ends[0] - ends[1]) / (2 * size) - along) / norm


DIFFERENCE_ERROR = 5e-3  # curvature at a step of 1e-2; the rounding of the loss, 1e-7 / 2e-2, is far below


@pytest.fixture
def smooth_float(tiny_float):
    """tiny_float with a Sigmoid in place of its Relu: a kink makes central differences wrong."""
    text = onnx.printer.to_text(tiny_float).replace("Relu (", "Sigmoid (")
    return onnx.parser.parse_model(text)


@pytest.mark.parametrize("kl", ["forward", "reverse"])
def test_float_gradients_equal_central_differences(kl, smooth_float, make_step):
    step, rng = make_step(smooth_float, DistillConfig(4, 0.9, kl)), np.random.default_rng(0)
    assert max(directional_error(step, batch(), rng) for _ in range(5)) < DIFFERENCE_ERROR


@pytest.mark.parametrize("name", ["w1", "b1", "w2", "b2", "w3", "b3"])
@pytest.mark.parametrize("factor", [0.5, -1])
def test_central_differences_notice_a_wrong_gradient(name, factor, smooth_float, make_step):
    step, rng = Faulty(make_step(smooth_float, DistillConfig(4)), name, factor), np.random.default_rng(0)
    assert max(directional_error(step, batch(), rng) for _ in range(5)) > 2 * DIFFERENCE_ERROR


# ---- behaviour of a step


def test_gradients_do_not_accumulate_across_runs(tiny_student, make_step):
    step = make_step(tiny_student())
    first = gradients_of(step, *batch(seed=1))
    gradients_of(step, *batch(seed=2))
    again = gradients_of(step, *batch(seed=1))
    assert all(np.array_equal(again[name], first[name]) for name in first)
    assert any((gradient != 0).any() for gradient in first.values())


def test_gradients_are_live_views_of_the_last_run(tiny_student, make_step):
    step = make_step(tiny_student())
    step.run(*batch(seed=1))
    views, first = dict(step.gradients), step.gradients["w3"].copy()
    step.run(*batch(seed=2))
    assert all(step.gradients[name] is views[name] for name in views)
    assert not np.array_equal(step.gradients["w3"], first)


def test_parameters_are_live(tiny_student, set_values, make_step):
    student, given = tiny_student(), batch()
    step = make_step(student)
    step.run(*given)
    moved = {name: values * np.float32(1.25) for name, values in step.parameters.items()}
    for name, values in step.parameters.items():
        values[...] = moved[name]
    loss, logits = step.run(*given)
    fresh_loss, fresh_logits = make_step(set_values(student, moved)).run(*given)
    assert loss == fresh_loss and np.array_equal(logits, fresh_logits)


def test_parameters_start_as_in_the_student(tiny_student, make_step):
    student = tiny_student()
    step = make_step(student)
    for name, values in step.parameters.items():
        stored = numpy_helper.to_array(initializers(student)[name])
        assert values.dtype == np.float32 and np.array_equal(values.reshape(stored.shape), stored)


def test_batch_size_may_change_between_runs(tiny_student, make_step):
    step = make_step(tiny_student())
    sizes = [8, 3, 1, 17, 8]
    together = [step.run(*batch(size, seed=size)) for size in sizes]
    alone = [make_step(tiny_student()).run(*batch(size, seed=size)) for size in sizes]
    for (loss, logits), (wanted_loss, wanted_logits) in zip(together, alone):
        assert loss == wanted_loss and np.array_equal(logits, wanted_logits)


def test_logits_are_those_of_the_student_before_any_update(tiny_student, make_step):
    student, given = tiny_student(), batch()
    wanted = runtime.run(runtime.open_session(student, threads=1), given[0])[0]
    assert (
        np.abs(make_step(student).run(*given)[1] - wanted).max() <= 2.0**-20
    )  # logits lie on a grid: equal, or a step apart


@pytest.mark.parametrize("alpha, teacher, labels", [(1, True, False), (0, False, True)], ids=["alpha 1", "alpha 0"])
def test_a_part_with_no_weight_needs_no_input(alpha, teacher, labels, tiny_student, make_step):
    images, logits, answers = batch()
    step = make_step(tiny_student(), DistillConfig(alpha=alpha))
    loss, _ = step.run(images, logits if teacher else None, answers if labels else None)
    assert np.isfinite(loss) and any((g != 0).any() for g in step.gradients.values())


# ---- artifacts


def test_building_leaves_the_student_as_it_was(tiny_student, make_step):
    student = tiny_student()
    before = student.SerializeToString(deterministic=True)
    make_step(student)
    assert student.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("shape", ["n, 3, 1", "n", "n, classes"])
def test_logits_of_another_shape_are_an_input_error(shape):
    text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[{shape}] x) => (float[{shape}] y) {{ y = Identity(x) }}"""
    with pytest.raises(InputError, match=r"logits 'y' have shape \[.*\]; wanted \[batch, number of classes\]"):
        artifacts.class_count(onnx.parser.parse_model(text).graph.output[0])


def test_parameters_are_told_apart_by_rank(tiny_student):
    found = artifacts.trainable(tiny_student(), "weights")
    assert (found.weights, found.biases, found.steps) == (
        ("w1", "w2", "w3"),
        ("b1", "b2", "b3"),
        ("w1/scale", "w2/scale", "w3/scale"),
    )
    assert found.all == found.weights + found.biases + found.steps
