"""Training gains accuracy, is repeatable, keeps the best, stops cleanly, and refuses what does not fit together."""

from __future__ import annotations

import itertools
import re

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_distill import config as configs
from onnx_distill import evaluate, runtime
from onnx_distill import train as loop
from onnx_distill.config import DistillConfig
from onnx_distill.data import ArrayImages, Preprocess
from onnx_distill.errors import InputError
from onnx_distill.lookup import initializers
from onnx_distill.train import rate_share, with_parameters
from onnx_distill.trainable.feature_error import feature_error
from onnx_distill.training.score import Score
from onnx_distill.training.state import StateStore
from onnx_distill.training.trained import Progress


def TrainConfig(**choices):
    """A recipe of one epoch, unless another number is chosen."""
    return configs.TrainConfig(**{"epochs": 1, **choices})


def train(student, teacher, images, score, *choices, **callbacks):
    """The loop with students judged by score(student), a number of which higher is better."""
    judge = lambda student: Score(value := score(student), np.full(2, -value))  # noqa: E731
    return loop.train(student, teacher, images, judge, *choices, **callbacks)


ALL_STUDENTS_ALIKE = lambda student: 0.0  # noqa: E731


def later_is_better():
    """student -> 0, 1, 2, ...: keeps the last one."""
    scores = itertools.count()
    return lambda student: float(next(scores))


def accuracy_on(images):
    """student -> top-1 on these images."""
    return lambda student: evaluate.top_k(
        evaluate.predict(runtime.open_session(student, threads=2), images), images.labels, 1
    )


@pytest.fixture
def noise():
    """96 random images for the tiny student, with labels 0..2."""
    rng = np.random.default_rng(0)
    return ArrayImages(rng.uniform(-1, 1, (96, 4, 4)).astype(np.float32), rng.integers(0, 3, 96))


@pytest.fixture
def tiny_train(tiny_student, tiny_float, noise):
    """config, and what else train takes -> Trained, of the tiny student on noise; 6 steps an epoch."""

    def tiny_train(config=None, images=noise, evaluate=ALL_STUDENTS_ALIKE, distill=None, **callbacks):
        config = config or TrainConfig(batch_size=16, threads=1)
        return train(tiny_student(), tiny_float, images, evaluate, distill or DistillConfig(), config, **callbacks)

    return tiny_train


# ---- the point of it all


def test_a_short_real_training_gains_accuracy_over_ptq(w3a3_student, teacher, fashion_train):
    """3 bits, 2,000 training images seen once; scored on 1,000 other training images, whose standard error is 0.011."""
    held_out, config = fashion_train.subset(np.arange(50_000, 51_000)), TrainConfig(batch_size=64, threads=2)
    found = train(
        w3a3_student, teacher, fashion_train.subset(np.arange(2_000)), accuracy_on(held_out), DistillConfig(), config
    )
    (_, ptq), (_, trained) = found.scores
    assert trained == found.best.score > ptq + 0.03
    assert found.images == 31 * 64 and not found.interrupted and found.step_seconds > 0


# ---- repeatable


def bytes_of(found) -> bytes:
    return found.best.student.SerializeToString(deterministic=True)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_same_seed_and_threads_give_identical_bytes(optimizer, tiny_train):
    config = TrainConfig(epochs=2, batch_size=16, optimizer=optimizer, flip=True, shift=1, threads=2, seed=5)
    first, second = (tiny_train(config, evaluate=later_is_better()) for _ in range(2))
    assert first.best.epoch == 2 and bytes_of(first) == bytes_of(second)


def test_the_real_student_trains_to_identical_bytes(w3a3_student, teacher, fashion_train):
    config, images = TrainConfig(batch_size=32, threads=2, flip=True, shift=2), fashion_train.subset(np.arange(320))
    first, second = (train(w3a3_student, teacher, images, later_is_better(), DistillConfig(), config) for _ in range(2))
    assert bytes_of(first) == bytes_of(second)


