from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from onnx_distill.data.listing import list_file, list_folder
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
    assert listing.class_names == {0: "ant", 1: "cat", 2: "dog"}
    assert [entry.name for entry in listing.entries] == ["ant/1.JPG", "cat/deep/1.png", "dog/a.png", "dog/b.jpg"]
    assert listing.labels.tolist() == [0, 1, 2, 2]


def test_folders_without_images_and_those_of_macos_are_no_classes(tmp_path):
    put(tmp_path, "a/1.png", "c/1.png", "__MACOSX/a/1.png")
    (tmp_path / "b").mkdir()
    listing = list_folder(tmp_path)
    assert listing.labels.tolist() == [0, 1] and listing.class_names == {0: "a", 1: "c"} and listing.empty == ("b",)


def test_folders_named_by_numbers_are_those_numbers(tmp_path):
    put(tmp_path, "10/1.png", "2/1.png", "0/1.png")
    listing = list_folder(tmp_path)
    assert listing.labels.tolist() == [0, 10, 2] and listing.class_names == {0: "0", 10: "10", 2: "2"}


def test_folders_where_one_name_is_no_number_are_numbered_in_their_order(tmp_path):
    put(tmp_path, "10/1.png", "2/1.png", "x/1.png")
    assert list_folder(tmp_path).labels.tolist() == [0, 1, 2]


def test_folders_are_numbered_as_their_names_are_elsewhere(tmp_path):
    put(tmp_path, "Dog/1.png", "cat/1.png")
    made = list_folder(tmp_path).numbered_as({0: "bird", 3: "cat", 5: "dog "}, "train")
    assert made.labels.tolist() == [5, 3] and made.class_names == {5: "Dog", 3: "cat"}
    with pytest.raises(InputError, match="folder 'Dog' is no class of train; wanted a folder for each, of the same names"):
        list_folder(tmp_path).numbered_as({0: "cow", 1: "cat"}, "train")


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
