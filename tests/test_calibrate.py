"""Histograms do not depend on how values come in; ranges are those that brute force on the raw values finds."""

from __future__ import annotations

import functools

import graphs
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx.reference import ReferenceEvaluator

from onnx_distill import numerics, runtime
from onnx_distill.calibrate import METHODS, _runs, calibrate, choose_range, mean_squares
from onnx_distill.errors import InputError
from onnx_distill.quantization import histogram as hist

finite = st.floats(-(2.0**100), 2.0**100, width=32)
tensors = hnp.arrays(np.float32, st.integers(1, 60), elements=finite)

# Weights and images are small whole numbers, so that every sum is exact however the runtime orders it.
MODEL = """<ir_version: 8, opset_import: ["": 17]>
small (float[n,1,4,4] images) => (float[n,3] logits)
<float[2,1,3,3] w = {1,-2,3, 0,1,-1, 2,2,-3, -1,0,1, 2,-2,1, 0,3,-1}, float[32,3] v, int64[2] flat = {-1,32}>
{
    conv = Conv<pads=[1,1,1,1]>(images, w)
    relu = Relu(conv)
    shape = Shape(relu)
    rows = Reshape(relu, flat)
    logits = MatMul(rows, v)
}"""


@pytest.fixture(scope="module")
def model():
    text = MODEL.replace("v,", "v = {" + ",".join(str(i % 5 - 2) for i in range(96)) + "},")
    return onnx.parser.parse_model(text)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(-50, 200, (64, 1, 4, 4)).astype(np.float32)


def batches_of(images, size):
    return (images[i : i + size] for i in range(0, len(images), size))


def same(one, other):
    ends = (one.low, one.high, one.exponent) == (other.low, other.high, other.exponent)
    return ends and np.array_equal(one.counts, other.counts)


def squared_error(x, low, high, integers, symmetric=False):
    scale, zero_point = numerics.range_scale(low, high, integers, symmetric)
    return np.mean(
        np.square(numerics.fake_quantize(x, scale, zero_point, integers.qmin, integers.qmax) - x, dtype=np.float64)
    )


# ---- histogram


@given(tensors, tensors)
def test_merged_histograms_equal_the_histogram_of_all_values(a, b):
    assert same(hist.merge(hist.of(a), hist.of(b)), hist.of(np.concatenate([a, b])))


@given(tensors)
def test_every_value_lies_within_half_a_bin_of_its_centre(x):
    h = hist.of(x)
    nearest = np.abs(h.centres[h.counts > 0].astype(np.float64)[None] - x[:, None]).min(axis=1)
    assert h.total == x.size and np.all(nearest <= np.where(np.abs(x) < h.width, 1, 0.5) * h.width)


@given(tensors)
def test_the_histogram_of_the_negative_is_the_mirror_image(x):
    h, mirrored = hist.of(x), hist.of(-x)
    assert (mirrored.low, mirrored.high) == (-h.high, -h.low) and np.array_equal(mirrored.counts, h.counts[::-1])


def test_zeros_lie_in_a_bin_with_centre_zero():
    h = hist.of(np.float32([-1.0, 0.0, -0.0, 1.0]))
    assert h.counts[h.centres == 0].tolist() == [2]


def test_a_tensor_larger_than_a_chunk_is_counted_whole():
    x = np.random.default_rng(0).standard_normal(2 * hist.CHUNK + 1).astype(np.float32)
    small_parts = [hist.of(part) for part in np.array_split(x, 30)]
    assert same(hist.of(x), functools.reduce(hist.merge, small_parts))


@given(tensors)
def test_nothing_merged_changes_nothing(x):
    assert same(hist.merge(hist.of(x), hist.EMPTY), hist.of(x))
    assert same(hist.of(x[:0]), hist.EMPTY)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf], ids=str)
def test_a_value_that_is_not_finite_is_named(broken):
    with pytest.raises(InputError, match="'conv' holds NaN or infinity"):
        hist.of(np.float32([1.0, broken, 2.0]), "conv")


# ---- calibrate


@pytest.mark.parametrize("size", [1, 7, 64])
def test_histograms_do_not_depend_on_the_batch_size(model, images, size):
    names = ["images", "conv", "relu", "logits"]
    found = calibrate(model, names, batches_of(images, size), threads=1)
    whole = calibrate(model, names, [images], threads=1)
    assert list(found) == names and all(same(found[name], whole[name]) for name in names)


def test_histograms_do_not_depend_on_the_memory_allowed(model, images):
    little = calibrate(model, ["conv", "logits"], [images], threads=1, run_bytes=1000)
    plenty = calibrate(model, ["conv", "logits"], [images], threads=1)
    assert all(same(little[name], plenty[name]) for name in plenty)


