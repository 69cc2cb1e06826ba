"""Scores, measures and latency, against numpy and planted errors."""

import numpy as np
import pytest
from onnx import parser

from onnx_distill.data import ArrayImages, Preprocess
from onnx_distill.errors import InputError
from onnx_distill.evaluate import agreement, evaluate, latency, mean_kl, median_is_known, predict, top_k, with_output
from onnx_distill.runtime import open_session

RNG = np.random.default_rng(0)
SCORES = RNG.standard_normal((200, 11)).astype(np.float32)
LABELS = RNG.integers(0, 11, 200)


def classifier(batch="N", outputs="float[N, 4] probabilities"):
    """Flatten -> half of it (the logits) -> Softmax, for images [1, 2, 2]."""
    return parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17]>
        g (float[{batch}, 1, 2, 2] images) => ({outputs.replace("N", batch)}) <float half = {{0.5}}> {{
            flat = Flatten(images)
            logits = Mul(flat, half)
            probabilities = Softmax(logits)
        }}"""
    )


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


PIXELS = RNG.integers(0, 256, (10, 2, 2), np.uint8)
LOGITS = PIXELS.reshape(10, 4).astype(np.float32) * np.float32(0.01) * np.float32(0.5)
IMAGES = ArrayImages(PIXELS, preprocess=Preprocess(scale=(0.01,)))


# --- predict and with_output


@pytest.mark.parametrize("batch_size", [1, 3, 10, 256])
def test_predict_gives_every_image_its_scores_whatever_the_batch(batch_size):
    scores = predict(open_session(classifier(), threads=1), IMAGES, batch_size)
    np.testing.assert_allclose(scores, softmax(LOGITS), atol=1e-6)  # float32 rounding of numbers below 1


@pytest.mark.parametrize("batch_size", [4, 256])
def test_predict_feeds_a_fixed_batch_model_whole_batches(batch_size):
    scores = predict(open_session(classifier("4"), threads=1), IMAGES, batch_size)
    np.testing.assert_allclose(scores, softmax(LOGITS), atol=1e-6)


def test_predict_feeds_a_fixed_batch_larger_than_the_images():
    scores = predict(open_session(classifier("24"), threads=1), IMAGES)
    np.testing.assert_allclose(scores, softmax(LOGITS), atol=1e-6)


def test_predict_flattens_scores_to_rank_two():
    model = classifier(outputs="float[N, 1, 2, 2] scaled")
    model.graph.node[1].CopyFrom(parser.parse_node("scaled = Mul(images, half)"))
    del model.graph.node[2]
    np.testing.assert_allclose(predict(open_session(model, threads=1), IMAGES), LOGITS, rtol=1e-6)


def test_with_output_gives_the_logits_beside_the_probabilities_bit_exact():
    model = classifier()
    before = model.SerializeToString()
    session = open_session(with_output(model, "logits"), threads=1)
    assert [value.name for value in session.get_outputs()] == ["probabilities", "logits"]
    np.testing.assert_array_equal(predict(session, IMAGES, output="logits"), LOGITS)
    np.testing.assert_array_equal(predict(session, IMAGES), predict(open_session(model, threads=1), IMAGES))
    assert model.SerializeToString() == before


def test_with_output_twice_is_once():
    once = with_output(classifier(), "logits")
    assert with_output(once, "logits") == once
    assert with_output(classifier(), "probabilities") == classifier()


def test_with_output_of_an_unknown_value_lists_the_closest():
    with pytest.raises(InputError, match="no value named 'logit' in the model; closest: 'logits'"):
        with_output(classifier(), "logit")


def test_predict_of_an_unknown_output_lists_them():
    with pytest.raises(InputError, match="no output named 'probs'.*its outputs: probabilities"):
        predict(open_session(classifier(), threads=1), IMAGES, output="probs")


def test_predict_of_images_of_another_size_is_an_error():
    with pytest.raises(InputError, match=r"batch of shape \[10, 1, 3, 3\] was given; input 'images' wants"):
        predict(open_session(classifier(), threads=1), ArrayImages(np.zeros((10, 3, 3), np.uint8)))


# --- measures


@pytest.mark.parametrize("k", [1, 2, 5, 11, 20])
def test_top_k_is_the_share_of_labels_among_the_k_first_of_a_stable_sort(k):
    first = np.argsort(-SCORES, axis=1, kind="stable")[:, :k]
    assert top_k(SCORES, LABELS, k) == np.mean([label in row for label, row in zip(LABELS, first)])


def test_top_1_is_argmax_also_where_scores_are_equal():
    scores = RNG.integers(0, 3, (500, 4)).astype(np.float32)
    labels = RNG.integers(0, 4, 500)
    assert top_k(scores, labels, 1) == np.mean(scores.argmax(axis=1) == labels)


def test_a_model_that_gives_the_same_score_to_all_is_right_only_for_the_first_class():
    assert top_k(np.zeros((11, 11)), np.arange(11), 1) == 1 / 11
    assert top_k(np.zeros((11, 11)), np.arange(11), 5) == 5 / 11


def test_agreement_counts_each_planted_difference():
    other = SCORES.copy()
    other[[3, 50, 199]] = -other[[3, 50, 199]]
    assert agreement(SCORES, SCORES) == 1
    assert agreement(SCORES, other) == pytest.approx(197 / 200, abs=1e-12)


def test_agreement_of_equal_scores_goes_by_the_first():
    assert agreement(np.array([[1.0, 1.0], [1.0, 1.0]]), np.array([[2.0, 0.0], [0.0, 2.0]])) == 0.5


def test_mean_kl_is_the_sum_of_p_log_p_over_q():
    student = RNG.standard_normal(SCORES.shape)
    p, q = softmax(SCORES.astype(np.float64)), softmax(student)
    assert mean_kl(SCORES, student) == pytest.approx(np.mean(np.sum(p * np.log(p / q), axis=1)), rel=1e-12)
    assert mean_kl(student, SCORES) != pytest.approx(mean_kl(SCORES, student), rel=1e-3)  # it has a direction


def test_mean_kl_is_zero_for_equals_and_does_not_see_a_constant_added():
    assert mean_kl(SCORES, SCORES) == 0
    moved = SCORES.astype(np.float64) + np.linspace(-1e3, 1e3, 200)[:, None]
    assert mean_kl(SCORES, moved) == pytest.approx(0, abs=1e-10)  # 1,000 in float64 has steps of 1e-13


def test_mean_kl_of_logits_a_thousand_apart_is_the_gap():
    assert mean_kl(np.float32([[1000, 0]]), np.float32([[0, 1000]])) == 1000
    assert mean_kl(np.float32([[1000, 0]]), np.float32([[1000, 0]])) == 0


@pytest.mark.parametrize("measure", [agreement, mean_kl])
def test_scores_of_other_shapes_are_an_error(measure):
    with pytest.raises(InputError, match=r"have shapes \[200, 11\] and \[200, 10\]; wanted the same"):
        measure(SCORES, SCORES[:, :10])


def test_a_planted_nan_is_an_error_in_every_measure():
    broken = SCORES.copy()
    broken[7, 2] = np.nan
    for measure in (lambda: top_k(broken, LABELS, 1), lambda: agreement(SCORES, broken), lambda: mean_kl(SCORES, broken)):
        with pytest.raises(InputError, match="scores of 1 images are NaN, the first at index 7"):
            measure()


@pytest.mark.parametrize("labels", [LABELS[:5], LABELS + 1, LABELS - 1], ids=["count", "too-large", "negative"])
def test_top_k_of_labels_that_do_not_fit_is_an_error(labels):
    with pytest.raises(InputError, match=r"labels from .* for scores of shape \[200, 11\]"):
        top_k(SCORES, labels, 1)


def test_evaluate_gives_what_labels_and_teacher_allow():
    whole = evaluate(SCORES, LABELS, SCORES, size_bytes=7, latency_seconds={1: 0.5})
    assert (whole.count, whole.top1, whole.top5) == (200, top_k(SCORES, LABELS, 1), top_k(SCORES, LABELS, 5))
    assert (whole.agreement, whole.kl, whole.size_bytes, whole.latency_seconds) == (1, 0, 7, {1: 0.5})
    bare = evaluate(SCORES)
    assert (bare.count, bare.top1, bare.top5, bare.agreement, bare.kl) == (200, None, None, None, None)


# --- latency


def slow_and_fast():
    matrix = '<ir_version: 8, opset_import: ["": 17]> g (float[N, 1, 64, 64] x) => (float[N, 1, 64, 64] y) {{ {} }}'
    fast = parser.parse_model(matrix.format("y = Relu(x)"))
    slow = parser.parse_model(
        matrix.format("a = MatMul(x, x) b = MatMul(a, x) c = MatMul(b, x) d = MatMul(c, x) y = MatMul(d, x)")
    )
    return {"slow": slow, "fast": fast}


def test_latency_tells_a_slow_model_from_a_fast_one():
    found = latency(slow_and_fast(), (1, 64, 64), batches=(1, 8), threads=1, rounds=20, spread=0)
    for batch in (1, 8):
        slow, fast = found["slow"][batch], found["fast"][batch]
        assert slow.median_seconds > fast.median_seconds > 0
        assert slow.p25 <= slow.median_seconds <= slow.p75
        assert (slow.count, fast.count) == (20, 20)


def test_latency_stops_when_its_seconds_are_over_but_times_every_model_once():
    found = latency(slow_and_fast(), (1, 64, 64), batches=(1,), threads=1, rounds=10**9, seconds=0)
    assert [found[name][1].count for name in ("slow", "fast")] == [1, 1]


def test_latency_stops_once_every_median_is_known_and_of_long_runs_there_is_one():
    models = slow_and_fast()
    soon = latency(models, (1, 64, 64), batches=(1,), threads=1, rounds=10**9, seconds=60, spread=0.5)
    assert 7 <= soon["slow"][1].count == soon["fast"][1].count < 1000
    once = latency(models, (1, 64, 64), batches=(8,), threads=1, rounds=10**9, seconds=1e-6)
    assert [once[name][8].count for name in models] == [1, 1] and once["slow"][8].median_seconds > 0


@pytest.mark.parametrize("seed", range(20))
def test_the_standard_error_by_which_a_median_is_known_is_that_of_many_medians(seed):
    """Of 200 normal values a median is off by 1.25 * 0.02 / sqrt(200) = 0.0018 in the mean; the estimate of one sample by some 10 %."""
    drawn = list(np.random.default_rng(seed).normal(1, 0.02, 200))
    assert (
        median_is_known(drawn, 0.0018 * 1.5)
        and not median_is_known(drawn, 0.0018 / 1.5)
        and not median_is_known(drawn[:6], 1)
    )
