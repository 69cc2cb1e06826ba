"""rows.py: classifiers whose logits are a map of one pixel go the whole way under the names they have."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import deployed, net, random_images, simulated

from onnx_distill import pipeline
from onnx_distill.config import QuantizeConfig
from onnx_distill.cut import cut
from onnx_distill.data import ArrayImages, Preprocess
from onnx_distill.facts.logits import find_logits
from onnx_distill.lookup import shape_of
from onnx_distill.normalize.prepare import prepare
from onnx_distill.ready.deployable import deployable

LOGITS = "a = Conv<pads = [1, 1, 1, 1]>(x, w, b) r = Relu(a) g = GlobalAveragePool(r) "
MAPS = {
    "no softmax": (LOGITS + "[head] y = Conv(g, point)", "float[N, 4, 1, 1] y"),
    "softmax": (LOGITS + "c = Conv(g, point) y = Softmax<axis = 1>(c)", "float[N, 4, 1, 1] y"),
}


@pytest.fixture(params=MAPS, ids=list(MAPS))
def model(request) -> onnx.ModelProto:
    return net(*MAPS[request.param])


def test_a_prepared_model_computes_bit_for_bit_the_same_and_has_rows(model):
    made = prepare(model)
    onnx.checker.check_model(made, full_check=True)
    assert np.array_equal(simulated(made, random_images(model))[0], simulated(model, random_images(model))[0])
    assert [v.name for v in made.graph.output] == ["y"] and prepare(made) == made


@pytest.mark.parametrize("name", ["y", "y/rows", "head"])
def test_logits_may_be_named_as_the_value_its_rows_or_its_node(name):
    made = prepare(net(*MAPS["no softmax"]))
    assert find_logits(made, name).value == "y/rows"
    assert shape_of(cut(made, name).graph.output[0]) == ["N", 4]


def test_rows_feed_the_softmax():
    assert find_logits(prepare(net(*MAPS["softmax"]))).value == "c/rows"


@pytest.mark.parametrize(
    "body, output", [("y = GlobalAveragePool(x)", "float[N, 3, 1, 2] y"), ("y = Flatten(x)", "float[N, 192] y")]
)
def test_other_outputs_stay(body, output):
    model = net(body, output)
    assert len(prepare(model).graph.node) == 1


def test_what_takes_the_teachers_place_gives_a_map_again(model):
    teacher = prepare(model)
    logits = cut(teacher, "y" if model.graph.node[-1].op_type == "Conv" else None)
    images = ArrayImages(random_images(model), preprocess=Preprocess(layout="NCHW"))
    student = pipeline.quantize_with_images(logits, images, QuantizeConfig(), threads=1)
    made = deployable(student, model)
    found, wanted = deployed(made, random_images(model))[0], deployed(model, random_images(model))[0]
    assert found.shape == wanted.shape == (16, 4, 1, 1)
    np.testing.assert_allclose(found, wanted, atol=0.05)
