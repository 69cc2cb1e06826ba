"""Biases on their grid as nodes of the model: none left as a function, equal to the bit."""

from __future__ import annotations

import numpy as np
from test_lower import BATCH, batch, everything

from onnx_distill.trainable import fake_quant


def test_no_bias_is_left_as_a_function(tiny_student, training_graph):
    graph = training_graph(tiny_student(), batch_size=BATCH)
    assert not [node for node in graph.node if node.domain == fake_quant.DOMAIN]
    assert sum(node.op_type == "Round" for node in graph.node) == 3


def test_they_are_the_function_to_the_bit(tiny_student, make_step):
    given = batch((4, 4), channels=1)
    found, wanted = (everything(make_step(tiny_student(), lowered=lowered), given) for lowered in (True, False))
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
