"""Images from a Python program: what is accepted, that it is the same as an array, what is refused; calibration and training with it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnx_distill import pipeline
from onnx_distill.config import DistillConfig, QuantizeConfig, TrainConfig
from onnx_distill.data import ArrayImages, Preprocess, images_from
from onnx_distill.errors import InputError
from onnx_distill.ready.distillation import distill

PIXELS = np.random.default_rng(0).normal(size=(40, 1, 4, 4)).astype(np.float32)
LABELS = np.random.default_rng(1).integers(0, 3, 40)


class Reader:
    """What onnxruntime.quantization.CalibrationDataReader asks for."""

    def __init__(self, size: int = 8, name: str = "image"):
        self.batches = iter({name: PIXELS[i : i + size]} for i in range(0, len(PIXELS), size))

    def get_next(self):
        return next(self.batches, None)


SOURCES = {
    "array": lambda: PIXELS,
    "list of images": lambda: list(PIXELS),
    "generator of batches": lambda: (PIXELS[i : i + 7] for i in range(0, 40, 7)),
    "dicts": lambda: [{"image": PIXELS[:30]}, {"image": PIXELS[30:]}],
    "reader": Reader,
    "float64": lambda: iter(PIXELS.astype(np.float64)),
    "nested lists": lambda: PIXELS.tolist(),
}


@pytest.mark.parametrize("source", list(SOURCES.values()), ids=list(SOURCES))
def test_every_kind_of_source_gives_the_same_images(source):
    images = images_from(source())
    assert len(images) == 40 and images.labels is None
    order = np.array([39, 0, 17])
    np.testing.assert_array_equal(images.read(order), PIXELS[order])
    assert images.read(order).dtype == np.float32


LABELLED = {
    "tuples of batches": lambda: [(PIXELS[:25], LABELS[:25]), (PIXELS[25:], LABELS[25:])],
    "tuples of images": lambda: zip(PIXELS, LABELS),
    "dicts": lambda: [{"image": PIXELS, "labels": LABELS}],
    "column of labels": lambda: [(PIXELS, LABELS[:, None])],
}


@pytest.mark.parametrize("source", list(LABELLED.values()), ids=list(LABELLED))
def test_labels_come_with_the_images(source):
    images = images_from(source())
    np.testing.assert_array_equal(images.labels, LABELS)


def test_labels_given_apart_and_preprocessing_are_those_of_arrays():
    stored = np.random.default_rng(2).integers(0, 256, (10, 5, 4, 3), np.uint8)
    preprocess, labels = Preprocess(mean=(1, 2, 3), scale=0.5, label_offset=1), np.arange(10)
    wanted, found = ArrayImages(stored, labels, preprocess), images_from(iter(stored), labels, preprocess)
    np.testing.assert_array_equal(found.read(np.arange(10)), wanted.read(np.arange(10)))
    np.testing.assert_array_equal(found.labels, wanted.labels)


def test_grey_images_without_channels_are_images():
    assert images_from(iter(PIXELS[:, 0])).read(np.arange(2)).shape == (2, 1, 4, 4)


def test_images_come_back_as_they_are():
    images = ArrayImages(PIXELS[:, 0])
    assert images_from(images) is images


def test_endless_source_is_cut_off_at_count():
    images = images_from(itertools.cycle([PIXELS[:16]]), count=40)
    assert len(images) == 40
    np.testing.assert_array_equal(images.read(np.arange(32, 40)), PIXELS[:8])


def test_subsets_of_kept_images_are_images(tmp_path):
    part = images_from(zip(PIXELS, LABELS)).subset(np.array([3, 1]))
    np.testing.assert_array_equal(part.read(np.array([0])), PIXELS[3:4])
    assert part.labels.tolist() == LABELS[[3, 1]].tolist()


REFUSED = {
    "no iterable": (5, "the images are a int; wanted an array, an iterable of arrays, or an object with get_next"),
    "empty": ([], "the images are empty; .* used up before"),
    "text": (["a.png"], "item 0 of the images is a str of type <U5; wanted integers or floats"),
    "object": ([np.zeros((4, 4)), None], "item 1 of the images is a NoneType of type object"),
    "ragged": ([[[1, 2], [3]]], "item 0 of the images is a list of type object"),
    "complex": ([np.zeros((4, 4), complex)], "of type complex128; wanted integers or floats"),
    "one axis": ([np.zeros(16)], r"item 0 of the images has shape \[16\]; wanted an image of two or three axes"),
    "five axes": ([np.zeros((1, 1, 1, 4, 4))], "wanted an image of two or three axes, or a batch of four"),
    "empty batch": ([np.zeros((0, 1, 4, 4))], "not empty"),
    "another size": (
        [PIXELS, np.zeros((2, 1, 5, 4), np.float32)],
        r"image 40 has shape \[1, 5, 4\], those before it \[1, 4, 4\]",
    ),
    "another type": (
        [PIXELS, PIXELS.astype(np.uint8)],
        "image 40 has type uint8, those before it float32; wanted all alike",
    ),
    "labels missing": ([(PIXELS, LABELS), PIXELS], "image 40 has labels False, those before it True"),
    "too few labels": ([(PIXELS, LABELS[:3])], "has 40 images and 3 labels; wanted one label an image"),
    "labels no numbers": ([(PIXELS, ["a"] * 40)], "labels are of type <U1; wanted whole numbers"),
    "several inputs": (
        [{"a": PIXELS, "b": PIXELS}],
        "item 0 of the images has values for 'a', 'b'; wanted the images alone",
    ),
    "not finite": ([np.full((4, 4), np.nan)], "item 0 of the images has values that are not finite"),
}


@pytest.mark.parametrize("source, words", list(REFUSED.values()), ids=list(REFUSED))
def test_what_is_no_image_is_refused_in_one_line(source, words):
    with pytest.raises(InputError, match=words):
        images_from(source)


def test_labels_given_twice_are_refused():
    with pytest.raises(InputError, match="labels come with the images and are given too"):
        images_from(zip(PIXELS, LABELS), LABELS)


def test_label_beyond_the_model_s_classes_is_refused():
    with pytest.raises(InputError, match="outside 0..1, the model's 2 classes"):
        images_from(zip(PIXELS, LABELS), classes=2)


# ---- with the library


def bytes_of(model) -> bytes:
    return model.SerializeToString(deterministic=True)


def test_reader_calibrates_as_the_array_does(tiny_float):
    config = QuantizeConfig(weight_bits=4)
    one, two = (
        bytes_of(pipeline.quantize_with_images(tiny_float, s, config, 32)) for s in (ArrayImages(PIXELS[:, 0]), Reader())
    )
    assert one == two


def test_generator_trains_as_the_array_does(tiny_float, tiny_student):
    config, loss = TrainConfig(epochs=2, batch_size=8, threads=1), DistillConfig()
    sources = ArrayImages(PIXELS[:, 0], LABELS), ((p, label) for p, label in zip(PIXELS, LABELS))
    one, two = (distill(tiny_student(), tiny_float, source, 8, loss, config) for source in sources)
    assert one.scores == two.scores and bytes_of(one.best.student) == bytes_of(two.best.student)


def test_images_of_another_size_than_the_model_s_are_refused(tiny_float):
    with pytest.raises(InputError, match="5, 5"):
        pipeline.quantize_with_images(tiny_float, [np.zeros((1, 5, 5), np.float32)] * 4, QuantizeConfig())
