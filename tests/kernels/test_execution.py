"""inspect --execution: what the installed runtime computes in integers, and the true reason where it does not."""

from __future__ import annotations

import json

import graphs
import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from onnx_distill.cli import main
from onnx_distill.export import export
from onnx_distill.kernels.execution import execution, render_execution
from onnx_distill.lookup import initializers

BODY = """
    a = Conv<pads = [1, 1, 1, 1]>(x, w, b) r = Relu(a)
    [second] c = Conv<pads = [1, 1, 1, 1]>(r, w2, b2) s = Add(r, c)
    g = GlobalAveragePool(s) h = Flatten(g) logits = Gemm(h, head, fb)
"""
HEAD = np.random.default_rng(5).standard_normal((4, 5)).astype(np.float32)


def _student(**choices) -> onnx.ModelProto:
    return graphs.student_of(graphs.net(BODY, "float[N, 5] logits", head=HEAD), **choices)


def test_every_layer_of_an_exported_student_is_in_integers():
    found = execution(export(_student()))
    assert {"QLinearConv": 2, "QLinearAdd": 1, "QGemm": 1}.items() <= found.integers.items()
    assert found.floats == () and found.conversions >= 1


def test_a_float_model_has_nothing_in_integers():
    found = execution(graphs.net(BODY, "float[N, 5] logits", head=HEAD))
    assert found.integers == {} and found.conversions == 0 and len(found.floats) >= 4


def test_an_excluded_layer_is_named_with_its_reason():
    found = execution(export(_student(exclude=("second",))))
    left = [one for one in found.floats if one.operator in ("Conv", "FusedConv")]
    assert [(one.node, one.reason) for one in left] == [("c", "its result is read as floats")]


def test_an_operator_without_a_kernel_is_named():
    body = BODY.replace("g = Glob", "e = Erf(s) g = Glob").replace("GlobalAveragePool(s)", "GlobalAveragePool(e)")
    found = execution(export(graphs.student_of(graphs.net(body, "float[N, 5] logits", head=HEAD))))
    assert "the runtime has no integer kernel for it" in [one.reason for one in found.floats if one.operator == "Erf"]


def test_weights_of_4_bits_keep_a_layer_in_floats():
    found = execution(export(_student(weight_bits=4, edge_bits=0), weight_storage="int4"))
    assert {one.reason for one in found.floats if one.operator == "Conv"} == {
        "its weights are stored in 4 bits, which no integer kernel reads"
    }


def test_the_command_shows_it_as_text_and_json(tmp_path):
    onnx.save(export(_student()), str(tmp_path / "s.onnx"))
    shown = CliRunner().invoke(main, ["inspect", str(tmp_path / "s.onnx"), "--execution"]).stdout
    assert "2 QLinearConv" in shown and "floats         nothing" in shown
    data = json.loads(CliRunner().invoke(main, ["inspect", str(tmp_path / "s.onnx"), "--execution", "--json"]).stdout)
    assert data["execution"]["integers"]["QLinearConv"] == 2
    assert render_execution(execution(graphs.net(BODY, "float[N, 5] logits", head=HEAD))).count("integers") >= 1


@pytest.mark.parametrize("bits, fits", [(4, True), (3, True), (5, False), (8, False)])
def test_weights_of_4_bits_and_fewer_are_stored_two_to_a_byte(bits, fits):
    made = export(_student(weight_bits=bits, edge_bits=0), weight_storage="int4")
    onnx.checker.check_model(made, full_check=True)
    packed = [t for t in initializers(made).values() if t.data_type == onnx.TensorProto.INT4 and len(t.dims) > 1]
    assert len(packed) == (3 if fits else 0)
    assert all(len(t.raw_data) == (np.prod(t.dims) + 1) // 2 for t in packed)


@pytest.mark.parametrize("bits", [2, 4])
def test_weights_of_4_bits_answer_as_those_of_8(bits):
    student = _student(weight_bits=bits, edge_bits=0)
    images = graphs.random_images(student, 40)
    wide, packed = (graphs.simulated(export(student, weight_storage=kind), images) for kind in ("int8", "int4"))
    assert all(np.array_equal(a, b) for a, b in zip(wide, packed))
