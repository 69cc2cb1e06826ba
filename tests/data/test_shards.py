"""Tars of images, alone and several as one set: order, labels, and what is refused by name."""

from __future__ import annotations

import io
import tarfile

import pytest
from test_listing import png, put

from onnx_distill.data.listing import list_folder
from onnx_distill.data.shards import expanded, list_shards, list_tar, shards_at
from onnx_distill.errors import InputError


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


def make_shards(folder, *names: str) -> None:
    """In each of the names two images, of levels 10 * (its number) and one more, whose labels are its number and the next."""
    for number, name in enumerate(names):
        first, second = (png(10 * number + i) for i in (0, 1))
        make_tar(
            folder / name,
            {"b.png": first, "b.cls": f"{number}".encode(), "a.png": second, "a.cls": f"{number + 1}".encode()},
        )


SHARDS = ("train-000.tar", "train-001.tar", "train-002.tar")


def test_tars_of_a_folder_are_one_set_in_the_order_of_their_names(tmp_path):
    make_shards(tmp_path, *SHARDS)
    (tmp_path / "README").write_text("no shard")
    listing = list_shards(tmp_path)
    assert listing.labels.tolist() == [0, 1, 1, 2, 2, 3]
    assert [entry.read() for entry in listing.entries] == [png(level) for level in (0, 1, 10, 11, 20, 21)]
    assert [entry.name for entry in listing.entries][:3] == [
        "train-000.tar/b.png",
        "train-000.tar/a.png",
        "train-001.tar/b.png",
    ]


def test_pattern_names_tars_in_its_order(tmp_path):
    make_shards(tmp_path, *SHARDS)
    listing = list_shards(tmp_path / "train-{002..001}.tar")
    assert listing.labels.tolist() == [2, 3, 1, 2]
    assert list_shards(tmp_path / "train-{000,002}.tar").labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "pattern, names",
    [
        ("a-{8..11}.tar", ["a-8.tar", "a-9.tar", "a-10.tar", "a-11.tar"]),
        ("a-{08..11}.tar", ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]),
        ("{a,b}-{0..1}.tar", ["a-0.tar", "a-1.tar", "b-0.tar", "b-1.tar"]),
        ("{x}.tar", ["{x}.tar"]),
        ("plain.tar", ["plain.tar"]),
    ],
)
def test_braces_are_what_a_shell_makes_of_them(pattern, names):
    assert expanded(pattern) == names


def test_bad_shard_is_named(tmp_path):
    make_shards(tmp_path, *SHARDS)
    with pytest.raises(InputError, match="no file .*train-003.tar; closest: 'train-002.tar'"):
        list_shards(tmp_path / "train-{000..003}.tar")
    make_tar(tmp_path / "train-001.tar", {"1.png": png()})
    with pytest.raises(
        InputError, match="train-000.tar has labels, but .*train-001.tar has none; wanted them in all shards, or in none"
    ):
        list_shards(tmp_path)
    (tmp_path / "train-001.tar").write_bytes((tmp_path / "train-000.tar").read_bytes()[:300])
    with pytest.raises(InputError, match="train-001.tar cannot be read as an uncompressed tar"):
        list_shards(tmp_path)


def test_folder_with_images_is_no_set_of_tars(tmp_path):
    make_shards(tmp_path, "a.tar")
    put(tmp_path, "cat/1.png")
    assert shards_at(tmp_path) == [] and len(list_folder(tmp_path).entries) == 1


def test_range_of_millions_is_refused():
    with pytest.raises(InputError, match=r"\{0..9999999\} names 10,000,000 files; wanted 100,000 at most"):
        expanded("a-{0..9999999}.tar")


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
