"""preflight/ and gradient_check.py: right gradients pass, planted faults are found, and what nothing moves is no fault."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import IMAGES, ROWS, net, random_images, simulated, student_of

from onnx_distill import artifacts
from onnx_distill.config import TrainConfig
from onnx_distill.errors import InputError
from onnx_distill.preflight import check_gradients, preflight
from onnx_distill.preflight.blame import blame
from onnx_distill.preflight.gradient_check import RIGHT, GradientCheck
from onnx_distill.preflight.unrounded import settled, unrounded
from onnx_distill.qdq import is_quantized

ROOT = Path(__file__).resolve().parents[2]


def classifier(body: str = "", **values) -> onnx.ModelProto:
    """Conv, Relu, `body` from r to c, Flatten, Gemm: logits [N, 5]."""
    body = body or "c = Conv<pads = [1, 1, 1, 1], group = 4>(r, depthwise, b2)"
    text = f"a = Conv<pads = [1, 1, 1, 1]>(x, w, b) r = Relu(a) {body} flat = Flatten(c) y = Gemm(flat, f, fb)"
    return net(text, ROWS, "float[N, 3, 8, 8] x", **values)


def parameters(model: onnx.ModelProto) -> tuple[str, ...]:
    return artifacts.trainable(model, "none").all


def images(count: int = 16) -> np.ndarray:
    return random_images(classifier(), count)


# --- right gradients


def test_every_gradient_of_a_sound_network_is_right_and_none_is_zero():
    model = classifier()
    check = GradientCheck(model, parameters(model), images(), threads=1)
    assert (check.wrong(), check.zero(), check.broken()) == ([], [], [])
    assert max(check.error(name) for name in parameters(model)) < RIGHT / 3


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_sound_student_passes_and_is_left_as_it_was(bits):
    student = student_of(classifier(), weight_bits=bits, activation_bits=bits)
    before = student.SerializeToString(deterministic=True)
    assert preflight(student, images(), TrainConfig(threads=1)) == []
    assert student.SerializeToString(deterministic=True) == before


def test_head_after_flatten_trains_all_parameters():
    """MNN's demo trains 2 of 34 parameters on a model that ends in Flatten, and says nothing."""
    model = net(
        "a = Conv(x, w, b) r = Relu(a) p = GlobalAveragePool(r) g = Conv(p, point, b2) y = Flatten(g)",
        "float[N, 4] y",
        IMAGES,
    )
    student = student_of(model)
    assert preflight(student, images(), TrainConfig(threads=1)) == []
    assert set(parameters(student)) == {"w", "b", "point", "b2"}


def test_parameters_that_are_frozen_are_not_looked_at():
    student = student_of(classifier())
    assert preflight(student, images(), TrainConfig(threads=1, freeze=("w", "b", "b2", "depthwise"))) == []


# --- what nothing moves


def test_layer_behind_a_closed_relu_is_told_and_does_not_stop():
    model = classifier(
        "n = Neg(r) k = Relu(n) d = Conv(k, point, b2) o = Conv(r, short, b3) c = Add(d, o)",
        short=np.ones((4, 4, 1, 1), np.float32),
    )
    assert check_gradients(model, parameters(model), images(), 1) == ["point"]


def test_weights_of_zero_before_a_layer_do_not_stop():
    model = classifier(f=np.zeros((256, 5), np.float32))
    assert check_gradients(model, parameters(model), images(), 1) == []


def test_network_that_no_parameter_moves_is_refused():
    model = classifier("n = Neg(r) c = Relu(n)")
    with pytest.raises(InputError, match="none of the 2 parameters moves the logits"):
        check_gradients(model, ("w", "b"), images(), 1)


# --- planted faults


@pytest.mark.parametrize("share", [0.0, 0.5, 1.3, -1.0])
@pytest.mark.parametrize("name", ["w", "b", "depthwise", "f"])
def test_gradient_of_the_wrong_size_is_seen(name, share):
    model = classifier()
    check = GradientCheck(model, parameters(model), images(), threads=1)
    check.gradients[name] *= np.float32(share)
    assert check.wrong() == [name]