def test_another_seed_gives_another_student(tiny_train):
    found = [tiny_train(TrainConfig(batch_size=16, threads=1, seed=seed), evaluate=later_is_better()) for seed in (0, 1)]
    assert bytes_of(found[0]) != bytes_of(found[1])


def test_arguments_are_not_changed(tiny_student, tiny_float, noise):
    student = tiny_student()
    before = [model.SerializeToString(deterministic=True) for model in (student, tiny_float)]
    pixels = noise.pixels.copy()
    train(student, tiny_float, noise, ALL_STUDENTS_ALIKE, DistillConfig(), TrainConfig(batch_size=16, flip=True, shift=1))
    assert [model.SerializeToString(deterministic=True) for model in (student, tiny_float)] == before
    assert np.array_equal(noise.pixels, pixels)


# ---- what it hands back


def test_the_best_is_the_one_with_the_highest_score(tiny_train):
    scores, seen = [0.3, 0.7, 0.9, 0.8], []
    found = tiny_train(
        TrainConfig(epochs=3, batch_size=16), evaluate=lambda student: scores[len(seen)], on_evaluation=seen.append
    )
    assert [checkpoint.score for checkpoint in seen] == scores
    assert found.best == seen[2] and found.best.epoch == 2
    assert found.scores == ((0, 0.3), (1, 0.7), (2, 0.9), (3, 0.8))


def test_of_equal_scores_the_first_wins_and_the_student_itself_may_stay_best(tiny_train, tiny_student):
    found = tiny_train(TrainConfig(epochs=2, batch_size=16))
    assert found.best.epoch == 0 and found.best.student == tiny_student()


def test_every_evaluated_student_is_a_model_of_its_own(tiny_train):
    seen = []
    tiny_train(TrainConfig(epochs=3, batch_size=16), on_evaluation=lambda checkpoint: seen.append(checkpoint.student))
    assert len({student.SerializeToString(deterministic=True) for student in seen}) == 4


def test_the_trained_student_differs_from_the_student_in_initializers_alone(tiny_train, tiny_student):
    found = tiny_train(evaluate=later_is_better()).best.student
    before = tiny_student()
    kept = initializers(before)
    for tensor in found.graph.initializer:
        assert (tensor.dims, tensor.data_type) == (kept[tensor.name].dims, kept[tensor.name].data_type), tensor.name
    moved = {
        t.name
        for t in found.graph.initializer
        if not np.array_equal(numpy_helper.to_array(t), numpy_helper.to_array(kept[t.name]))
    }
    assert moved == {"w1", "w2", "w3", "b1", "b2", "b3"} | {
        f"{n}/scale" for n in ("w1", "w2", "w3", "a1", "c2", "d", "logits")
    }
    for model in (found, before):
        del model.graph.initializer[:]
    assert found == before


def test_the_trained_student_computes_what_the_step_computed(tiny_student, make_step, noise):
    """With parameters anywhere: simulation in training equals the model that is handed over."""
    student = tiny_student()
    step, rng = make_step(student), np.random.default_rng(0)
    images = noise.read(np.arange(32))
    given = images, np.zeros((32, 3), np.float32), np.zeros(32, np.int64)
    step.run(*given)
    for values in step.parameters.values():
        values *= rng.uniform(0.8, 1.2, values.shape).astype(np.float32)
    _, logits = step.run(*given)
    wanted = runtime.run(
        runtime.open_session(with_parameters(student, step.parameters), threads=1, optimized=False), images
    )[0]
    assert np.array_equal(logits, wanted)


def test_part_epochs_train_that_many_steps_and_evaluate_at_the_end(tiny_train):
    steps, evaluated = [], []
    tiny_train(
        TrainConfig(epochs=1.5, batch_size=16), on_step=steps.append, on_evaluation=lambda c: evaluated.append(c.epoch)
    )
    assert [p.step for p in steps] == list(range(1, 10)) and {p.steps for p in steps} == {9}
    assert evaluated == [0, 1, 1.5]
    assert [p.images for p in steps] == [16 * n for n in range(1, 10)]


