"""Every option of every command may stand in a file; what is saved is what was meant, and repeats it."""

from __future__ import annotations

import click
import numpy as np
import pytest
import yaml
from test_cli import onnx_distill
from test_cli_runs import train

from onnx_distill.cli import main
from onnx_distill.cli.configuration import defaults_from, merged
from onnx_distill.errors import InputError

COMMANDS = [name for name in sorted(main.commands) if name != "completion"]
SAMPLES = {  # of our own types; else of click's
    **{"SIZES": "1x8x8", "NAME=VALUE": "keep=1", "SHARE|BYTES": 0.5, "NUMBERS": 0.5},
    **{"auto|float": 0.5, "auto|integer": 3},
}


def root() -> click.Context:
    """A command keeps the help options of the first context that it is given, for the rest of the process."""
    return click.Context(main, **main.context_settings)


def sample(parameter: click.Parameter):
    """A value that the option takes, as a file would hold it."""
    if getattr(parameter, "is_flag", False):
        return True
    kind = parameter.type
    if isinstance(kind, click.Choice):
        return kind.choices[-1]
    value = {"integer": 3, "integer range": 3, "float": 0.5, "float range": 0.5}.get(kind.name, SAMPLES.get(kind.name, "x"))
    return [value] if getattr(parameter, "multiple", False) else value


def context(name: str) -> click.Context:
    return click.Context(main.commands[name], info_name=name)


def parameters(name: str) -> list[click.Parameter]:
    return [p for p in main.commands[name].params if p.name not in ("config", "help")]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_may_stand_in_a_file_under_its_name_on_the_command_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where nothing has the names of the samples
    flags = {p.name: max(p.opts, key=len).lstrip("-") for p in parameters(name)}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({flags[p.name]: sample(p) for p in parameters(name)}))
    found = defaults_from(tmp_path / "c.yaml", context(name))
    assert set(found) == {p.name for p in parameters(name)}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_a_configuration(name):
    assert any("--config" in p.opts for p in main.commands[name].params)


def read(name: str, text: str, tmp_path) -> dict:
    (tmp_path / "c.yaml").write_text(text)
    return defaults_from(tmp_path / "c.yaml", context(name))


def test_the_other_side_of_a_flag_may_stand_in_a_file(tmp_path):
    assert read("quantize", "per-tensor: true\nasymmetric: false", tmp_path) == {"per_channel": False, "symmetric": True}


def test_a_single_value_is_taken_for_an_option_that_may_be_repeated(tmp_path):
    assert read("quantize", "exclude: stem\nmean: 127.5", tmp_path) == {"exclude": ["stem"], "mean": ["127.5"]}


@pytest.mark.parametrize(
    "text, words",
    [
        ("epochs: many", r"has epochs: 'many'; 'many' is not a valid float, nor auto"),
        ("epochs: true", r"has epochs: True; 'True' is not a valid float"),
        ("epochs: [1, 2]", r"has epochs: \[1, 2\]; '1,2' is not a valid float"),
        ("epochs: {a: 1}", r"has epochs: \{'a': 1\}; wanted a value, or a list"),
        ("seed: 1.5", r"has seed: 1.5; '1.5' is not a valid integer"),
        ("flip: maybe", r"has flip: 'maybe'; wanted true or false"),
        ("schedule: steps", r"has schedule: 'steps'; 'steps' is not one of 'constant', 'linear', 'cosine'"),
        ("mean: [1, two]", r"has mean: \[1, 'two'\]; 'two' is no number; wanted one, or one a channel"),
        ("constant: keep", r"'keep' has no name; wanted NAME=VALUE"),
        ("learning-rat: 1", r"has 'learning_rat', no option of this command; closest: 'learning_rate'"),
        ("config: x", r"has 'config', no option of this command"),
        ("weight-bits: 4", r"has 'weight_bits', no option of this command"),  # an option of quantize
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_name(text, words, tmp_path):
    with pytest.raises(InputError, match=rf"c\.yaml .*{words}"):
        read("train", text, tmp_path)


def test_wrong_value_is_one_line_and_exit_code_2(files, tmp_path):
    (tmp_path / "c.yaml").write_text("epochs: many")
    result = onnx_distill(train(files, tmp_path / "run").replace("--epochs 2", f"--config {tmp_path}/c.yaml"))
    assert (result.code, len(result.err.splitlines())) == (2, 1)


def test_what_is_saved_is_read_back_to_the_same_values(tmp_path):
    np.save(tmp_path / "two.npy", np.ones((2, 2)))
    words = "s.onnx --teacher t.onnx --data d.npz -o run --lr 1e-5 --mean 1 --mean 2 --flip --no-preflight --freeze a*"
    words += f" --input-shape 3x8x8 --constant keep=1 --constant two={tmp_path}/two.npy"
    first = main.commands["train"].make_context("train", words.split(), parent=root())
    saved = merged(first)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(saved))
    second = main.commands["train"].make_context("train", ["--config", str(tmp_path / "c.yaml")], parent=root())
    assert merged(second) == saved and saved["lr"] == 1e-5 and saved["constant"] == ["keep=1", f"two={tmp_path}/two.npy"]
    for name, value in first.params.items():
        np.testing.assert_equal(second.params[name], value, name)


def test_configuration_in_a_run_folder_repeats_the_run_to_the_same_bytes(files, tmp_path):
    """As the page says: onnx-distill train --config run/config.yaml, and nothing else. trained.json has the seconds that it took."""
    run, of = tmp_path / "run", lambda run: {p.name: p.read_bytes() for p in run.iterdir() if p.name != "trained.json"}
    assert onnx_distill(train(files, run, "--ema 0.9 --flip")).code == 0
    before = of(run)
    for path in run.iterdir():
        if path.name != "config.yaml":
            path.unlink()
    result = onnx_distill(f"train --config {run}/config.yaml")
    assert result.code == 0, result.err
    assert of(run) == before


def test_configuration_of_a_whole_run_repeats_it(files, tmp_path):
    data = f"--data {files}/set --workers 0 --labels {files}/list.txt --test-data {files}/test.npz"
    options = "--mean 127.5 --scale 0.01 --weight-bits 3 --per-tensor --epochs 2 --batch-size 4 --validation 12 --threads 1"
    assert onnx_distill(f"run {files}/teacher.onnx {data} {options} -o {tmp_path}/run").code == 0
    before = (tmp_path / "run" / "student.int8.onnx").read_bytes()
    result = onnx_distill(f"run --config {tmp_path}/run/config.yaml -o {tmp_path}/again")
    assert result.code == 0, result.err
    assert (tmp_path / "again" / "student.int8.onnx").read_bytes() == before
