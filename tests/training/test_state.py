from __future__ import annotations

import os

import numpy as np
import pytest

from onnx_distill.errors import InputError
from onnx_distill.training.state import State, StateStore, from_bytes, to_bytes


def state(step: int = 3) -> State:
    arrays = {"weights/a b": np.arange(6, dtype=np.float32).reshape(2, 3), "empty": np.zeros(0, np.float32)}
    return State(step, arrays, {"loss": 0.1 + 0.2, "scores": [[0.5, 1 / 3]], "nothing": None})


def test_what_is_written_comes_back_bit_for_bit():
    found, wanted = from_bytes(to_bytes(state())), state()
    assert found.step == 3 and found.facts == wanted.facts and set(found.arrays) == set(wanted.arrays)
    for name, array in wanted.arrays.items():
        assert found.arrays[name].dtype == array.dtype and np.array_equal(found.arrays[name], array)


def test_same_state_is_the_same_bytes():
    assert to_bytes(state()) == to_bytes(state())


def test_every_damaged_byte_and_every_cut_is_noticed():
    whole, rng = to_bytes(state()), np.random.default_rng(0)
    for place in rng.integers(0, len(whole), 200):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        with pytest.raises(ValueError, match="checksum"):
            from_bytes(bytes(damaged))
    for end in (0, 10, 60, 100, len(whole) - 1):
        with pytest.raises(ValueError, match="checksum"):
            from_bytes(whole[:end])


def test_newest_is_found_and_older_ones_are_pruned(tmp_path):
    store = StateStore(tmp_path / "checkpoints", keep=2)
    assert store.newest() is None
    for step in (9, 10, 100):
        store.save(state(step))
    assert sorted(os.listdir(store.folder)) == ["step-00000010.ckpt", "step-00000100.ckpt"]
    assert store.newest().step == 100


def test_the_one_before_a_damaged_one_is_used_and_told(tmp_path):
    told: list[str] = []
    store = StateStore(tmp_path, on_damaged=told.append)
    store.save(state(1))
    store.save(state(2))
    (tmp_path / "step-00000002.ckpt").write_bytes(b"half")
    assert store.newest().step == 1 and "step-00000002.ckpt is damaged" in told[0]


def test_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot make"):
        StateStore(tmp_path / "file" / "checkpoints").save(state())