def test_less_images_than_a_batch_train_in_one_batch_of_them_all(tiny_train, noise):
    found = tiny_train(TrainConfig(epochs=2, batch_size=64), images=noise.subset(np.arange(10)))
    assert found.images == 20 and [epoch for epoch, _ in found.scores] == [0, 1, 2]


def test_every_image_is_seen_once_an_epoch(tiny_float, tiny_student, noise):
    class Watched(ArrayImages):
        seen: list = []

        def read(self, indices):
            self.seen.append(indices)
            return super().read(indices)

    images = Watched(noise.pixels, noise.labels)
    train(tiny_student(), tiny_float, images, ALL_STUDENTS_ALIKE, DistillConfig(), TrainConfig(epochs=2, batch_size=16))
    epochs = np.concatenate(images.seen)[-2 * 96 :].reshape(2, 96)  # before them, one batch is read to check its shape
    assert all(np.array_equal(np.sort(epoch), np.arange(96)) for epoch in epochs)
    assert not np.array_equal(*epochs)


def test_learn_steps_none_leaves_every_step_as_it_was(tiny_train, tiny_student):
    found = tiny_train(TrainConfig(batch_size=16, learn_steps="none"), evaluate=later_is_better()).best.student
    for name, tensor in initializers(tiny_student()).items():
        if name.endswith("/scale"):
            assert np.array_equal(numpy_helper.to_array(initializers(found)[name]), numpy_helper.to_array(tensor)), name


def test_alpha_1_learns_without_labels(tiny_train, noise):
    unlabelled = ArrayImages(noise.pixels)
    found = tiny_train(images=unlabelled, distill=DistillConfig(alpha=1), evaluate=later_is_better())
    assert found.best.epoch == 1


def test_the_loss_goes_down(tiny_train):
    losses = []
    config = TrainConfig(epochs=200, batch_size=96, learning_rate=1e-2, units="plain", threads=1)
    tiny_train(config, distill=DistillConfig(4, 1), on_step=lambda p: losses.append(p.loss))
    assert losses[-1] < 0.5 * losses[0]


# ---- stopping


@pytest.mark.parametrize("stop", [1, 8, 12])
def test_ctrl_c_returns_the_best_so_far(stop, tiny_train):
    def on_step(progress):
        if progress.step == stop:
            raise KeyboardInterrupt

    found = tiny_train(TrainConfig(epochs=3, batch_size=16), evaluate=later_is_better(), on_step=on_step)
    assert found.interrupted and found.images == stop * 16
    assert found.best.epoch == (stop - 1) // 6
    onnx.checker.check_model(found.best.student)


def test_ctrl_c_while_evaluating_keeps_what_was_scored_before(tiny_train):
    def evaluate(student, calls=itertools.count()):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return 0.5

    found = tiny_train(TrainConfig(epochs=3, batch_size=16), evaluate=evaluate)
    assert found.interrupted and [epoch for epoch, _ in found.scores] == [0, 1]


# ---- what cannot be trained


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_loss_that_is_not_finite_stops_names_the_step_and_keeps_the_last_good_student(optimizer, tiny_train, tiny_student):
    config = TrainConfig(epochs=5, batch_size=16, learning_rate=1e30, optimizer=optimizer)
    found = tiny_train(config)
    assert re.search(r"at step \d+ with learning rate .*; wanted .*finite.* Lower --lr", found.stopped)
    assert found.best.student == tiny_student()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_rewind_goes_back_at_half_the_rate_and_gives_up_after_five_times(tiny_train):
    config = TrainConfig(epochs=5, batch_size=16, learning_rate=1e30, on_nonfinite="rewind", schedule="constant", warmup=0)
    rates: list[float] = []
    found = tiny_train(config, on_step=lambda progress: rates.append(progress.learning_rate))
    assert "wanted finite numbers" in found.stopped
    assert min(rates) == pytest.approx(1e30 / 2**5)


