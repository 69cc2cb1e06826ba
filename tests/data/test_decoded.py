from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from onnx_distill.data.decode import Framing
from onnx_distill.data.decoded import decode_all, refuse_broken
from onnx_distill.data.listing import list_folder
from onnx_distill.errors import InputError

FRAMING = Framing(6, 5)


@pytest.fixture
def folder(tmp_path):
    root, rng = tmp_path / "images", np.random.default_rng(0)
    root.mkdir()
    for number in range(70):
        Image.fromarray(rng.integers(0, 255, (9, 8, 3), np.uint8)).save(root / f"{number:03}.png")
    (root / "005.png").write_bytes(b"")
    (root / "069.png").write_text("no image")
    return root


def test_result_does_not_depend_on_the_number_of_workers(folder):
    alone, together = (decode_all(list_folder(folder), FRAMING, workers) for workers in (0, 2))
    np.testing.assert_array_equal(alone.pixels, together.pixels)
    assert alone.broken == together.broken


def test_broken_images_are_named_and_their_rows_left_out(folder):
    decoded = decode_all(list_folder(folder), FRAMING)
    assert [name for name, _ in decoded.broken] == ["005.png", "069.png"]
    assert decoded.pixels.shape == (70, 6, 5, 3) and len(decoded.rows) == 68 and not {5, 69} & set(decoded.rows)


def test_too_many_broken_images_stop_and_are_named(folder):
    decoded = decode_all(list_folder(folder), FRAMING)
    refuse_broken(decoded, 0.05)
    with pytest.raises(
        InputError, match=r"2 of 70 images cannot be read \(005.png: the file is empty; 069.png: .*allowed are 1.0%"
    ):
        refuse_broken(decoded, 0.01)


def test_missing_file_is_a_broken_image(folder):
    listing = list_folder(folder)
    (folder / "010.png").unlink()
    assert ("010.png", "No such file or directory") in decode_all(listing, FRAMING).broken


def test_temporary_array_leaves_no_file(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    decode_all(list_folder(folder), FRAMING)
    assert os.listdir(tmp_path / "tmp") == []


def test_cache_is_used_again_until_a_file_changes(folder, tmp_path):
    cache, seen = tmp_path / "cache", []
    first = decode_all(list_folder(folder), FRAMING, cache=cache)
    again = decode_all(list_folder(folder), FRAMING, cache=cache, on_progress=lambda *progress: seen.append(progress))
    np.testing.assert_array_equal(first.pixels, again.pixels)
    assert not seen and first.broken == again.broken
    Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save(folder / "000.png")
    changed = decode_all(list_folder(folder), FRAMING, cache=cache, on_progress=lambda *progress: seen.append(progress))
    assert seen[-1] == (70, 70) and not changed.pixels[0].any()


def test_array_larger_than_the_disk_is_refused_before_it_is_made(folder, tmp_path):
    with pytest.raises(InputError, match="need .* GB, .* choose another with --cache"):
        decode_all(list_folder(folder), Framing(1_000_000, 1_000_000), cache=tmp_path)
    assert not list(tmp_path.glob("*.npy"))
