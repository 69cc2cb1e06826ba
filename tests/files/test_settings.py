from __future__ import annotations

import pytest

from onnx_distill.errors import InputError
from onnx_distill.files.settings import read_settings, write_settings

KNOWN = ["epochs", "batch_size", "flip", "exclude", "lr", "optimizer"]
VALUES = {"epochs": 1.5, "batch_size": 64, "flip": True, "exclude": ["a/*", "b: c"], "lr": 1e-5, "optimizer": "sgd"}
FORMS = {
    "c.yaml": "epochs: 1.5\nbatch-size: 64\nflip: true\nexclude: ['a/*', 'b: c']\nlr: 1.0e-5\noptimizer: sgd\n",
    "c.toml": 'epochs = 1.5\nbatch-size = 64\nflip = true\nexclude = ["a/*", "b: c"]\nlr = 1e-5\noptimizer = "sgd"\n',
    "c.json": '{"epochs": 1.5, "batch_size": 64, "flip": true, "exclude": ["a/*", "b: c"], "lr": 1.0e-5, "optimizer": "sgd"}',
}


@pytest.mark.parametrize("name", FORMS)
def test_each_form_is_read(tmp_path, name):
    (tmp_path / name).write_text(FORMS[name])
    assert read_settings(tmp_path / name, KNOWN) == VALUES


def test_what_is_written_is_read_back(tmp_path):
    write_settings(tmp_path / "c.yaml", {**VALUES, "exclude": tuple(VALUES["exclude"])}, "onnx-distill train")
    assert (tmp_path / "c.yaml").read_text().startswith("# onnx-distill train\n")
    assert read_settings(tmp_path / "c.yaml", KNOWN) == VALUES


def test_empty_values_are_left_out(tmp_path):
    write_settings(tmp_path / "c.yaml", {"epochs": None, "lr": 1.0})
    assert read_settings(tmp_path / "c.yaml", KNOWN) == {"lr": 1.0}


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("c.yaml", "epoch: 1", "has 'epoch', no option of this command; closest: 'epochs'"),
        ("c.yaml", "- 1", "holds list"),
        ("c.yaml", "", "holds NoneType"),
        ("c.yaml", "a: [1\nb: 2", "line 2 is not YAML"),
        ("c.toml", "a = ", "is not TOML"),
        ("c.yaml", "a: !!python/object/apply:os.system [ls]", "is not YAML: could not determine a constructor"),
    ],
    ids=["unknown", "a list", "empty", "bad yaml", "bad toml", "code"],
)
def test_bad_files_are_one_line(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        read_settings(tmp_path / name, KNOWN)


def test_missing_file_names_the_closest(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(InputError, match="no file .*confg.yaml; closest: 'config.yaml'"):
        read_settings(tmp_path / "confg.yaml", KNOWN)