# ---- a student that gets worse


def looks(*kls):
    """A look that finds these KLs, the first of the untrained student, and the last of all later ones."""
    found = itertools.chain(kls, itertools.repeat(kls[-1]))
    return lambda student: np.full(9, float(next(found)))


def test_a_student_that_gets_worse_begins_again_at_half_the_rate_and_says_so(tiny_train):
    rates, notes = [], []
    config = TrainConfig(epochs=20, batch_size=16, threads=1, schedule="constant", warmup=0, learning_rate=0.01)
    found = tiny_train(
        config,
        evaluate=later_is_better(),
        on_step=lambda progress: rates.append((progress.step, progress.learning_rate)),
        look=looks(0.1, 0.11, 0.2, 0.1),
        note=notes.append,
    )
    assert [step for step, _ in rates] == [*range(1, 7), *range(1, 121)]  # looked at after 3 updates and after 6
    assert {rate for _, rate in rates[:6]} == {0.01} and {rate for _, rate in rates[6:]} == {0.005}
    again = [note for note in notes if "begins again" in note]
    assert again == [
        "at update 6 the KL to the teacher is 0.2 on 9 held-out images, 0.1 before: begins again at half the learning rate"
    ]
    assert found.images == 120 * 16


def test_what_began_again_ends_like_a_run_that_had_half_the_rate_from_the_start(tiny_train):
    recipe = dict(epochs=10, batch_size=16, threads=1, flip=True, ema=0.9)
    after = tiny_train(TrainConfig(**recipe, learning_rate=0.01), evaluate=later_is_better(), look=looks(0.1, 0.2, 0.1))
    alone = tiny_train(TrainConfig(**recipe, learning_rate=0.005), evaluate=later_is_better())
    assert bytes_of(after) == bytes_of(alone)


def test_a_student_that_only_seems_worse_goes_on(tiny_train):
    """Twice the KL, but by one image of nine: no more than chance."""
    one = np.array([1.0] + [0.0] * 8)
    found = itertools.chain([np.full(9, 0.1)], itertools.repeat(np.full(9, 0.1) + one))
    steps = []
    config = TrainConfig(epochs=2, batch_size=16, threads=1)
    tiny_train(config, look=lambda student: next(found), on_step=lambda progress: steps.append(progress.step))
    assert steps == [*range(1, 13)]


def test_after_five_times_it_goes_on_with_what_it_has(tiny_train):
    steps = []
    config = TrainConfig(epochs=2, batch_size=16, threads=1)
    tiny_train(config, look=looks(0.1, 0.9), on_step=lambda progress: steps.append(progress.step))
    assert steps.count(1) == 6 and steps[-12:] == [*range(1, 13)]


@pytest.mark.parametrize("step", [2, 7, 30])
def test_a_run_that_began_again_is_continued_to_the_same_bytes(step, tiny_train, tmp_path):
    """Killed before, and after; what was saved before it began again is gone."""
    config = TrainConfig(epochs=10, batch_size=16, threads=1, save_every=1, warmup=0, schedule="constant")
    worse = lambda student: np.full(9, 0.1 if later(student) <= 0.015 else 0.9)  # noqa: E731
    start = None

    def later(student) -> float:
        """How far the first weight has moved, in its unit."""
        nonlocal start
        value = float(numpy_helper.to_array(initializers(student)["w1"])[0, 0, 0, 0])
        start = value if start is None else start
        return abs(value - start)

    score = lambda student: float(initializers(student)["w1"].raw_data[0])  # noqa: E731
    whole, store = tiny_train(config, evaluate=score, look=worse), StateStore(tmp_path)
    start = None
    with pytest.raises(Killed):
        tiny_train(config, evaluate=score, look=worse, store=store, on_step=killed_at(step))
    start = None
    found = tiny_train(config, evaluate=score, look=worse, store=store)
    assert bytes_of(found) == bytes_of(whole) and found.scores == whole.scores


