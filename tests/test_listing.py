from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from onnx_distill.data.listing import list_file, list_folder, list_tar
from onnx_distill.errors import InputError


def png(level: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), level, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def put(root, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png())


def test_folder_per_class_numbers_classes_by_name(tmp_path):
    put(tmp_path, "dog/b.jpg", "dog/a.png", "cat/deep/1.png", "cat/.hidden.png", "ant/1.JPG")
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    listing = list_folder(tmp_path)
    assert listing.class_names == ("ant", "cat", "dog")
    assert [entry.name for entry in listing.entries] == ["ant/1.JPG", "cat/deep/1.png", "dog/a.png", "dog/b.jpg"]
    assert listing.labels.tolist() == [0, 1, 2, 2]


def test_class_without_images_keeps_its_number(tmp_path):
    put(tmp_path, "a/1.png", "c/1.png")
    (tmp_path / "b").mkdir()
    assert list_folder(tmp_path).labels.tolist() == [0, 2]


def test_flat_folder_has_no_labels(tmp_path):
    put(tmp_path, "2.png", "1.png")
    listing = list_folder(tmp_path)
    assert [entry.name for entry in listing.entries] == ["1.png", "2.png"] and listing.labels is None


def test_images_both_in_a_folder_and_below_it_are_refused(tmp_path):
    put(tmp_path, "1.png", "cat/1.png")
    with pytest.raises(InputError, match="1 images in it and 1 in subfolders"):
        list_folder(tmp_path)


def test_folder_without_images_is_refused(tmp_path):
    with pytest.raises(InputError, match="no images in"):
        list_folder(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match="no folder .*imags; closest: 'images'"):
        list_folder(tmp_path / "imags")


def test_list_file_gives_names_and_labels_in_its_order(tmp_path):
    put(tmp_path, "b.png", "a b.png")
    (tmp_path / "list.txt").write_text("# the seed's layout\nb.png 3\n\na b.png 1\ntabbed.png\t2\n")
    listing = list_file(tmp_path, tmp_path / "list.txt")
    assert [entry.name for entry in listing.entries] == ["b.png", "a b.png", "tabbed.png"]
    assert listing.labels.tolist() == [3, 1, 2]


@pytest.mark.parametrize(
    "text, words",
    [
        ("a.png\n", "line 1 is 'a.png'"),
        ("a.png x\n", "line 1"),
        ("../a.png 1\n", "outside"),
        ("/a.png 1\n", "outside"),
        ("\n", "lists no"),
    ],
)
def test_bad_lines_of_a_list_file_are_named(tmp_path, text, words):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(InputError, match=words):
        list_file(tmp_path, tmp_path / "list.txt")


def make_tar(path, members: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_tar_is_read_in_its_order(tmp_path):
    make_tar(tmp_path / "t.tar", {"9.png": png(9), "9.cls": b"1\n", "9.json": b"{}", "1.png": png(1), "1.cls": b"0"})
    listing = list_tar(tmp_path / "t.tar")
    assert listing.labels.tolist() == [1, 0]
    assert [entry.read() for entry in listing.entries] == [png(9), png(1)]


@pytest.mark.parametrize(
    "members, words",
    [
        ({"1.png": b"", "1.cls": b"0", "2.png": b""}, "none for '2.png'"),
        ({"a.txt": b""}, "no images"),
        ({"1.png": b"", "1.cls": b"x"}, "1.cls"),
    ],
    ids=["a label missing", "no images", "label no number"],
)
def test_bad_tars_are_refused(tmp_path, members, words):
    make_tar(tmp_path / "t.tar", members)
    with pytest.raises(InputError, match=words):
        list_tar(tmp_path / "t.tar")


@pytest.mark.parametrize("mode", ["w:gz", "truncated", "text"])
def test_what_is_no_plain_tar_is_refused(tmp_path, mode):
    path = tmp_path / "t.tar"
    make_tar(path, {"1.png": png()}, mode if mode == "w:gz" else "w")
    if mode != "w:gz":
        path.write_bytes(path.read_bytes()[:300] if mode == "truncated" else b"hello")
    with pytest.raises(InputError, match="cannot be read as an uncompressed tar"):
        list_tar(path)
