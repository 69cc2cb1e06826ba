"""sensitivity, and quantize and run with its ranking or with bits for single layers, through the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from test_cli import given, onnx_distill  # noqa: F401  # `given` is a fixture

from onnx_distill.mixed.ranking import load_sensitivity


@pytest.fixture(scope="module")
def ranking(given, tmp_path_factory) -> Path:  # noqa: F811
    path = tmp_path_factory.mktemp("ranking") / "sensitivity.json"
    line = f"sensitivity {given}/teacher.onnx --data {given}/images.npz --samples 20 --images 40 --activation-bits 3 --weight-bits 3 --threads 1"
    result = onnx_distill(f"{line} -o {path}")
    assert result.code == 0, result
    return path


def bits(model: Path) -> dict[str, tuple[int | None, int | None]]:
    layers = json.loads(onnx_distill(f"inspect {model} --json").out)["layers"]
    return {layer["name"]: (layer["weight_bits"], layer["activation_bits"]) for layer in layers}


def test_the_ranking_is_printed_and_written(given, tmp_path):  # noqa: F811
    line = f"sensitivity {given}/teacher.onnx --data {given}/images.npz --samples 20 --images 40 --threads 1 -o {tmp_path}/s.json"
    result = onnx_distill(f"{line} --top 1")
    first = load_sensitivity(tmp_path / "s.json").losses[0]
    assert result.code == 0 and result.out.splitlines()[2].split()[:3] == ["1", first.layer, "W4"]
    assert result.out.splitlines()[-1] == "and 1 more"
    found = json.loads(onnx_distill(f"{line} --json").out)
    assert [loss["layer"] for loss in found["losses"]] == [x.layer for x in load_sensitivity(tmp_path / "s.json").losses]


@pytest.mark.parametrize("size", ["0.6", "60%", "200", "0.2kB"])
def test_a_budget_of_size_gives_layers_their_bits(size, given, ranking, tmp_path):  # noqa: F811
    line = f"quantize {given}/logits.onnx --data {given}/images.npz --mixed {ranking} --budget-size {size} --threads 1"
    result = onnx_distill(f"{line} -o {tmp_path}/s.onnx")
    assert result.code == 0, result
    assert bits(tmp_path / "s.onnx") == {"image": (None, 8), "stem": (8, 8), "classifier": (3, 8)}
    assert "W8 in 1 layer (36 weights), W3 in 1 layer (256 weights)" in result.out
    assert result.out.endswith("; 164 bytes of weights (stored)\n")


def test_a_budget_of_accuracy_lowers_activations_too(given, ranking, tmp_path):  # noqa: F811
    line = f"quantize {given}/logits.onnx --data {given}/images.npz --mixed {ranking} --budget-accuracy 100 --threads 1"
    assert onnx_distill(f"{line} -o {tmp_path}/s.onnx").code == 0
    assert bits(tmp_path / "s.onnx") == {"image": (None, 3), "stem": (3, 3), "classifier": (3, 3)}


def test_bits_of_single_layers_go_through_a_whole_run_and_into_its_configuration(given, ranking, tmp_path):  # noqa: F811
    line = f"run {given}/teacher.onnx --data {given}/images.npz --test-data {given}/images.npz --validation 20 --epochs 1 --threads 1"
    result = onnx_distill(
        f"{line} --mixed {ranking} --budget-size 0.6 --bits 'cl*=A5' --weight-storage int4 -o {tmp_path}/run"
    )
    assert result.code == 0, result
    wanted = {"image": (None, 8), "stem": (8, 8), "classifier": (3, 5)}
    assert bits(tmp_path / "run/student.qdq.onnx") == bits(tmp_path / "run/student.int4.onnx") == wanted
    again = onnx_distill(f"run --config {tmp_path}/run/config.yaml {given}/teacher.onnx -o {tmp_path}/again")
    assert again.code == 0, again
    assert (tmp_path / "again/student.int4.onnx").read_bytes() == (tmp_path / "run/student.int4.onnx").read_bytes()


@pytest.mark.parametrize(
    "options, message",
    [
        ("--budget-size 0.5", "a budget wants a ranking of the layers: --mixed FILE"),
        ("--mixed {ranking}", "give either --budget-size or --budget-accuracy"),
        ("--mixed {ranking} --budget-size 0.5 --budget-accuracy 1", "give either --budget-size or --budget-accuracy"),
        ("--mixed {ranking} --budget-size little", "'little' is no size; wanted a share such as 0.6 or 60%"),
        ("--mixed {ranking} --budget-size 10", "the budget of 10 bytes cannot be met"),
        ("--mixed {ranking}x --budget-size 0.5", "no file .*closest: 'sensitivity.json'"),
        ("--mixed {given}/images.npz --budget-size 0.5", "cannot read"),
        (
            "--bits steam=W4",
            "--bits 'steam=W4' matches no layer; closest: 'stem'. List them with `onnx-distill inspect --layers`",
        ),
        ("--bits stem=W9", "'stem=W9' cannot be read; wanted NAME=W4A8"),
    ],
)
def test_a_wrong_choice_is_one_clear_line(options, message, given, ranking, tmp_path):  # noqa: F811
    line = f"quantize {given}/logits.onnx --data {given}/images.npz {options} -o {tmp_path}/s.onnx"
    result = onnx_distill(line.format(given=given, ranking=ranking))
    assert result.code == 2 and not (tmp_path / "s.onnx").exists()
    assert re.search(message, result.err), result.err


def test_a_wrong_width_of_the_rest_is_refused(given, tmp_path):  # noqa: F811
    line = f"sensitivity {given}/teacher.onnx --data {given}/images.npz -o {tmp_path}/s.json"
    assert "--rest is 'W8'; wanted bits of weights and activations" in onnx_distill(f"{line} --rest W8").err
    assert "no layer has more bits than W4" in onnx_distill(f"{line} --rest W4A8").err