# ---- interrupted and continued


class Killed(Exception):
    pass


def killed_at(step: int):
    def on_step(progress):
        if progress.step == step:
            raise Killed

    return on_step


RESUMED = {
    "adamw": {},
    "sgd": dict(optimizer="sgd"),
    "running mean": dict(ema=0.9),
    "accumulated": dict(accumulate=2),
    "not augmented": dict(flip=False, shift=0),
    "evaluated in between": dict(evaluate_every=4),
}


@pytest.mark.parametrize("choices", list(RESUMED.values()), ids=list(RESUMED))
@pytest.mark.parametrize("step", [1, 5, 8])
def test_run_that_was_killed_and_continued_ends_in_the_same_bytes(choices, step, tiny_train, tmp_path):
    """Scores depend on the student alone, as they do outside of tests."""
    config = TrainConfig(**{**dict(epochs=3, batch_size=16, threads=1, save_every=2, flip=True, shift=1), **choices})
    score = lambda student: float(initializers(student)["w1"].raw_data[0])  # noqa: E731
    whole = tiny_train(config, evaluate=score)
    store = StateStore(tmp_path)
    with pytest.raises(Killed):
        tiny_train(config, evaluate=score, store=store, on_step=killed_at(step))
    found = tiny_train(config, evaluate=score, store=store)
    assert found.best.student.SerializeToString(deterministic=True) == whole.best.student.SerializeToString(
        deterministic=True
    )
    assert (found.scores, found.images, found.best.epoch) == (whole.scores, whole.images, whole.best.epoch)


EVERYTHING = {
    "augmented, features": dict(mixup=0.3, flip=True),
    "logits remembered": {},
}


@pytest.mark.parametrize("choices", list(EVERYTHING.values()), ids=list(EVERYTHING))
@pytest.mark.parametrize("step", [2, 5, 7])
def test_run_with_everything_that_has_a_state_is_continued_to_the_same_bytes(choices, step, tiny_train, tmp_path):
    """Adam, running mean, best so far, patience, accumulation, order, augmentation, and what the teacher said."""
    common = dict(epochs=4, batch_size=16, threads=1, save_every=2, evaluate_every=3, accumulate=2, ema=0.9, patience=3)
    config = TrainConfig(**common, **choices)
    distill = DistillConfig(features=("auto",) if config.mixup else ())
    score = lambda student: float(initializers(student)["w1"].raw_data[0])  # noqa: E731
    whole = tiny_train(config, evaluate=score, distill=distill)
    store = StateStore(tmp_path)
    with pytest.raises(Killed):
        tiny_train(config, evaluate=score, distill=distill, store=store, on_step=killed_at(step))
    found = tiny_train(config, evaluate=score, distill=distill, store=store)
    assert bytes_of(found) == bytes_of(whole)
    assert (found.scores, found.images, found.best.epoch, found.stopped) == (
        whole.scores,
        whole.images,
        whole.best.epoch,
        whole.stopped,
    )


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("step", [1, 2, 3])
def test_run_that_rewinds_and_is_killed_ends_as_if_it_had_not_been(step, tiny_train, tmp_path):
    config = TrainConfig(
        epochs=2, batch_size=16, threads=1, learning_rate=1e30, on_nonfinite="rewind", schedule="constant", save_every=1
    )
    rates, again = [], []
    whole = tiny_train(config, on_step=lambda progress: rates.append(progress.learning_rate))
    store = StateStore(tmp_path)
    with pytest.raises(Killed):
        tiny_train(config, store=store, on_step=killed_at(step))
    found = tiny_train(config, store=store, on_step=lambda progress: again.append(progress.learning_rate))
    assert whole.stopped and found.stopped == whole.stopped and bytes_of(found) == bytes_of(whole)
    assert again == rates[-len(again) :]


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b""])
def test_run_whose_newest_checkpoint_is_damaged_is_continued_from_the_one_before_to_the_same_bytes(
    damage, tiny_train, tmp_path
):
    config = TrainConfig(epochs=3, batch_size=16, threads=1, save_every=2, ema=0.9, flip=True)
    told: list[str] = []
    whole, store = tiny_train(config, evaluate=later_is_better()), StateStore(tmp_path, on_damaged=told.append)
    with pytest.raises(Killed):
        tiny_train(config, evaluate=later_is_better(), store=store, on_step=killed_at(5))
    newest = max(tmp_path.glob("*.ckpt"))
    newest.write_bytes(damage(newest.read_bytes()))
    steps: list[Progress] = []
    found = tiny_train(config, evaluate=later_is_better(), store=store, on_step=steps.append)
    assert len(told) == 1 and newest.name in told[0] and "the checkpoint before it is used" in told[0]
    assert steps[0].step == 3 and bytes_of(found) == bytes_of(whole)


