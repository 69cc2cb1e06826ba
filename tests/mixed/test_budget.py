"""From ranking and budget to a student: its layers have the chosen bits, its losses are those measured."""

from __future__ import annotations

from dataclasses import replace

import graphs
import onnx
import pytest
from test_sensitivity import BODY, REST, images_for

from onnx_distill import pipeline
from onnx_distill.config import QuantizeConfig
from onnx_distill.errors import InputError
from onnx_distill.export import export
from onnx_distill.mixed import weight_bytes
from onnx_distill.mixed.budget import Budget, mixed
from onnx_distill.mixed.sensitivity import drawn_apart, logits_of, score, sensitivity
from onnx_distill.quantization.layer_bits import layer_bits
from onnx_distill.ready.calibrated import calibrated, quantized


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return graphs.net(BODY, graphs.ROWS)


@pytest.fixture(scope="module")
def images(model):
    return images_for(model, 160)


@pytest.fixture(scope="module")
def source(model, images):
    return calibrated(model, drawn_apart(images, 32, 128, 0)[0], REST, threads=1)


@pytest.fixture(scope="module")
def ranking(source, images):
    return sensitivity(source, drawn_apart(images, 32, 128, 0)[1], REST, (3,), (3,), threads=1)


def weight_bits(model: onnx.ModelProto) -> dict[str, int]:
    return {layer.name: layer.weight_bits for layer in layer_bits(model) if layer.weight_bits}


def int4_bytes(model: onnx.ModelProto) -> int:
    """Of the weights in the exported file."""
    packed = export(model, weight_storage="int4")
    known = {node.input[0] for node in packed.graph.node if node.op_type == "DequantizeLinear"}
    four = (onnx.TensorProto.INT4, onnx.TensorProto.INT8)
    return sum(len(t.raw_data) for t in packed.graph.initializer if t.name in known and t.data_type in four)


def test_weights_take_the_bytes_of_the_budget_in_the_exported_file(source, images, ranking):
    whole = weight_bytes(ranking)
    for share in (1.0, 0.9, 0.6, 0.5):
        made = quantized(source, mixed(source, images, REST, Budget(ranking, size=share), 1))
        assert int4_bytes(made) <= share * whole
    assert set(weight_bits(made).values()) == {3}


def test_the_dearest_layers_keep_their_bits(source, images, ranking):
    bits = weight_bits(quantized(source, mixed(source, images, REST, Budget(ranking, size=0.7), 1)))
    dear = max((x for x in ranking.losses if x.kind == "weight"), key=lambda x: x.kl / x.count)
    assert bits[dear.layer] == 8 and 3 in bits.values()


def test_what_is_lost_stays_within_the_budget_of_accuracy(source, images, ranking):
    measured = drawn_apart(images, 32, 128, 0)[1]
    teacher = logits_of(source.model, measured, 1)
    right = lambda config: score(quantized(source, config), measured, teacher, config, 1).top1  # noqa: E731
    for points in (0.0, 5.0, 30.0):
        config = mixed(source, images, REST, Budget(ranking, accuracy=points), 1)
        assert right(REST) - right(config) <= points / 100


def test_a_budget_of_everything_takes_every_layer_down_activations_too(source, images, ranking):
    made = quantized(source, mixed(source, images, REST, Budget(ranking, accuracy=100.0), 1))
    assert {bits for layer in layer_bits(made) for bits in (layer.weight_bits, layer.activation_bits) if bits} == {3}


def test_rules_of_the_user_come_last(source, images, ranking):
    config = mixed(source, images, replace(REST, bits=("head=W6",)), Budget(ranking, size=0.5), 1)
    assert weight_bits(quantized(source, config)) == {"one": 3, "two": 3, "three": 3, "head": 6}


def test_the_pipeline_gives_the_same_student(model, source, images, ranking):
    made = pipeline.quantize_with_images(model, images, QuantizeConfig(), 32, 0, 1, Budget(ranking, size=0.7))
    by_hand = quantized(source, mixed(source, images, REST, Budget(ranking, size=0.7), 1))
    assert weight_bits(made) == weight_bits(by_hand)


def test_a_ranking_of_another_model_is_refused(source, images, ranking):
    other = replace(ranking, losses=(replace(ranking.losses[0], layer="conv9"),))
    with pytest.raises(InputError, match="has a layer 'conv9', which the model has not"):
        mixed(source, images, REST, Budget(other, size=0.5), 1)


@pytest.mark.parametrize(
    "choices, message",
    [
        ({}, "give either --budget-size or --budget-accuracy"),
        ({"size": 0.5, "accuracy": 1.0}, "give either --budget-size or --budget-accuracy"),
        ({"size": -1.0}, "the budget is -1.0; wanted 0 or more"),
        ({"accuracy": float("nan")}, "the budget is nan; wanted 0 or more"),
        ({"size": 0.5, "counted": "zipped"}, "wanted stored | packed"),
    ],
)
def test_no_budget_two_or_an_absurd_one_is_refused(choices, message, ranking):
    with pytest.raises(InputError, match=message):
        Budget(ranking, **choices)
