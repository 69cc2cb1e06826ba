"""Gradients as outputs are those that the runtime's Module adds to its buffers, to the bit."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from tiny import batch

from onnx_distill import _ort, artifacts
from onnx_distill.config import DistillConfig
from onnx_distill.gradient_outputs import with_gradient_outputs
from onnx_distill.training.step import Step

SHARED = """<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
g (float[2] x, float[2] a, float[2] b, float[2] c, float[2] "a_grad.accumulation.buffer", float[2] "b_grad.accumulation.buffer",
   float[2] "c_grad.accumulation.buffer", bool[1] lazy_reset_grad)
=> (float[2] loss, bool[1] "a_grad.accumulation.out", bool[1] "b_grad.accumulation.out", bool[1] "c_grad.accumulation.out") {
    ab = Add(a, b)  abc = Add(ab, c)  loss = Mul(abc, x)  g = Neg(x)
    "a_grad.accumulation.out" = com.microsoft.InPlaceAccumulatorV2("a_grad.accumulation.buffer", g, lazy_reset_grad)
    "b_grad.accumulation.out" = com.microsoft.InPlaceAccumulatorV2("b_grad.accumulation.buffer", g, lazy_reset_grad)
    "c_grad.accumulation.out" = com.microsoft.InPlaceAccumulatorV2("c_grad.accumulation.buffer", x, lazy_reset_grad)
}"""


@pytest.mark.parametrize("batch_size", [None, 8], ids=["as generated", "lowered for one size"])
def test_they_are_those_of_a_module_to_the_bit(batch_size, tiny_student, tmp_path):
    made = artifacts.build(tiny_student(), DistillConfig(), "all", tmp_path, batch_size)
    step, (module, state) = Step(made, threads=1), _ort.open_module(tmp_path, 1)
    for seed in range(3):
        given = batch(seed=seed)
        module.lazy_reset_grad()
        wanted_loss, wanted_logits = module(*given)
        loss, logits = step.run(*given)
        assert loss == wanted_loss and np.array_equal(logits, wanted_logits)
        assert all(np.array_equal(step.gradients[name], state.parameters[name].grad) for name in made.parameters.all)


def test_gradients_are_added_as_a_module_adds_them(tiny_student, tmp_path):
    made = artifacts.build(tiny_student(), DistillConfig(), "all", tmp_path)
    step, (module, state) = Step(made, threads=1), _ort.open_module(tmp_path, 1)
    module.lazy_reset_grad()
    for part in range(3):
        module(*batch(seed=part))
        step.run(*batch(seed=part), add=part > 0)
    assert all(np.array_equal(step.gradients[name], state.parameters[name].grad) for name in made.parameters.all)


def test_parameters_of_one_gradient_and_gradients_that_are_inputs_have_outputs_of_their_own():
    model, x = onnx.parser.parse_model(SHARED), np.array([1, 2], np.float32)
    before = model.SerializeToString(deterministic=True)
    made, outputs = with_gradient_outputs(model)
    assert model.SerializeToString(deterministic=True) == before
    assert [value.name for value in made.graph.input] == ["x", "a", "b", "c"]
    assert [value.name for value in made.graph.output] == ["loss", *outputs.values()]
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(list(outputs.values()), dict.fromkeys(["x", "a", "b", "c"], x))
    assert {name: list(gradient) for name, gradient in zip(outputs, found)} == {"a": [-1, -2], "b": [-1, -2], "c": [1, 2]}