def test_finished_run_is_not_trained_again(tiny_train, tmp_path):
    steps: list[Progress] = []
    whole = tiny_train(store=StateStore(tmp_path))
    found = tiny_train(store=StateStore(tmp_path), on_step=steps.append)
    assert not steps and found.best == whole.best and found.scores == whole.scores


def test_checkpoint_of_another_recipe_is_refused(tiny_train, tmp_path):
    tiny_train(TrainConfig(batch_size=16, threads=1), store=StateStore(tmp_path))
    with pytest.raises(InputError, match="of another student or recipe; .*choose another folder"):
        tiny_train(TrainConfig(batch_size=16, threads=1, learning_rate=2e-3), store=StateStore(tmp_path))


# ---- what users expect of a training


def test_accumulated_batches_are_one_large_batch(tiny_train):
    """Means over 2 x 8 and over 16 images differ by float32 rounding alone; nothing is scored, the last student is kept."""
    config = dict(epochs=1, learn_steps="none", optimizer="sgd", learning_rate=1e-2, threads=1)
    one = tiny_train(TrainConfig(batch_size=16, **config), evaluate=later_is_better()).best.student
    two = tiny_train(TrainConfig(batch_size=8, accumulate=2, **config), evaluate=later_is_better()).best.student
    for name in ("w1", "w2", "w3"):
        a, b = (numpy_helper.to_array(initializers(model)[name]) for model in (one, two))
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "choices, words",
    [
        (dict(accumulate=7), "accumulate is 7, but an epoch has 6 batches; wanted no more. Lower --accumulate or --batch"),
        (dict(shift=4), "shift is 4, but the images are 4x4; wanted less"),
    ],
)
def test_choices_that_do_not_fit_the_images_are_refused(choices, words, tiny_train):
    with pytest.raises(InputError, match=words):
        tiny_train(TrainConfig(batch_size=16, **choices))


def test_largest_accumulation_makes_one_step_an_epoch(tiny_train):
    assert tiny_train(TrainConfig(batch_size=16, accumulate=6, epochs=2)).images == 2 * 96


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_divergence_is_told_once_not_by_warnings_of_numpy(tiny_train):
    assert "wanted finite numbers" in tiny_train(TrainConfig(epochs=5, batch_size=16, learning_rate=1e30)).stopped


def test_running_mean_is_what_is_kept(tiny_train):
    plain, mean = (
        tiny_train(TrainConfig(batch_size=16, threads=1, ema=ema), evaluate=later_is_better()).best.student
        for ema in (0, 0.5)
    )
    assert plain.SerializeToString() != mean.SerializeToString()