def test_gradient_that_lacks_one_channel_of_four_is_seen():
    model = classifier()
    check = GradientCheck(model, parameters(model), images(), threads=1)
    check.gradients["depthwise"][2] = 0
    assert check.wrong() == ["depthwise"]


def test_gradient_that_is_not_finite_is_refused_by_name():
    model = classifier("z = Sub(r, r) q = Sqrt(z) d = Conv(r, point, b2) c = Add(d, q)")
    with pytest.raises(InputError, match="the gradient of parameter 'w' and 1 more is not finite; Sqrt '.*' passes"):
        check_gradients(model, parameters(model), images(), 1)


def test_operator_that_the_runtime_differentiates_wrongly_is_blamed():
    """Past the table that refuses it."""
    model = classifier("[culprit] k = LeakyRelu<alpha = -0.5>(a) d = Conv(k, point, b2) c = Add(d, r)")
    with pytest.raises(
        InputError, match="parameter 'b|w' .* is not the slope of the loss; LeakyRelu 'culprit' passes it on wrongly"
    ):
        check_gradients(model, parameters(model), images(), 1)


def test_blame_finds_nothing_where_nothing_is_wrong():
    assert blame(classifier(), "w", images(), 1) is None


WRONG = """
    import numpy as np, onnx
    from onnx_distill import _ort
    from onnx_distill.preflight import check_gradients
    _ort.register_gradient("onnx_distill.test", "Twice", [("Identity", ["GO(0)"], ["GI(0)"])])  # should be twice GO(0)
    model = onnx.parser.parse_model('''<ir_version: 8, opset_import: ["": 17, "onnx_distill.test": 1]>
        net (float[N, 3] x) => (float[N, 2] y) <float[3, 3] w = {1,2,3, 4,5,6, 7,8,8}, float[3, 2] v = {1,-2, 3,4, -5,6}> {
            h = MatMul(x, w) t = Tanh(h) [made_up] d = onnx_distill.test.Twice(t) s = Sigmoid(d) y = MatMul(s, v) }
        <domain: "onnx_distill.test", opset_import: ["": 17]> Twice (a) => (b) { b = Add(a, a) }''')
    images = np.random.default_rng(0).standard_normal((16, 3)).astype(np.float32)
    check_gradients(model, ("w", "v"), images, 1)
"""


def test_wrong_gradient_registered_for_a_made_up_operator_is_caught_and_blamed():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WRONG)], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 1
    assert "InputError: the gradient of parameter 'w' is not the slope of the loss; Twice 'made_up'" in done.stderr


# --- the student without its rounding


def test_unrounded_student_computes_what_the_float_model_does():
    model = classifier()
    free = unrounded(student_of(model))
    assert not is_quantized(free)
    np.testing.assert_allclose(simulated(free, images(4))[0], simulated(model, images(4))[0], atol=0.02)


def test_float_model_without_quantizers_is_its_own_unrounded_form():
    assert unrounded(classifier()) == classifier()


def hard_swishes(count: int) -> str:
    """So many times x * Clip(x + 3, 0, 6) / 6 in a row, and a convolution after each, from r to c."""
    lines, x = [], "r"
    for i in range(count):
        y = "c" if i == count - 1 else f"s{i}"
        lines.append(f"h{i} = Add({x}, three) g{i} = Clip(h{i}, zero, six) m{i} = Mul({x}, g{i}) v{i} = Mul(m{i}, sixth)")
        lines.append(f"{y} = Conv(v{i}, point)")
        x = y
    return " ".join(lines)


def test_a_network_that_runs_away_without_the_upper_ends_keeps_them():
    doubled = 2 * np.eye(4, dtype=np.float32)[:, :, None, None]
    model = classifier(hard_swishes(12), three=np.float32(3), sixth=np.float32(1 / 6), point=doubled)
    student, wanted = student_of(model), simulated(model, images(4))[0]
    free, kept = (simulated(m, images(4))[0] for m in (unrounded(student), settled(student, images(4), 1)))
    assert not np.abs(free).max() < 1e6 * np.abs(wanted).max()
    np.testing.assert_allclose(kept, wanted, atol=0.1 * np.abs(wanted).max())


def test_any_other_student_is_settled_without_them():
    student = student_of(classifier())
    assert settled(student, images(4), 1) == unrounded(student)
