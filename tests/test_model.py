"""model.py: files in and out, whole or not at all, and checked."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnx_distill import model as models
from onnx_distill.errors import InputError
from onnx_distill.lookup import array, initializers
from onnx_distill.runtime import open_session


def make_model(seed: int = 0) -> onnx.ModelProto:
    """A small classifier with 1,100 weights."""
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 13]>
        net (float[N, 100] x) => (float[N, 11] prob) {
            logits = MatMul(x, w)
            prob = Softmax(logits)
        }"""
    )
    weights = np.random.default_rng(seed).standard_normal((100, 11)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    model.metadata_props.add(key="made by", value="a test")
    return model


def save_external(model: onnx.ModelProto, path, location: str) -> None:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    onnx.save_model(copy, str(path), save_as_external_data=True, location=location, size_threshold=0)


def test_load_gives_back_what_save_wrote(tmp_path):
    models.save(make_model(), tmp_path / "m.onnx")
    assert models.load(tmp_path / "m.onnx") == make_model()
    assert os.listdir(tmp_path) == ["m.onnx"]


def test_load_of_a_modelproto_is_a_copy():
    original = make_model()
    loaded = models.load(original)
    loaded.graph.node[0].name = "changed"
    assert original == make_model()


def test_save_writes_the_same_bytes_each_time(tmp_path):
    for name in ("a", "b"):
        models.save(make_model(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_load_reads_external_data_bit_exact(tmp_path):
    save_external(make_model(), tmp_path / "m.onnx", "m.data")
    weights = initializers(models.load(tmp_path / "m.onnx"))["w"]
    assert array(weights).tobytes() == array(make_model().graph.initializer[0]).tobytes()
    assert not weights.external_data


def test_model_larger_than_protobuf_allows_goes_into_two_files_and_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "LARGEST_PROTO", 1000)  # bytes, instead of 2 GiB
    models.save(make_model(), tmp_path / "m.onnx")
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "m.onnx.data"]
    x = np.ones((2, 100), np.float32)
    (moved,) = open_session(str(tmp_path / "m.onnx"), threads=1).run(None, {"x": x})
    (whole,) = open_session(make_model(), threads=1).run(None, {"x": x})
    assert moved.tobytes() == whole.tobytes()
    assert models.load(tmp_path / "m.onnx").graph.initializer[0].raw_data == make_model().graph.initializer[0].raw_data


def test_save_in_two_files_leaves_the_given_model_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "LARGEST_PROTO", 1000)
    model = make_model()
    models.save(model, tmp_path / "m.onnx")
    assert model == make_model()


@pytest.mark.parametrize("location", ["../secret.data", "/etc/hostname", "a/../../secret.data"])
def test_external_data_outside_the_folder_is_refused(tmp_path, location):
    folder = tmp_path / "inner"
    folder.mkdir()
    save_external(make_model(), folder / "m.onnx", "m.data")
    os.rename(folder / "m.data", tmp_path / "secret.data")
    model = onnx.load(str(folder / "m.onnx"), load_external_data=False)
    next(entry for entry in model.graph.initializer[0].external_data if entry.key == "location").value = location
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="external data of .* cannot be read"):
        models.load(folder / "m.onnx")


def test_missing_external_data_is_refused(tmp_path):
    save_external(make_model(), tmp_path / "m.onnx", "m.data")
    os.remove(tmp_path / "m.data")
    with pytest.raises(InputError, match="external data of .* cannot be read"):
        models.load(tmp_path / "m.onnx")


def test_truncated_external_data_is_refused(tmp_path):
    save_external(make_model(), tmp_path / "m.onnx", "m.data")
    os.truncate(tmp_path / "m.data", 1000)
    with pytest.raises(InputError, match="m.onnx"):
        models.load(tmp_path / "m.onnx")


def test_missing_file_names_the_closest_ones(tmp_path):
    models.save(make_model(), tmp_path / "teacher.onnx")
    with pytest.raises(InputError, match="no file .*techer.onnx; closest: 'teacher.onnx'"):
        models.load(tmp_path / "techer.onnx")


def test_missing_folder_is_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="no file .*nowhere"):
        models.load(tmp_path / "nowhere" / "m.onnx")


@pytest.mark.parametrize(
    "content", [b"", b"hello, world\n", b"\x89PNG\r\n\x1a\n" * 50, b"\x00" * 64], ids=["empty", "text", "png", "zeros"]
)
def test_file_that_is_not_onnx_is_refused(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(InputError, match="m.onnx is not"):
        models.load(tmp_path / "m.onnx")


def test_every_truncation_is_refused(tmp_path):
    model = make_model()
    del model.metadata_props[:]  # comes last in the file; to lose it whole is not to be seen
    whole, path = model.SerializeToString(), tmp_path / "m.onnx"
    ends = {int(end) for end in np.linspace(0, len(whole) - 1, 50)} | set(range(len(whole) - 120, len(whole)))
    for end in sorted(ends):
        path.write_bytes(whole[:end])
        with pytest.raises(InputError, match="truncated|not a valid ONNX model"):
            models.load(path)


def test_damaged_bytes_are_refused_or_harmless(tmp_path):
    whole, path, rng = make_model().SerializeToString(), tmp_path / "m.onnx", np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for place in [*rng.integers(0, 100, 2), *rng.integers(len(whole) - 100, len(whole), 2)]:  # around the weights
            damaged[place] = rng.integers(256)
        path.write_bytes(bytes(damaged))
        try:
            models.load(path)
        except InputError:
            refused += 1
    assert refused > 200


def test_model_with_a_value_that_nothing_makes_is_refused():
    model = make_model()
    model.graph.node[1].input[0] = "nowhere"
    with pytest.raises(InputError, match="the given ModelProto is not a valid ONNX model: .*nowhere"):
        models.load(model)


def test_saving_into_a_folder_that_does_not_exist_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot write .*nowhere.*No such file"):
        models.save(make_model(), tmp_path / "nowhere" / "m.onnx")


def test_saving_over_a_folder_is_an_input_error_and_leaves_nothing(tmp_path):
    (tmp_path / "m.onnx").mkdir()
    with pytest.raises(InputError, match="cannot write .*m.onnx"):
        models.save(make_model(), tmp_path / "m.onnx")
    assert os.listdir(tmp_path) == ["m.onnx"]


def test_checker_error_without_words_is_still_one_line(monkeypatch):
    def wordless(*_):
        raise onnx.checker.ValidationError("")

    monkeypatch.setattr(onnx.checker, "check_model", wordless)  # onnx 1.23 does it for some damaged files, not at will
    with pytest.raises(InputError, match="not a valid ONNX model: ValidationError"):
        models.load(make_model())


def test_nodes_of_one_name_are_told_apart_and_the_first_keeps_it():
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) { [n] a = Relu(x) [n] b = Neg(a) [n_1] y = Abs(b) }'
    )
    assert [node.name for node in models.load(model).graph.node] == ["n", "n_2", "n_1"]
    assert [node.name for node in model.graph.node] == ["n", "n", "n_1"]