def test_patience_stops_a_run_that_gets_no_better(tiny_train):
    found = tiny_train(TrainConfig(epochs=9, batch_size=16, patience=2))
    assert found.stopped == "no better score in 2 evaluations" and found.scores[-1][0] == 2


def test_max_minutes_stops_a_run(tiny_train):
    found = tiny_train(TrainConfig(epochs=9, batch_size=16, max_minutes=1e-9))
    assert "minutes are over" in found.stopped and found.images == 16


def test_what_max_minutes_left_is_scored_and_kept_where_it_is_better(tiny_train):
    config = TrainConfig(epochs=9, batch_size=8, max_minutes=1e-9)
    found = tiny_train(config, evaluate=later_is_better())
    assert len(found.scores) == 2 and found.best.epoch == found.scores[1][0] > 0


def test_frozen_parameters_stay_as_they_are(tiny_train, tiny_student):
    found = tiny_train(TrainConfig(batch_size=16, freeze=("w1", "*/scale")), evaluate=later_is_better()).best.student
    before, after = initializers(tiny_student()), initializers(found)
    assert before["w1"] == after["w1"] and before["w2"] != after["w2"]
    assert all(before[name] == after[name] for name in before if name.endswith("/scale"))


@pytest.mark.parametrize(
    "freeze, words",
    [
        (("v1",), "no parameter is named like 'v1'; closest"),
        (("nothing",), "no parameter is named like 'nothing'; there are 'w1', 'w2', 'w3' and others"),
        (("*",), "leaves no parameter"),
    ],
)
def test_useless_freezing_is_refused(freeze, words, tiny_train):
    with pytest.raises(InputError, match=words):
        tiny_train(TrainConfig(batch_size=16, freeze=freeze))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("steps", range(1, 6))
def test_no_student_with_parameters_that_are_not_finite_is_kept(steps, optimizer, tiny_train):
    """Quantizers clip what overflows, so the loss stays finite for some steps after the weights are not."""
    config = TrainConfig(
        epochs=steps / 6, batch_size=16, learning_rate=1e30, schedule="constant", warmup=0, optimizer=optimizer
    )
    try:
        kept = tiny_train(config, evaluate=later_is_better()).best.student
    except InputError as error:
        assert "finite" in str(error)
    else:
        assert all(np.isfinite(numpy_helper.to_array(t)).all() for t in kept.graph.initializer)


def test_labels_out_of_range_are_an_input_error(tiny_train, noise):
    for labels, found in ((noise.labels + 1, "1 to 3"), (noise.labels - 1, "-1 to 1")):
        images = ArrayImages(noise.pixels, noise.labels)
        images.labels = labels
        with pytest.raises(InputError, match=f"labels run from {found}; wanted 0..2. Is --label-offset right?"):
            tiny_train(images=images)


def test_the_label_offset_is_what_brings_labels_into_range(tiny_train, noise):
    images = ArrayImages(noise.pixels, noise.labels + 1, Preprocess(label_offset=-1))
    assert tiny_train(images=images).images == 96


def test_another_number_of_classes_is_an_input_error(tiny_float, tiny_student, noise):
    other = onnx.ModelProto()
    other.CopyFrom(tiny_float)
    other.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4
    with pytest.raises(InputError, match="the teacher has 4 classes, the student 3; wanted the same"):
        train(tiny_student(), other, noise, ALL_STUDENTS_ALIKE, DistillConfig(), TrainConfig())


@pytest.mark.parametrize("alpha", [0, 0.9])
def test_no_labels_where_alpha_is_below_1_is_an_input_error(alpha, tiny_train, noise):
    with pytest.raises(InputError, match=f"alpha is {alpha} but the images have no labels; give --labels, or --alpha 1"):
        tiny_train(images=ArrayImages(noise.pixels), distill=DistillConfig(alpha=alpha))


