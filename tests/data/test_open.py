from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from onnx_distill.data import Decoding, Preprocess, is_collection, open_images
from onnx_distill.data.preprocess import PRESETS
from onnx_distill.errors import InputError

SHAPE = (3, 6, 5)


@pytest.fixture
def folder(tmp_path):
    """Two classes of images of one level each: cat 10 and 20, dog 30."""
    for name, level in (("cat/1.png", 10), ("cat/2.png", 20), ("dog/1.png", 30)):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), (level, 0, 1), np.uint8)).save(tmp_path / "set" / name)
    return tmp_path / "set"


def test_folder_is_read_preprocessed_with_labels_and_their_offset(folder):
    images = open_images(folder, preprocess=Preprocess(mean=10.0, scale=0.5, label_offset=1), classes=3, shape=SHAPE)
    pixels = images.read(np.arange(3))
    assert pixels.shape == (3, *SHAPE) and pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels[:, 0, 0, 0], [0, 5, 10])
    assert images.labels.tolist() == [1, 1, 2]


def test_bgr_swaps_channels_before_the_mean(folder):
    images = open_images(folder, preprocess=Preprocess(mean=(1.0, 2.0, 3.0), order="BGR"), shape=SHAPE)
    np.testing.assert_array_equal(images.read(np.array([2]))[0, :, 0, 0], [0, -2, 27])


def test_list_file_beside_a_folder(folder, tmp_path):
    (tmp_path / "list.txt").write_text("dog/1.png 7\ncat/1.png 5\n")
    images = open_images(folder, tmp_path / "list.txt", shape=SHAPE)
    assert images.labels.tolist() == [7, 5] and images.read(np.arange(2))[:, 0, 0, 0].tolist() == [30, 10]


def test_tar_is_a_collection_of_images(folder, tmp_path):
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(folder / "dog/1.png", "a.png")
    images = open_images(tmp_path / "t.tar", shape=SHAPE)
    assert images.labels is None and images.read(np.arange(1))[0, 0, 0, 0] == 30
    with pytest.raises(InputError, match="leave out --labels"):
        open_images(tmp_path / "t.tar", tmp_path / "list.txt", shape=SHAPE)


def web_dataset(path, count: int) -> None:
    """Members in WebDataset's way, keys in no order: image, class and facts of one sample together."""
    with tarfile.open(path, "w") as tar:
        for number in np.random.default_rng(0).permutation(count):
            buffer = io.BytesIO()
            Image.fromarray(np.full((2, 2), number, np.uint8)).save(buffer, "PNG")
            sample = {"png": buffer.getvalue(), "cls": str(number % 7).encode(), "json": b"{}"}
            for suffix, content in sample.items():
                info = tarfile.TarInfo(f"train/{number:06}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("workers", [0, 2])
def test_tar_of_webdataset_is_read_in_its_order_on_any_number_of_workers(tmp_path, workers):
    web_dataset(tmp_path / "t.tar", 100)
    images = open_images(tmp_path / "t.tar", shape=(1, 2, 2), decoding=Decoding(workers))
    order = np.random.default_rng(0).permutation(100)
    assert images.read(np.arange(100))[:, 0, 0, 0].tolist() == order.tolist()
    assert images.labels.tolist() == (order % 7).tolist()


def test_shards_are_one_set_from_a_folder_and_from_a_pattern(tmp_path):
    for number in range(3):
        web_dataset(tmp_path / f"s-{number}.tar", 10 + number)
    order = np.concatenate([np.random.default_rng(0).permutation(10 + number) for number in range(3)])
    for path in (tmp_path, tmp_path / "s-{0..2}.tar"):
        images = open_images(path, shape=(1, 2, 2), decoding=Decoding(2))
        assert images.read(np.arange(33))[:, 0, 0, 0].tolist() == order.tolist()
        assert images.labels.tolist() == (order % 7).tolist() and images.name(10).startswith("s-1.tar/train/")
        with pytest.raises(InputError, match="leave out --labels"):
            open_images(path, tmp_path / "list.txt", shape=SHAPE)


def test_tar_is_known_by_its_content(tmp_path):
    web_dataset(tmp_path / "shard", 3)
    assert is_collection(tmp_path / "shard") and is_collection(tmp_path)
    (tmp_path / "t.npy").write_bytes(b"\x93NUMPY")
    assert not is_collection(tmp_path / "t.npy") and not is_collection(tmp_path / "nothing.tar")


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_impossible_share_of_broken_images_is_refused(share):
    with pytest.raises(InputError, match="wanted 0 to 1: --max-broken"):
        Decoding(most_broken=share)


def test_broken_images_are_left_out_with_their_labels_and_told(folder):
    (folder / "cat" / "1.png").write_bytes(b"")
    told = []
    images = open_images(folder, shape=SHAPE, decoding=Decoding(most_broken=0.5, on_decoded=told.append))
    assert images.labels.tolist() == [0, 1] and images.read(np.arange(2))[:, 0, 0, 0].tolist() == [20, 30]
    assert told[0].broken == (("cat/1.png", "the file is empty"),)
    with pytest.raises(InputError, match="1 of 3 images cannot be read"):
        open_images(folder, shape=SHAPE)


@pytest.mark.parametrize("shape", [None, (3, "h", "w"), (10,)], ids=["none", "free", "flat"])
def test_files_need_the_size_that_the_model_wants(folder, shape):
    with pytest.raises(InputError, match="wanted fixed sizes: --input-shape"):
        open_images(folder, shape=shape)


def test_presets_are_what_their_frameworks_do():
    grey = np.full((1, 3, 2, 2), 127.5)
    torchvision = (0.5 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(Preprocess(**PRESETS["imagenet"]).apply(grey)[0, :, 0, 0], torchvision, rtol=1e-5)
    ends = Preprocess(**PRESETS["mobilenet"]).apply(np.array([0, 255], np.uint8).reshape(1, 1, 1, 2))
    np.testing.assert_allclose(ends.ravel(), [-1, 1])
