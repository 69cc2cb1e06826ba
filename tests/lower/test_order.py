"""Nodes in the order in which they are to run: sources first, filters right before their readers, equal results; and it is kept to."""

from __future__ import annotations

import json

import numpy as np
import onnx
from test_lower import BATCH, batch

from onnx_distill import artifacts
from onnx_distill.config import DistillConfig
from onnx_distill.lower.order import lower_order
from onnx_distill.training.step import Step

EARLY = """<ir_version: 8, opset_import: ["": 17]> g (float[n,2] x, float[2] a, float[2] b) => (float[n,2] z, float[2] alone) {
    alone = Neg(b)  late = Neg(a)  later = Exp(late)  y = Exp(x)  u = Mul(y, b)  z = Add(u, later)
}"""


def test_what_no_batch_flows_through_waits_for_its_first_reader():
    model = onnx.parser.parse_model(EARLY)
    before = model.SerializeToString(deterministic=True)
    made = lower_order(model)
    assert [node.output[0] for node in made.graph.node] == ["y", "u", "late", "later", "z", "alone"]
    assert model.SerializeToString(deterministic=True) == before


MASKED = """<ir_version: 8, opset_import: ["": 17]> g (float[n,2] x, float[2] s) => (float[n,2] loss, bool[n,2] flag) {
    y = Exp(x)  z = Neg(y)  loss = Mul(z, s)  dz = Abs(loss)  w = Exp(dz)  positive = Greater(dz, s)
    high = Neg(s)  below = LessOrEqual(y, high)  byte = Cast<to = 2>(below)  m = Cast<to = 1>(byte)  g = Mul(w, m)
    large = Greater(g, s)  flag = And(large, positive)
}"""


def test_what_compares_forward_values_runs_right_behind_them():
    order = [node.output[0] for node in lower_order(onnx.parser.parse_model(MASKED)).graph.node]
    # dz comes of the loss, so what is compared of it waits; m is as large as y, so it waits too
    assert order == ["y", "high", "below", "byte", "z", "loss", "dz", "w", "positive", "m", "g", "large", "flag"]


def test_every_node_comes_after_what_it_reads_and_none_is_lost(tiny_student, training_graph):
    graph = training_graph(tiny_student(), batch_size=BATCH)
    made = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer} | {""}
    for node in graph.node:
        assert made.issuperset(node.input), node.name
        made.update(node.output)
    assert made.issuperset(value.name for value in graph.output)


def test_a_step_runs_its_nodes_in_the_order_of_the_model(tiny_student, tmp_path):
    made = artifacts.build(tiny_student(), DistillConfig(), "all", tmp_path, BATCH)
    order = [node.name for node in onnx.load(str(tmp_path / artifacts.TRAINING_MODEL)).graph.node]
    step = Step(made, 1, tmp_path)
    step.run(*batch((4, 4), channels=1))
    step.close()
    events = json.loads(next(tmp_path.glob("step*.json")).read_text())
    ran = [event["name"][: -len("_kernel_time")] for event in events if event["name"].endswith("_kernel_time")]
    places = [order.index(name) for name in ran if name in order]
    assert len(places) > 0.8 * len(order)  # the others were constants, or joined by the runtime
    assert np.mean(np.diff(places) < 0) < 0.02