@pytest.mark.parametrize("alpha", [0, 0.9])
def test_images_of_another_size_are_an_input_error(alpha, tiny_train, noise):
    images = ArrayImages(np.zeros((32, 5, 5), np.float32), np.zeros(32, np.int64))
    with pytest.raises(InputError, match=r"a batch of shape \[16, 1, 5, 5\] was given; input 'image' wants"):
        tiny_train(images=images, distill=DistillConfig(alpha=alpha))


# ---- features, and several teachers


def test_features_draw_the_student_s_inner_values_to_the_teacher_s(tiny_student, tiny_float, noise, set_values):
    """From first weights that are too small; far from the logits, which have their own error to lessen."""
    weak = set_values(tiny_student(), {"w1": 0.6 * numpy_helper.to_array(initializers(tiny_float)["w1"])})
    distill = DistillConfig(alpha=1, features=("a1",), feature_weight=100.0)
    config = TrainConfig(epochs=20, batch_size=96, threads=1, learning_rate=1e-2, units="plain")
    found = train(weak, tiny_float, noise, later_is_better(), distill, config).best.student
    (wanted,) = values_of(tiny_float, "a1", noise)
    before, after = (feature_error(values_of(s, "a1/dequantized", noise)[0], wanted) for s in (weak, found))
    assert after < 0.3 * before


def values_of(model: onnx.ModelProto, name: str, images) -> list[np.ndarray]:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    made.graph.output.add(name=name)
    return runtime.run(runtime.open_session(made, 1, optimized=False), images.read(np.arange(len(images))), [name])


def test_unknown_feature_is_an_input_error(tiny_train):
    with pytest.raises(InputError, match="the teacher has no value or node 'a9' for --features"):
        tiny_train(distill=DistillConfig(features=("a9",)))


def test_student_of_two_teachers_is_another_than_that_of_one(tiny_train, tiny_float, set_values):
    other = set_values(tiny_float, {"b3": [5, 0, 0]})
    alone, together = (bytes_of(tiny_train(evaluate=later_is_better(), also=also)) for also in ([], [other]))
    assert alone != together


def test_further_teacher_of_other_classes_is_named(tiny_train, tiny_float):
    other = onnx.ModelProto()
    other.CopyFrom(tiny_float)
    other.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4
    with pytest.raises(InputError, match="teacher 2 has 4 classes, the student 3; wanted the same"):
        tiny_train(also=[other])


# ---- schedules


def shares(schedule: str, warmup: float = 0.0, steps: int = 100) -> list[float]:
    config = TrainConfig(schedule=schedule, warmup=warmup)
    return [rate_share(step, steps, config) for step in range(1, steps + 1)]


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warm_up_rises_in_equal_parts_to_the_peak(schedule):
    found = shares(schedule, warmup=0.1)
    np.testing.assert_allclose(np.diff(found[:10]), 1 / 11)
    assert found[0] == pytest.approx(1 / 11) and max(found) <= 1 and np.argmax(found) == 10


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_schedules_fall_to_almost_zero_and_never_rise_again(schedule):
    found = shares(schedule, warmup=0.1)[10:]
    assert (np.diff(found) < 0).all() and 0 < found[-1] < 0.02 and found[0] > 0.97


def test_constant_stays_at_the_peak():
    assert set(shares("constant")) == {1.0} and set(shares("constant", 0.1)[10:]) == {1.0}


def test_linear_falls_in_equal_parts():
    np.testing.assert_allclose(np.diff(shares("linear")), -1 / 101)


def test_cosine_is_half_way_down_in_the_middle_and_flat_at_both_ends():
    found = shares("cosine")
    assert found[50] == pytest.approx(0.5, abs=0.02)
    assert abs(found[1] - found[0]) < 0.002 and abs(found[-1] - found[-2]) < 0.002


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_short_runs_have_a_rate_above_zero_at_every_step(schedule, steps):
    assert all(0 < share <= 1 for warmup in (0, 0.05, 0.5, 0.99) for share in shares(schedule, warmup, steps))
