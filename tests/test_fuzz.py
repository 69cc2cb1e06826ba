"""A slice of scripts/fuzz.py: damaged files end in one line or a right answer; and the fuzzer sees planted faults."""

from __future__ import annotations

import os
from pathlib import Path

import fuzz
import numpy as np
import onnx
import pytest


def test_two_hundred_damaged_files_are_refused_in_one_line_or_answered_rightly(tmp_path, capsys):
    counts = fuzz.fuzz(200, 20, tmp_path)
    assert set(counts) <= {"right", "refused"}, capsys.readouterr().out
    assert sum(counts.values()) == 200 and counts["right"] >= 5


@pytest.mark.parametrize("name", fuzz.NETS)
def test_every_net_is_sound_before_it_is_damaged(name, tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(fuzz._net(fuzz.NETS[name]), str(path))
    kind, text = fuzz.outcome(path)
    assert kind == "right" or (name, kind) == ("subgraphs", "refused"), text


def test_damage_is_the_same_for_the_same_seed_and_differs_between_seeds():
    base = fuzz._net(fuzz.NETS["convolutions"])
    files = [fuzz.damaged(base, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize("damage", dict.fromkeys(fuzz.DAMAGE), ids=lambda damage: damage.__name__)
def test_every_kind_of_damage_changes_the_model(damage):
    base = fuzz._net(fuzz.NETS["convolutions"])
    changed = 0
    for seed in range(10):
        made = onnx.ModelProto.FromString(base.SerializeToString())
        damage(made, np.random.default_rng(seed))
        changed += made.SerializeToString() != base.SerializeToString()
    assert changed >= 3


# --- planted faults: a worker that dies, one that hangs, an error that is no InputError, a wrong answer


def planted(code: str, tmp_path: Path, monkeypatch) -> tuple[str, str]:
    """What a worker says of a file when `code` runs in place of the whole way."""
    script = tmp_path / "worker.py"
    script.write_text(
        f"import sys\nsys.path[:0] = {[str(Path(fuzz.__file__).parent)]}\nimport fuzz\ndef whole_way(path):\n    {code}\nfuzz.whole_way = whole_way\nfuzz.work()\n"
    )
    monkeypatch.setattr(fuzz, "__file__", str(script))
    worker = fuzz.Worker()
    try:
        return worker.take(tmp_path / "model.onnx")
    finally:
        worker.stop()


def test_worker_that_dies_is_a_crash(tmp_path, monkeypatch):
    kind, text = planted("import os; os.kill(os.getpid(), 11)", tmp_path, monkeypatch)
    assert kind == "crash" and "-11" in text


def test_worker_that_takes_too_long_is_a_hang(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "SECONDS", 1)
    assert planted("import time; time.sleep(30)", tmp_path, monkeypatch)[0] == "hang"


def test_worker_that_takes_too_much_memory_is_an_error(tmp_path, monkeypatch):
    kind, text = planted("bytearray(1 << 40)", tmp_path, monkeypatch)
    assert kind == "error" and "MemoryError" in text


def test_foreign_error_is_an_error_with_its_place(tmp_path, monkeypatch):
    kind, text = planted("raise KeyError('x')", tmp_path, monkeypatch)
    assert kind == "error" and "KeyError: 'x'" in text and "worker.py:5" in text


def test_wrong_answer_is_told(tmp_path, monkeypatch):
    assert planted("raise AssertionError('off by 3')", tmp_path, monkeypatch) == ("wrong", "off by 3")


def test_outcome_of_a_file_that_is_none(tmp_path):
    assert fuzz.outcome(tmp_path / "nothing.onnx")[0] == "refused"
    assert fuzz.outcome(Path(os.devnull))[0] == "refused"
