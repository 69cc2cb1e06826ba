"""The laws of rounding, clipping, scales and zero points, and equality with onnxruntime's own operators."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnx_distill import numerics, runtime
from onnx_distill.numerics import INT32_MAX, SMALLEST_SCALE, IntegerRange

scales = st.floats(2.0**-20, 2.0**20, width=32).map(np.float32)
values = st.floats(-(2.0**30), 2.0**30, width=32)
arrays = hnp.arrays(np.float32, st.integers(1, 40), elements=values)
weights = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=5), elements=st.floats(-8, 8, width=32))


@st.composite
def quantizers(draw):
    """(scale, zero_point, integers): any bit width, symmetric or not."""
    bits = draw(st.integers(2, 8))
    integers = draw(
        st.sampled_from(
            [numerics.weight_range(bits), numerics.activation_range(bits), numerics.activation_range(bits, True, True)]
        )
    )
    zero_point = draw(st.integers(integers.qmin, integers.qmax)) if integers.dtype == "uint8" else 0
    return draw(scales), zero_point, integers


# ---- which numbers round into a range


@given(quantizers(), st.integers(-3, 3))
def test_what_rounds_into_a_range_is_what_lies_between_the_two_bounds(quantizer, ulps):
    _, zero_point, integers = quantizer
    low, high = integers.qmin - zero_point, integers.qmax - zero_point
    least, most = numerics.rounds_into(low, high)
    assert least.dtype == most.dtype == np.float32
    for tie in (np.float32(low - 0.5), np.float32(high + 0.5)):
        x = tie
        for _ in range(abs(ulps)):
            x = np.nextafter(x, np.float32(np.copysign(np.inf, ulps)))
        assert (least <= x <= most) == (low <= np.rint(x) <= high)


def test_bounds_of_several_ranges_are_those_of_each():
    low, high = np.array([-7, -8, 0]), np.array([7, 6, 15])
    found = numerics.rounds_into(low, high)
    alone = [numerics.rounds_into(*ends) for ends in zip(low, high)]
    assert np.array_equal(found, np.transpose(alone))


# ---- against onnxruntime


@pytest.fixture(scope="module", params=["int8", "uint8"])
def ort_operators(request):
    """(dtype, per-tensor session, per-axis session): x, scale, zero_point -> q and its dequantized value."""

    def session(rank, axis):
        text = f"""<ir_version: 8, opset_import: ["": 13]>
            qdq (float[{",".join("abc"[:rank])}] x, float{"[n]" if axis is not None else ""} scale,
                 {request.param}{"[n]" if axis is not None else ""} zero_point)
            => ({request.param}[{",".join("abc"[:rank])}] q, float[{",".join("abc"[:rank])}] y) {{
                q = QuantizeLinear<axis = {axis or 0}>(x, scale, zero_point)
                y = DequantizeLinear<axis = {axis or 0}>(q, scale, zero_point)
            }}"""
        return runtime.open_session(onnx.parser.parse_model(text), threads=1)

    return request.param, session(1, None), session(3, 1)


def assert_equals_ort(session, dtype, x, scale, zero_point, axis=None):
    """Exactly equal integers and values; scale and zero_point are those the operator gets."""
    info = np.iinfo(dtype)
    wanted = session.run(None, {"x": x, "scale": scale, "zero_point": zero_point})
    scale = numerics.broadcastable(scale, x.ndim, axis)
    zero_point = zero_point.reshape(scale.shape).astype(np.int32)
    q = numerics.quantize(x, scale, zero_point, info.min, info.max)
    np.testing.assert_array_equal(q, wanted[0])
    np.testing.assert_array_equal(numerics.dequantize(q, scale, zero_point), wanted[1])


@settings(max_examples=200)
@given(arrays, scales, st.integers(0, 255))
def test_quantize_and_dequantize_equal_onnxruntime_per_tensor(ort_operators, x, scale, offset):
    dtype, per_tensor, _ = ort_operators
    zero_point = np.array(offset + np.iinfo(dtype).min, dtype)
    assert_equals_ort(per_tensor, dtype, x, np.array(scale), zero_point)
    assert_equals_ort(per_tensor, dtype, np.float32(x % 300 * scale), np.array(scale), zero_point)


@settings(max_examples=100)
@given(st.lists(st.tuples(scales, st.integers(0, 255)), min_size=1, max_size=5), st.integers(0, 1000))
def test_quantize_and_dequantize_equal_onnxruntime_per_axis(ort_operators, channels, seed):
    dtype, _, per_axis = ort_operators
    scale = np.array([s for s, _ in channels], np.float32)
    zero_point = np.array([z + np.iinfo(dtype).min for _, z in channels], dtype)
    x = np.random.default_rng(seed).uniform(-300, 300, (2, len(channels), 7)).astype(np.float32) * scale[:, None]
    assert_equals_ort(per_axis, dtype, x, scale, zero_point, axis=1)


@pytest.mark.parametrize("offset", [0, 1, 127, 128, 255])
@pytest.mark.parametrize("scale", [2.0**-7, 1.0, 4.0])
def test_ties_round_to_even_as_in_onnxruntime(ort_operators, scale, offset):
    dtype, per_tensor, _ = ort_operators
    halves = np.arange(-600, 601, dtype=np.float32) / 2 * np.float32(scale)
    zero_point = np.array(offset + np.iinfo(dtype).min, dtype)
    assert_equals_ort(per_tensor, dtype, halves, np.array(scale, np.float32), zero_point)


def test_ties_round_to_even():
    assert numerics.quantize([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], 1, 0, -127, 127).tolist() == [-2, -2, 0, 0, 2, 2]
    assert numerics.quantize([0.5, 1.5], 1, 3, 0, 255).tolist() == [3, 5]  # rounded before the zero point is added


# ---- quantize, dequantize


@given(arrays, quantizers())
def test_round_trip_is_within_half_a_scale_inside_the_range_and_clipped_outside(x, quantizer):
    scale, zero_point, integers = quantizer
    low, high = numerics.dequantize(np.array([integers.qmin, integers.qmax]), scale, zero_point)
    y = numerics.fake_quantize(x, scale, zero_point, integers.qmin, integers.qmax)
    error = np.abs(y.astype(np.float64) - np.clip(x, low, high))
    assert np.all(error <= float(scale) * (0.5 + 1e-4))  # 1e-4: x / scale is at most 255 and has 24 bits
    assert np.array_equal(y[x <= low], np.full_like(y[x <= low], low))
    assert np.array_equal(y[x >= high], np.full_like(y[x >= high], high))


@given(arrays, quantizers())
def test_fake_quantize_is_idempotent(x, quantizer):
    scale, zero_point, integers = quantizer
    once = numerics.fake_quantize(x, scale, zero_point, integers.qmin, integers.qmax)
    assert np.array_equal(numerics.fake_quantize(once, scale, zero_point, integers.qmin, integers.qmax), once)


@given(quantizers())
def test_every_integer_survives_dequantize_and_quantize(quantizer):
    scale, zero_point, integers = quantizer
    q = np.arange(integers.qmin, integers.qmax + 1)
    x = numerics.dequantize(q, scale, zero_point)
    assert np.array_equal(numerics.quantize(x, scale, zero_point, integers.qmin, integers.qmax), q)


@given(quantizers())
def test_zero_maps_to_zero(quantizer):
    scale, zero_point, integers = quantizer
    assert numerics.fake_quantize(0.0, scale, zero_point, integers.qmin, integers.qmax) == 0


@given(arrays, quantizers())
def test_quantize_keeps_order(x, quantizer):
    scale, zero_point, integers = quantizer
    assert np.all(np.diff(numerics.quantize(np.sort(x), scale, zero_point, integers.qmin, integers.qmax)) >= 0)


def test_values_far_outside_saturate():
    assert numerics.quantize([-(2.0**86), 2.0**86], SMALLEST_SCALE, 0, -127, 127).tolist() == [-127, 127]


def test_broadcastable_puts_the_scale_on_its_axis():
    assert numerics.broadcastable(np.ones(3), 4, 1).shape == (1, 3, 1, 1)
    assert numerics.broadcastable(np.ones(3), 2, -1).shape == (1, 3)
    assert numerics.broadcastable(np.ones(1), 4, None).shape == ()


# ---- ranges


@pytest.mark.parametrize("bits, limit", [(2, 1), (3, 3), (4, 7), (5, 15), (6, 31), (7, 63), (8, 127)])
def test_weight_range_is_symmetric_and_narrow(bits, limit):
    assert numerics.weight_range(bits) == IntegerRange(-limit, limit, "int8")


@pytest.mark.parametrize(
    "bits, asymmetric, symmetric",
    [(2, (0, 3), 1), (3, (0, 7), 3), (4, (0, 15), 7), (8, (0, 255), 127)],
    ids=["2 bits", "3 bits", "4 bits", "8 bits"],
)
def test_activation_range_has_zero_point_zero_only_when_symmetric(bits, asymmetric, symmetric):
    assert numerics.activation_range(bits) == IntegerRange(*asymmetric, "uint8")
    assert numerics.activation_range(bits, nonnegative=True) == IntegerRange(*asymmetric, "uint8")
    assert numerics.activation_range(bits, symmetric=True) == IntegerRange(-symmetric, symmetric, "int8")
    assert numerics.activation_range(bits, symmetric=True, nonnegative=True) == IntegerRange(0, symmetric, "int8")


def test_only_the_full_range_fills_its_container():
    assert numerics.activation_range(8).fills_container and IntegerRange(-128, 127, "int8").fills_container
    assert not any(r.fills_container for r in [numerics.weight_range(8), numerics.activation_range(7)])


@given(values, values, st.integers(2, 8))
@example(0.0, 0.0, 8)
@example(5.0, 6.0, 8)
@example(-6.0, -5.0, 2)
def test_asymmetric_range_scale_covers_the_range_to_half_a_scale(one, other, bits):
    low, high = min(one, other, 0.0), max(one, other, 0.0)
    integers = numerics.activation_range(bits)
    scale, zero_point = numerics.range_scale(min(one, other), max(one, other), integers)
    ends = numerics.dequantize(np.array([integers.qmin, integers.qmax]), scale, zero_point).astype(np.float64)
    assert isinstance(zero_point, int) and integers.qmin <= zero_point <= integers.qmax
    assert ends[0] <= low + 0.501 * scale and ends[1] >= high - 0.501 * scale  # 0.501: float32 rounding of 255 scales
    assert scale <= max((high - low) / integers.qmax * (1 + 1e-6), SMALLEST_SCALE)


@given(values, values, st.integers(2, 8))
@example(0.0, 0.0, 8)
def test_symmetric_range_scale_covers_the_range_with_zero_point_zero(one, other, bits):
    integers = numerics.activation_range(bits, symmetric=True)
    scale, zero_point = numerics.range_scale(min(one, other), max(one, other), integers, symmetric=True)
    largest = max(abs(one), abs(other))
    assert zero_point == 0
    assert integers.qmax * float(scale) == pytest.approx(max(largest, integers.qmax * float(SMALLEST_SCALE)), rel=1e-6)


def test_range_scale_of_relu_values_has_zero_point_at_the_lowest_integer():
    assert numerics.range_scale(0.0, 6.0, numerics.activation_range(8)) == (np.float32(6 / 255), 0)
    assert numerics.range_scale(-6.0, 0.0, numerics.activation_range(8)) == (np.float32(6 / 255), 255)


# ---- weight scales


@given(weights, st.sampled_from([1, 3, 7, 127]), st.sampled_from([None, 0, 1]))
def test_max_weight_scale_puts_the_largest_weight_on_the_largest_integer(w, qmax, axis):
    scale = numerics.broadcastable(numerics.max_weight_scale(w, axis, qmax), w.ndim, axis)
    q = np.abs(numerics.quantize(w, scale, 0, -INT32_MAX, INT32_MAX))
    rows = q.reshape(1, -1) if axis is None else np.moveaxis(q, axis, 0).reshape(w.shape[axis], -1)
    assert np.all((rows.max(axis=1) == qmax) | (scale.ravel() == SMALLEST_SCALE))


@given(weights, st.sampled_from([1, 3, 7, 127]), st.sampled_from([None, 0, 1]))
def test_mse_weight_scale_is_never_worse_than_max(w, qmax, axis):
    errors = []
    for choose in (numerics.mse_weight_scale, numerics.max_weight_scale):
        chosen = choose(w, axis, qmax)
        assert chosen.shape == (() if axis is None else (w.shape[axis],)) and chosen.dtype == np.float32
        scale = numerics.broadcastable(chosen, w.ndim, axis)
        error = np.square(numerics.fake_quantize(w, scale, 0, -qmax, qmax) - w, dtype=np.float64)
        errors.append(error.sum(axis=None if axis is None else tuple(i for i in range(w.ndim) if i != axis)))
    assert np.all(errors[0] <= errors[1] * (1 + 1e-5))  # 1e-5: the search sums in float32


def test_mse_weight_scale_clips_gaussian_weights_at_low_bits():
    w = np.random.default_rng(0).standard_normal((2, 5000)).astype(np.float32)
    x = np.linspace(-5, 5, 1001)
    density = np.exp(-(x**2) / 2)
    for qmax in (1, 3, 7):
        steps = np.linspace(0.2, 1.5, 261)
        errors = [(density * np.square(np.clip(np.rint(x / s), -qmax, qmax) * s - x)).sum() for s in steps]
        np.testing.assert_allclose(numerics.mse_weight_scale(w, 0, qmax), steps[np.argmin(errors)], rtol=0.06)


def test_all_zero_weights_have_the_smallest_scale():
    for choose in (numerics.max_weight_scale, numerics.mse_weight_scale):
        assert np.array_equal(choose(np.zeros((3, 4)), 0, 127), np.full(3, SMALLEST_SCALE))


# ---- biases


channels = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.float32, n, elements=st.floats(float(SMALLEST_SCALE), 2.0**10, width=32)),
        hnp.arrays(np.float32, n, elements=st.floats(-(2.0**20), 2.0**20, width=32)),
    )
)
input_scales = st.floats(float(SMALLEST_SCALE), 2.0**10, width=32)


@given(channels, input_scales)
@example((np.float32([SMALLEST_SCALE, 0.01]), np.float32([1e4, -1e4])), 1e-3)  # a channel of almost-zero weights
def test_quantize_bias_never_clips_on_a_safe_weight_scale(channel, input_scale):
    weight_scale, bias = channel
    safe = numerics.safe_weight_scale(weight_scale, input_scale, bias)
    q = numerics.quantize_bias(bias, input_scale, safe)
    step = np.float64(input_scale) * safe
    assert safe.dtype == np.float32 and q.dtype == np.int32
    assert np.all(np.abs(q.astype(np.int64)) <= INT32_MAX // 2 + 2**7)  # half of int32 is left; 2**7: float32 spacing there
    assert np.all(np.abs(q * step - bias) <= 0.5 * step + 3e-7 * np.abs(bias))


@given(channels, input_scales)
def test_quantize_bias_never_clips_on_a_safe_per_tensor_scale(channel, input_scale):
    weight_scale, bias = channel
    safe = numerics.safe_weight_scale(weight_scale[0], input_scale, bias)
    assert np.shape(safe) == () and safe >= weight_scale[0]
    assert np.all(np.abs(numerics.quantize_bias(bias, input_scale, safe).astype(np.int64)) <= INT32_MAX // 2 + 2**7)


@given(channels, input_scales)
def test_safe_weight_scale_leaves_large_enough_scales_unchanged(channel, input_scale):
    weight_scale, bias = channel
    safe = numerics.safe_weight_scale(weight_scale, input_scale, bias)
    enough = np.abs(bias.astype(np.float64)) < np.float64(input_scale) * weight_scale * 2.0**29
    assert np.array_equal(safe[enough], weight_scale[enough]) and np.all(safe >= weight_scale)
    assert np.array_equal(numerics.safe_weight_scale(safe, input_scale, bias), safe)


def test_a_planted_small_scale_would_clip():
    bias, small = np.float32([1e4]), np.float32([SMALLEST_SCALE])
    assert numerics.quantize_bias(bias, 1e-3, small)[0] == INT32_MAX
    assert numerics.quantize_bias(-bias, 1e-3, small)[0] == -INT32_MAX
