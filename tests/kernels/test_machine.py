"""machine.py: what is said of this machine is what its kernels do."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import CONV, FEATURES, net, random_images, simulated, student_of

from onnx_distill import runtime
from onnx_distill.export import export
from onnx_distill.kernels import machine
from onnx_distill.kernels.machine import own_target, sums_saturate
from onnx_distill.targets import TARGETS

NAMES = {  # (saturates, machine): row
    (True, "x86_64"): "ort-x86-novnni",
    (False, "x86_64"): "ort-x86",
    (False, "AMD64"): "ort-x86",
    (False, "aarch64"): "ort-arm",
    (False, "arm64"): "ort-arm",
}


@pytest.mark.parametrize(("found", "name"), NAMES.items(), ids=[f"{m} {s}" for s, m in NAMES])
def test_the_own_target_is_the_row_for_what_was_found(found, name, monkeypatch):
    monkeypatch.setattr(machine, "sums_saturate", lambda: found[0])
    monkeypatch.setattr("platform.machine", lambda: found[1])
    assert own_target() == name and name in TARGETS


def test_a_layer_of_full_range_weights_saturates_as_the_probe_says():
    """Positive weights of 127 on bright images: every pair of products is beyond 16 bits; an exact session stays exact."""
    bright = abs(random_images(net(CONV + "y = Relu(a)", FEATURES)))
    model = net(CONV + "y = Relu(a)", FEATURES, w=np.ones((4, 3, 3, 3), np.float32))
    shipped = export(student_of(model))
    wanted = simulated(shipped, bright)[0]
    stock, exact = (runtime.run(runtime.open_session(shipped, 1, exact=e), bright)[0] for e in (False, True))
    step = np.diff(np.unique(wanted)).min()
    assert np.abs(exact - wanted).max() <= 1.001 * step
    assert (np.abs(stock - wanted).max() > 3 * step) == sums_saturate()


def test_the_own_targets_students_are_as_simulated_in_stock_sessions():
    model = net(CONV + "r = Relu(a) y = Conv(r, w2, b2)", FEATURES)
    student = student_of(model, target=own_target())
    images = random_images(model, seed=2)
    stock = runtime.run(runtime.open_session(export(student, TARGETS[own_target()]), 1, exact=False), images)[0]
    assert np.mean(stock != simulated(student, images)[0]) <= 1e-3
