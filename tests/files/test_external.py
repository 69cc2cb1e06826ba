"""Weights in files beside the model are read whole, and from nowhere else."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from onnx_distill import model as models
from onnx_distill.errors import InputError


@pytest.fixture
def folder(tmp_path):
    """A folder, with a file of weights in it and one outside of it."""
    inner = tmp_path / "inner"
    inner.mkdir()
    for place in (inner / "w.bin", tmp_path / "outside.bin"):
        place.write_bytes(np.arange(6, dtype=np.float32).tobytes())
    return inner


def write(folder, shape=(3,), **given):
    """m.onnx in the folder, whose weight lies where `given` says."""
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[n,3] x) => (float[n,3] y) { y = Add(x, w) }'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(TensorProto(name="w", data_type=1, dims=shape, data_location=TensorProto.EXTERNAL))
    for key, value in given.items():
        model.graph.initializer[0].external_data.add(key=key, value=str(value))
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


@pytest.mark.parametrize(
    "given, first",
    [({}, 0), (dict(offset=12), 3), (dict(length=12), 0), (dict(offset=4, length=12), 1), (dict(checksum="ab"), 0)],
)
def test_weights_are_read_at_their_offset(folder, given, first):
    (weight,) = models.load(write(folder, location="w.bin", **given)).graph.initializer
    assert numpy_helper.to_array(weight).tolist() == [first, first + 1, first + 2]
    assert not weight.external_data and weight.data_location == TensorProto.DEFAULT


def test_weights_may_lie_in_a_folder_below(folder):
    (folder / "below").mkdir()
    os.rename(folder / "w.bin", folder / "below" / "w.bin")
    assert models.load(write(folder, location="below/w.bin")).graph.initializer[0].raw_data


@pytest.mark.parametrize(
    "location",
    ["../outside.bin", "below/../../outside.bin", "/etc/hostname", r"..\outside.bin", r"C:\w.bin", "", "w.bin\0", "."],
)
def test_no_path_leaves_the_folder(folder, location):
    with pytest.raises(InputError, match="external data of .*m.onnx cannot be read: 'w' lies in"):
        models.load(write(folder, location=location))


@pytest.mark.parametrize("linked", ["a file", "a folder"])
def test_no_symbolic_link_leaves_the_folder(folder, linked):
    if linked == "a file":
        os.symlink("../outside.bin", folder / "link")
    else:
        os.symlink("..", folder / "link")
    location = "link" if linked == "a file" else "link/outside.bin"
    with pytest.raises(InputError, match="behind a symbolic link"):
        models.load(write(folder, location=location))


def test_the_model_itself_may_be_reached_by_a_link(folder, tmp_path):
    write(folder, location="w.bin")
    os.symlink(folder, tmp_path / "linked")
    assert models.load(tmp_path / "linked" / "m.onnx").graph.initializer[0].raw_data


def test_a_pipe_is_not_waited_for(folder):
    os.mkfifo(folder / "pipe")
    with pytest.raises(InputError, match="no ordinary file"):
        models.load(write(folder, location="pipe"))


@pytest.mark.parametrize(
    "given, why",
    [
        (dict(offset=16), "ends at byte 28 of .*w.bin, which has 24. Is the file truncated"),
        (dict(offset=2**62), "ends at byte"),
        (dict(offset=-4), "offset of 'w' is '-4'"),
        (dict(offset="1e3"), "offset of 'w' is '1e3'"),
        (dict(offset="9" * 5000), "offset of 'w' is '9999"),
        (dict(length=24), "has 24 bytes, wanted 12"),
        (dict(shape=[10**9, 10**9]), "ends at byte 4000000000000000000"),
        (dict(shape=[-3]), r"has the shape \[-3\]"),
        (dict(location="nowhere.bin"), "nowhere.bin: No such file"),
    ],
)
def test_what_the_file_does_not_hold_is_refused(folder, given, why):
    with pytest.raises(InputError, match=f"external data of .*m.onnx cannot be read: .*{why}"):
        models.load(write(folder, **{"location": "w.bin", **given}))


def test_many_weights_in_the_same_bytes_are_refused(folder):
    model = onnx.load(str(write(folder, location="w.bin")), load_external_data=False)
    for number in range(20):
        model.graph.initializer.add().CopyFrom(model.graph.initializer[0])
        model.graph.initializer[-1].name = f"w{number}"
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="252 bytes of weights are said to lie in files of 24 bytes"):
        models.load(folder / "m.onnx")
