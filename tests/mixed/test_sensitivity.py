"""Sensitivity analysis: each layer alone in fewer bits, against models made by hand and by the rules of `quantize`."""

from __future__ import annotations

import json
from dataclasses import replace

import graphs
import numpy as np
import onnx
import pytest

from onnx_distill.bits import exact_rule
from onnx_distill.config import QuantizeConfig
from onnx_distill.data import ArrayImages
from onnx_distill.errors import InputError
from onnx_distill.evaluate import mean_kl
from onnx_distill.export import export
from onnx_distill.mixed.ranking import Sensitivity, load_sensitivity, render_sensitivity, save_sensitivity
from onnx_distill.mixed.sensitivity import drawn_apart, sensitivity
from onnx_distill.ready.calibrated import Calibrated, calibrated, quantized

BODY = (
    "[one] a = Conv<pads = [1, 1, 1, 1]>(x, w, b) [act] r = Relu(a) [two] c = Conv<pads = [1, 1, 1, 1]>(r, w2, b2) "
    "[sum] s = Add(r, c) [three] d = Conv<pads = [1, 1, 1, 1]>(s, w3, b3) [flat] e = Flatten(d) [head] y = Gemm(e, f, fb)"
)
REST = QuantizeConfig(edge_bits=0)


def images_for(model: onnx.ModelProto, count: int = 48, labels: bool = True) -> ArrayImages:
    pixels = graphs.random_images(model, count)
    return ArrayImages(pixels, graphs.deployed(model, pixels)[0].argmax(axis=1) if labels else None)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return graphs.net(BODY, graphs.ROWS)


@pytest.fixture(scope="module")
def images(model) -> ArrayImages:
    return images_for(model)


@pytest.fixture(scope="module")
def source(model, images) -> Calibrated:
    return calibrated(model, images, REST, threads=1)


@pytest.fixture(scope="module")
def found(source, images) -> Sensitivity:
    return sensitivity(source, images, REST, (3,), (3,), threads=1)


def test_every_weight_and_every_activation_is_tried_once(found):
    tried = sorted((loss.kind, loss.layer) for loss in found.losses)
    weights, values = ["head", "one", "three", "two"], ["head", "one", "sum", "three", "two", "x"]
    assert tried == [*(("activation", name) for name in values), *(("weight", name) for name in weights)]
    assert {loss.bits for loss in found.losses} == {3}


def test_layers_are_ranked_the_dearest_first(found):
    losses = [loss.kl for loss in found.losses]
    assert losses == sorted(losses, reverse=True) and losses[0] > 0


def test_a_layers_loss_is_that_of_the_model_that_its_rule_makes(found, source, images):
    teacher = graphs.deployed(source.model, images.pixels)[0]
    for loss in found.losses:
        alone = replace(REST, bits=(exact_rule(loss.layer, loss.kind, 3),))
        logits = graphs.deployed(export(quantized(source, alone)), images.pixels)[0]
        assert found.base.kl + loss.kl == pytest.approx(mean_kl(teacher, logits), rel=1e-6)
        changed = np.mean(logits.argmax(axis=1) != teacher.argmax(axis=1))
        assert 1 - found.base.agreement + loss.agreement == pytest.approx(changed)


def test_a_layer_that_was_spoilt_comes_first(model, images, monkeypatch):
    """Without equalisation, which would mend it."""
    monkeypatch.setattr("onnx_distill.ready.calibrated._equalized", lambda model, read, threads: model)
    spoilt = onnx.ModelProto()
    spoilt.CopyFrom(model)
    weights = next(t for t in spoilt.graph.initializer if t.name == "w3")
    array = onnx.numpy_helper.to_array(weights).copy()
    array[:, 0, 0, 0] *= 40  # one large weight a channel leaves the others few levels
    weights.CopyFrom(onnx.numpy_helper.from_array(array, "w3"))
    made = sensitivity(calibrated(spoilt, images, REST, 1), images, REST, (3,), threads=1)
    assert made.losses[0].layer == "three"


def test_counts_are_weights_and_values_of_one_image(found):
    counts = {(loss.kind, loss.layer): loss.count for loss in found.losses}
    assert counts["weight", "two"] == 4 * 4 * 3 * 3 and counts["weight", "head"] == 256 * 5
    assert (
        counts["activation", "two"] == 4 * 8 * 8
        and counts["activation", "x"] == 3 * 8 * 8
        and counts["activation", "head"] == 5
    )


def test_without_labels_there_is_no_top1(source, model):
    made = sensitivity(source, images_for(model, labels=False), REST, (4,), threads=1)
    assert made.base.top1 is None and {loss.top1 for loss in made.losses} == {None}
    assert "top-1" not in render_sensitivity(made)


def test_several_widths_are_tried_and_more_bits_lose_less(source, images):
    made = sensitivity(source, images, REST, (2, 6), threads=1)
    losses = {(loss.layer, loss.bits): loss.kl for loss in made.losses}
    assert all(losses[name, 2] > losses[name, 6] for name in ("one", "two", "three", "head"))


def test_what_is_no_lower_is_not_tried(source, images):
    with pytest.raises(InputError, match="no layer has more bits than W8"):
        sensitivity(source, images, REST, (8,), threads=1)


def test_the_file_gives_back_what_was_found(found, tmp_path):
    save_sensitivity(found, tmp_path / "s.json")
    assert load_sensitivity(tmp_path / "s.json") == found


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda c: "[1, 2]", "is no 'onnx-distill sensitivity 1' file"),
        (lambda c: "{", "cannot read"),
        (lambda c: json.dumps({**c, "format": "other"}), "is no 'onnx-distill sensitivity 1' file"),
        (lambda c: json.dumps({**c, "losses": [{**c["losses"][0], "kind": "bias"}]}), "was changed since"),
        (lambda c: json.dumps({**c, "losses": [{"layer": "one"}]}), "was changed since"),
        (lambda c: json.dumps({key: value for key, value in c.items() if key != "base"}), "was changed since"),
    ],
    ids=["list", "damaged", "other format", "unknown kind", "missing fields", "no base"],
)
def test_another_file_is_refused(spoil, message, found, tmp_path):
    path = tmp_path / "s.json"
    save_sensitivity(found, path)
    path.write_text(spoil(json.loads(path.read_text())))
    with pytest.raises(InputError, match=message):
        load_sensitivity(path)


def test_a_missing_file_is_named_with_the_closest(found, tmp_path):
    save_sensitivity(found, tmp_path / "sensitivity.json")
    with pytest.raises(InputError, match="no file .*sensitivty.json; closest: 'sensitivity.json'"):
        load_sensitivity(tmp_path / "sensitivty.json")


def test_the_table_has_the_dearest_layers_and_says_how_many_are_left(found):
    lines = render_sensitivity(found, top=2).splitlines()
    assert lines[0].startswith("W8A8 everywhere, 48 images: KL 0.0") and lines[-1] == "and 8 more"
    assert lines[2].split()[:2] == ["1", found.losses[0].layer] and len(lines) == 5


def test_images_to_measure_on_are_others_than_those_calibrated_on(images):
    one, other = drawn_apart(images, 20, 28, seed=3)
    assert sorted([*one._rows, *other._rows]) == list(range(48))
    again, _ = drawn_apart(images, 20, 28, seed=3)
    assert list(again._rows) == list(one._rows)