def test_outputs_fetched_at_once_stay_within_the_memory_allowed(model, images):
    session = runtime.open_session(model, threads=1)
    arrays = [outputs["logits"] for _, outputs in _runs(session, [images[:40], images[40:]], ["logits"], run_bytes=80)]
    assert max(array.nbytes for array in arrays) <= 80
    assert sum(len(array) for array in arrays) == 64


def test_histograms_are_those_of_the_values_themselves(model, images):
    found = calibrate(model, ["images", "relu", "logits"], [images], threads=1)
    logits = ReferenceEvaluator(model).run(None, {"images": images})[0]
    assert same(found["images"], hist.of(images)) and same(found["logits"], hist.of(logits))
    assert found["relu"].low == 0 and found["relu"].total == 64 * 2 * 16


def test_the_input_alone_a_name_given_twice_and_graph_outputs_work(model, images):
    assert list(calibrate(model, ["images"], [images], threads=1)) == ["images"]
    assert list(calibrate(model, ["logits", "conv", "logits"], [images], threads=1)) == ["logits", "conv"]


def test_batches_may_be_a_function(model, images):
    assert calibrate(model, ["conv"], lambda: [images], threads=1)["conv"].total == 64 * 2 * 16


def test_a_fixed_batch_size_is_kept(model, images):
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 16
    found = calibrate(fixed, ["relu"], batches_of(images, 16), threads=1, run_bytes=1)
    assert same(found["relu"], calibrate(model, ["relu"], [images], threads=1)["relu"])


def test_calibrate_leaves_the_model_as_it_was(model, images):
    before = model.SerializeToString()
    calibrate(model, ["conv"], [images], threads=1)
    assert model.SerializeToString() == before


def test_calibrate_names_what_it_cannot_use(model, images):
    with pytest.raises(InputError, match="no value 'cnov' to calibrate.*closest: 'conv'"):
        calibrate(model, ["cnov"], [images])
    with pytest.raises(InputError, match=r"value 'shape' is a tensor\(int64\); only tensor\(float\)"):
        calibrate(model, ["shape"], [images])
    with pytest.raises(InputError, match="no images to calibrate on"):
        calibrate(model, ["conv"], [])
    with pytest.raises(InputError, match="value 'conv' holds NaN"):
        calibrate(model, ["conv"], [images * np.float32(np.nan)], threads=1)
    with pytest.raises(InputError, match=r"a batch of shape \[1, 1, 4, 3\] was given"):
        calibrate(model, ["conv"], [images[..., :3]], threads=1)


# ---- choose_range


def samples(name):
    random = np.random.default_rng(1)
    normal = random.standard_normal(20000)
    return {
        "uniform": random.uniform(-1, 1, 20000),
        "gauss": normal,
        "laplace": random.laplace(size=20000),
        "relu": np.maximum(normal, 0),
        "relu6": np.clip(3 * normal, 0, 6),
        "hardswish": 3 * normal * np.clip(3 * normal + 3, 0, 6) / 6,
        "negative": -np.abs(normal) - 0.5,
        "outlier": np.append(normal, 300),
        "constant": np.full(100, 5.0),
        "sparse": np.append(np.zeros(200000), [3, -2]),
        "zeros": np.zeros(100),
    }[name].astype(np.float32)


SHAPES = ["uniform", "gauss", "laplace", "relu", "relu6", "hardswish", "negative", "outlier", "constant", "sparse", "zeros"]
TWO_SIDED = ["gauss", "laplace", "hardswish"]


def integers_for(x, bits, symmetric):
    return numerics.activation_range(bits, symmetric, nonnegative=bool(x.min() >= 0))


@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SHAPES)
def test_every_range_is_ordered_and_within_the_values(name, method, symmetric):
    x = samples(name)
    for bits in (2, 4, 8):
        low, high = choose_range(hist.of(x), method, integers_for(x, bits, symmetric), symmetric)
        assert min(x.min(), 0) <= low <= high <= max(x.max(), 0)
        assert high > low or x.min() == x.max()


@pytest.mark.parametrize("name", SHAPES)
def test_minmax_is_exact(name):
    x = samples(name)
    assert choose_range(hist.of(x), "minmax", numerics.activation_range(8)) == (x.min(), x.max())


