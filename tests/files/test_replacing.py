"""A file appears whole, with ordinary permissions, or not at all."""

from __future__ import annotations

import errno
import os

import pytest

from onnx_distill.errors import InputError
from onnx_distill.files.replacing import replacing


def test_replacing_puts_the_file_in_place_only_at_the_end(tmp_path):
    target = tmp_path / "out"
    with replacing(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new" and os.listdir(tmp_path) == ["out"]


def test_replacing_gives_the_permissions_of_an_ordinary_file(tmp_path):
    (tmp_path / "ordinary").write_text("")
    with replacing(tmp_path / "out"):
        pass
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("error", [RuntimeError("planted"), KeyboardInterrupt("planted")], ids=["error", "ctrl-c"])
def test_failure_inside_replacing_keeps_the_old_file_and_leaves_nothing(tmp_path, error):
    target = tmp_path / "out"
    target.write_text("old")
    with pytest.raises(type(error), match="planted"), replacing(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["out"]


def test_full_disk_inside_replacing_is_an_input_error_and_leaves_nothing(tmp_path):
    complaint = "cannot write .*out: No space left on device. Free space"
    with pytest.raises(InputError, match=complaint), replacing(tmp_path / "out") as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert os.listdir(tmp_path) == []