@pytest.mark.parametrize("percentile", [90, 99, 99.9])
@pytest.mark.parametrize("name", ["uniform", "gauss", "laplace", "hardswish"])
def test_percentile_of_two_sided_values_splits_the_tails(name, percentile):
    x = samples(name)
    h = hist.of(x)
    tail = (100 - percentile) / 2
    found = choose_range(h, "percentile", numerics.activation_range(8), percentile=percentile)
    gap = np.diff(np.sort(x)).max() if percentile == 99.9 else 0.01  # neighbours far out in the tail lie further apart
    np.testing.assert_allclose(found, np.percentile(x, [tail, 100 - tail]), atol=h.width + gap)


@pytest.mark.parametrize("percentile", [90, 99, 99.9])
def test_percentile_of_one_sided_values_clips_the_far_end_only(percentile):
    x, integers = samples("relu"), numerics.activation_range(8)
    low, high = choose_range(hist.of(x), "percentile", integers, percentile=percentile)
    assert low == 0 and np.mean(x > high) <= 1 - percentile / 100 < np.mean(x > high - 2 * hist.of(x).width) + 0.0005
    mirrored = choose_range(hist.of(-x), "percentile", integers, percentile=percentile)
    assert mirrored == (-high, 0)


def test_percentile_100_is_minmax():
    for name in SHAPES:
        h = hist.of(samples(name))
        integers = numerics.activation_range(8)
        assert choose_range(h, "percentile", integers, percentile=100) == choose_range(h, "minmax", integers)


def test_percentile_drops_an_outlier_and_keeps_a_sparse_value():
    integers = numerics.activation_range(8)
    assert choose_range(hist.of(samples("outlier")), "percentile", integers)[1] < 5
    assert choose_range(hist.of(samples("sparse")), "percentile", integers) == (-2, 3)


def test_percentile_is_99_99_for_8_bits_and_99_7_below():
    h = hist.of(samples("gauss"))
    for bits, percentile in [(8, 99.99), (7, 99.99), (4, 99.7)]:
        integers = numerics.activation_range(bits)
        found = choose_range(h, "percentile", integers)
        assert found == choose_range(h, "percentile", integers, percentile=percentile)


def brute_force(x, integers, symmetric):
    """The least squared error on the raw values over a fine grid of ranges."""
    low, high = min(x.min(), 0), max(x.max(), 0)
    fractions = np.linspace(0.05, 1, 40 if low < 0 < high and not symmetric else 400)
    pairs = (
        [(a, a) for a in fractions] if symmetric or not low < 0 < high else [(a, b) for a in fractions for b in fractions]
    )
    return min(squared_error(x[::10], low * a, high * b, integers, symmetric) for a, b in pairs)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("name", ["uniform", "gauss", "laplace", "relu", "relu6", "negative", "hardswish"])
@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
def test_mse_is_as_good_as_brute_force_on_the_raw_values(name, bits, symmetric):
    x = samples(name)
    integers = integers_for(x, bits, symmetric)
    found = squared_error(x[::10], *choose_range(hist.of(x[::10]), "mse", integers, symmetric), integers, symmetric)
    assert found <= 1.02 * brute_force(x, integers, symmetric)  # 2 %: both are grids


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_mse_is_never_worse_than_minmax(name, bits):
    x = samples(name)
    h, integers = hist.of(x), numerics.activation_range(bits)
    errors = [squared_error(x, *choose_range(h, method, integers), integers) for method in ("mse", "minmax")]
    assert errors[0] <= 1.001 * errors[1] + 1e-12  # 0.1 %: bins against raw values


def best_gaussian_step(qmin, qmax):
    """The step, in sigmas, of least squared error for integers qmin..qmax, from the density itself."""
    x = np.linspace(-6, 6, 1201)
    steps = np.linspace(0.1, 2, 381)
    density = np.exp(-(x**2) / 2)
    errors = [(density * np.square(np.clip(np.rint(x / s), qmin, qmax) * s - x)).sum() for s in steps]
    return steps[np.argmin(errors)]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_mse_clips_a_gaussian_at_the_best_number_of_sigmas(bits):
    x = np.random.default_rng(2).standard_normal(100000).astype(np.float32)
    limit, half = 2 ** (bits - 1) - 1, 2 ** (bits - 1)
    low, high = choose_range(hist.of(x), "mse", numerics.activation_range(bits, symmetric=True), symmetric=True)
    assert max(-low, high) / limit == pytest.approx(best_gaussian_step(-limit, limit), rel=0.03)
    low, high = choose_range(hist.of(x), "mse", numerics.activation_range(bits))
    assert (high - low) / (2**bits - 1) == pytest.approx(best_gaussian_step(-half, half - 1), rel=0.06)


def test_mse_of_uniform_values_is_minmax_within_a_step():
    x = samples("uniform")
    for bits in (3, 4, 8):
        found = choose_range(hist.of(x), "mse", numerics.activation_range(bits))
        np.testing.assert_allclose(found, (x.min(), x.max()), atol=2 / (2**bits - 1))


def test_mse_keeps_an_outlier_that_costs_more_than_it_saves():
    assert choose_range(hist.of(samples("outlier")), "mse", numerics.activation_range(8))[1] > 250


@pytest.mark.parametrize("method", ["mse", "entropy"])
def test_values_on_the_grid_are_left_whole(method):
    levels = np.float32(np.arange(16)) / 4
    x = np.random.default_rng(0).choice(levels, 10000)
    low, high = choose_range(hist.of(x), method, numerics.activation_range(4))
    assert low == 0 and high == pytest.approx(3.75, rel=0.005)


def divergence(x, threshold, levels):
    """TensorRT's own recipe for values >= 0, bin by bin: reference with its tail in the last bin against the merged bins."""
    h = hist.of(x)
    positive = h.counts[hist.BINS - 1 :].astype(float)
    positive[0] = min(positive[0], positive[1])
    size = int(threshold / h.width)
    p, held = positive[:size].copy(), positive[:size] > 0
    level = np.rint(h.centres[hist.BINS - 1 :][:size] / (threshold / (levels - 1))).astype(int)
    q = np.zeros(size)
    for i in range(levels):
        q[(level == i) & held] = p[level == i].sum() / max(1, held[level == i].sum())
    p[np.flatnonzero(held)[-1]] += positive[size:].sum()
    p, q = p[held] / p.sum(), q[held] / q.sum()
    return (p * np.log(p / q)).sum()


@pytest.mark.parametrize("bits", [4, 8])
def test_entropy_finds_the_least_divergence(bits):
    x = samples("relu")
    high = choose_range(hist.of(x), "entropy", numerics.activation_range(bits))[1]
    least = min(divergence(x, t, 2**bits) for t in np.linspace(1, x.max(), 60))
    assert divergence(x, high, 2**bits) <= 1.05 * least


@pytest.mark.parametrize("name", TWO_SIDED)
def test_entropy_clips_the_tails_and_lowers_the_error(name):
    x = samples(name)
    for bits, symmetric in [(4, False), (4, True), (8, False)]:
        integers = integers_for(x, bits, symmetric)
        low, high = choose_range(hist.of(x), "entropy", integers, symmetric)
        bulk = np.percentile(np.abs(x), 95)
        assert bulk < max(-low, high) < np.abs(x).max()
        if bits == 4:
            assert squared_error(x, low, high, integers, symmetric) < squared_error(x, x.min(), x.max(), integers, symmetric)


def test_zeros_do_not_sway_entropy():
    x = samples("relu")
    sparser = np.append(x, np.zeros(10 * x.size, np.float32))
    integers = numerics.activation_range(4)
    assert choose_range(hist.of(x), "entropy", integers) == choose_range(hist.of(sparser), "entropy", integers)


@settings(max_examples=30)
@given(
    hnp.arrays(np.float32, st.integers(1, 60), elements=finite),
    st.sampled_from(sorted(METHODS)),
    st.integers(2, 8),
    st.booleans(),
)
def test_any_finite_values_get_a_range_within_them(x, method, bits, symmetric):
    low, high = choose_range(hist.of(x), method, integers_for(x, bits, symmetric), symmetric)
    assert min(x.min(), 0) <= low <= high <= max(x.max(), 0)


def test_choose_range_rejects_what_it_does_not_know():
    h, integers = hist.of(np.float32([1, 2])), numerics.activation_range(8)
    with pytest.raises(InputError, match="no calibration method 'max'; there are minmax, percentile, mse, entropy"):
        choose_range(h, "max", integers)
    with pytest.raises(InputError, match="the percentile is 0.999; wanted 50 to 100"):
        choose_range(h, "percentile", integers, percentile=0.999)


def test_mean_squares_are_numpys_for_each_channel_whatever_the_batches():
    model = graphs.net(graphs.CONV + "r = Relu(a) p = Flatten(r) y = MatMul(p, f)", graphs.ROWS)
    images = graphs.random_images(model, 11)
    found = mean_squares(model, {"a": 1, "p": 1}, [images[:4], images[4:]], 1)
    a = graphs.simulated(graphs.net(graphs.CONV + "y = Identity(a)"), images)[0].astype(np.float64)
    assert np.allclose(found["a"], np.square(a).mean(axis=(0, 2, 3)), rtol=1e-5)
    assert np.allclose(found["p"], np.square(np.maximum(a, 0).reshape(11, -1)).mean(axis=0), rtol=1e-5)
