"""Images from arrays and IDX files; preprocessing, splits, batches, augmentation; and the script that brings the data."""

import gzip
import hashlib
import importlib.util
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, parser

from onnx_distill.data import ArrayImages, Augment, Preprocess, batches, open_images, split
from onnx_distill.errors import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 4, 5), np.uint8)
LABELS = np.arange(12) % 10
IDX_CODES = {"u1": 8, "i1": 9, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx(array, kind="u1"):
    array = np.asarray(array)
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, IDX_CODES[kind], array.ndim]) + sizes + array.astype(f">{kind}").tobytes()


def write(path, content):
    path.write_bytes(content)
    return path


def everything(images):
    return images.read(np.arange(len(images)))


def model_saying(metadata):
    model = parser.parse_model('<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) { y = Relu(x) }')
    if metadata is not None:
        helper.set_model_props(model, {"onnx_distill.preprocess": metadata})
    return model


# --- preprocessing


def test_apply_is_pixel_minus_mean_times_scale_per_channel():
    pixels = np.random.default_rng(1).integers(0, 256, (2, 3, 4, 5), np.uint8)
    before = pixels.copy()
    found = Preprocess(mean=(1, 2, 3), scale=(0.5, 0.25, 0.125)).apply(pixels)
    mean, scale = np.float32([1, 2, 3]).reshape(3, 1, 1), np.float32([0.5, 0.25, 0.125]).reshape(3, 1, 1)
    np.testing.assert_array_equal(found, (pixels.astype(np.float32) - mean) * scale)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "bool"])
def test_apply_takes_any_number_and_leaves_it_unchanged(dtype):
    pixels = np.ones((2, 4, 4), dtype)
    np.testing.assert_array_equal(Preprocess(mean=0.5, scale=4.0).apply(pixels), np.full((2, 1, 4, 4), 2, np.float32))
    np.testing.assert_array_equal(pixels, np.ones((2, 4, 4), dtype))


@pytest.mark.parametrize("layout", ["NHWC", "auto"])
def test_nhwc_and_nchw_of_the_same_images_give_the_same(layout):
    nchw = np.random.default_rng(2).integers(0, 256, (2, 3, 6, 5), np.uint8)
    nhwc = nchw.transpose(0, 2, 3, 1)
    preprocess = Preprocess(mean=(1, 2, 3), scale=(2,))
    np.testing.assert_array_equal(preprocess.replace(layout=layout).apply(nhwc), preprocess.apply(nchw))
    assert preprocess.replace(layout=layout).apply(nhwc).flags.c_contiguous


def test_grey_images_of_rank_three_get_one_channel():
    np.testing.assert_array_equal(Preprocess().apply(PIXELS), PIXELS[:, None].astype(np.float32))


def test_preprocess_of_a_model_is_its_metadata():
    model = model_saying('{"mean": [72.9], "scale": [0.011], "layout": "NCHW", "label_offset": 1}')
    assert Preprocess.of(model) == Preprocess(mean=(72.9,), scale=(0.011,), label_offset=1)


def test_preprocess_of_a_model_that_says_nothing_is_the_default():
    assert Preprocess.of(model_saying(None)) == Preprocess()


def test_replace_keeps_what_is_none_and_takes_what_is_zero():
    start = Preprocess(mean=(3.0,), scale=(2.0,), label_offset=1)
    assert start.replace(mean=None, scale=(4.0,), label_offset=0) == Preprocess(mean=(3.0,), scale=(4.0,), label_offset=0)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("{mean", "is not JSON.*wanted a JSON object"),
        ("[1, 2]", "wanted a JSON object"),
        ('{"std": [1]}', "wanted a JSON object with any of mean, scale"),
        ('{"mean": ["a"]}', "mean is .*wanted a number"),
        ('{"layout": "NHWC"}', "asks for layout 'NHWC'; only NCHW"),
        ('{"label_offset": 0.5}', "label_offset is 0.5; wanted a whole number"),
    ],
    ids=["not-json", "not-an-object", "unknown-key", "mean-of-text", "nhwc-model", "half-offset"],
)
def test_bad_metadata_is_an_error(metadata, message):
    with pytest.raises(InputError, match=message):
        Preprocess.of(model_saying(metadata))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": (0.0,)}, "scale is 0"),
        ({"mean": (float("nan"),)}, "wanted a finite number"),
        ({"mean": ()}, "wanted a finite number"),
        ({"mean": (1, 2, 3), "scale": (1, 2)}, "3 means and 2 scales"),
        ({"layout": "CHWN"}, "layout 'CHWN' is unknown; wanted one of auto, NCHW"),
    ],
    ids=["zero-scale", "nan-mean", "no-mean", "counts-differ", "layout"],
)
def test_bad_preprocessing_is_an_error(fields, message):
    with pytest.raises(InputError, match=message):
        Preprocess(**fields)


@pytest.mark.parametrize(
    ("shape", "fields", "message"),
    [
        ((2, 3, 9, 3), {}, "may be NCHW or NHWC; say which with --layout"),
        ((2, 7, 9, 9), {}, "may be NCHW or NHWC"),
        ((2, 9), {}, r"shape \[2, 9\]; wanted \[n, height, width\]"),
        ((2, 9, 9), {"layout": "NCHW"}, "cannot have layout NCHW"),
        ((2, 1, 9, 9), {"mean": (1, 2, 3)}, "given for 3 channels;.*have 1"),
    ],
    ids=["both", "neither", "flat", "rank", "channels"],
)
def test_arrays_that_cannot_be_these_images_are_an_error(shape, fields, message):
    with pytest.raises(InputError, match=message):
        ArrayImages(np.zeros(shape, np.uint8), preprocess=Preprocess(**fields))


# --- files


def test_npz_npy_idx_and_gzipped_idx_of_the_same_arrays_give_the_same(tmp_path):
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=LABELS)
    np.savez_compressed(tmp_path / "b.npz", x=PIXELS, y=LABELS)
    np.savez(tmp_path / "c.npz", PIXELS)
    np.save(tmp_path / "d.npy", PIXELS)
    np.save(tmp_path / "labels.npy", LABELS)
    write(tmp_path / "e.idx", idx(PIXELS))
    write(tmp_path / "f.gz", gzip.compress(idx(PIXELS)))
    for name in "a.npz", "b.npz", "c.npz", "d.npy", "e.idx", "f.gz":
        labels = None if name in ("a.npz", "b.npz") else tmp_path / "labels.npy"
        images = open_images(tmp_path / name, labels, Preprocess(label_offset=1), classes=11)
        np.testing.assert_array_equal(everything(images), PIXELS[:, None].astype(np.float32), err_msg=name)
        np.testing.assert_array_equal(images.labels, LABELS + 1, err_msg=name)
        assert images.labels.dtype == np.int64


def test_what_a_file_is_is_told_by_its_content(tmp_path):
    np.save(tmp_path / "a.npy", PIXELS)
    wrong_name = (tmp_path / "a.npy").rename(tmp_path / "a.gz")
    np.testing.assert_array_equal(everything(open_images(wrong_name))[:, 0], PIXELS)


@pytest.mark.parametrize("kind", list(IDX_CODES))
def test_idx_of_every_type_is_read(tmp_path, kind):
    values = np.arange(24).reshape(2, 3, 4)
    images = open_images(write(tmp_path / "a", idx(values, kind)))
    assert images.pixels.dtype == np.dtype(kind)
    np.testing.assert_array_equal(everything(images)[:, 0], values)


def test_npy_is_memory_mapped_and_uint8_stays_uint8(tmp_path):
    np.save(tmp_path / "a.npy", PIXELS)
    images = open_images(tmp_path / "a.npy").subset(np.arange(3))
    assert isinstance(images.pixels, np.memmap)
    assert images.pixels.dtype == np.uint8
    assert type(everything(images)) is np.ndarray


@pytest.mark.parametrize("form", ["npy", "npz", "idx", "idx.gz", "txt"])
def test_labels_are_read_from_every_form(tmp_path, form):
    np.save(tmp_path / "images.npy", PIXELS)
    path = tmp_path / f"labels.{form}"
    if form == "npy":
        np.save(path, LABELS.astype(np.uint8)[:, None])
    elif form == "npz":
        np.savez(path, labels=LABELS)
    elif form == "txt":
        path.write_text("\n".join(map(str, LABELS)) + "\n\n")
    else:
        write(path, gzip.compress(idx(LABELS)) if form == "idx.gz" else idx(LABELS))
    np.testing.assert_array_equal(open_images(tmp_path / "images.npy", path).labels, LABELS)


def test_labels_given_go_before_those_in_the_file(tmp_path):
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=LABELS)
    np.save(tmp_path / "other.npy", LABELS[::-1])
    np.testing.assert_array_equal(open_images(tmp_path / "a.npz", tmp_path / "other.npy").labels, LABELS[::-1])


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_labels_beside_the_images_are_used(tmp_path, suffix):
    pack = gzip.compress if suffix else bytes
    images = write(tmp_path / f"t10k-images-idx3-ubyte{suffix}", pack(idx(PIXELS)))
    assert open_images(images).labels is None
    write(tmp_path / f"t10k-labels-idx1-ubyte{suffix}", pack(idx(LABELS)))
    np.testing.assert_array_equal(open_images(images).labels, LABELS)


def test_images_without_labels_have_none(tmp_path):
    np.save(tmp_path / "a.npy", PIXELS)
    images = open_images(tmp_path / "a.npy")
    assert images.labels is None
    assert images.subset(np.arange(2)).labels is None
    assert next(batches(images, 3)).labels is None


def damaged(folder):
    """Name of a case -> (file, what the error says)."""
    np.save(folder / "whole.npy", PIXELS)
    np.savez(folder / "whole.npz", images=PIXELS)
    np.savez(folder / "two.npz", x_train=PIXELS, x_test=PIXELS)
    np.savez(folder / "object.npz", images=np.array([{"a": 1}], object), allow_pickle=True)
    np.save(folder / "object.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.save(folder / "text.npy", np.array([[["a"]]]))
    np.save(folder / "none.npy", PIXELS[:0])
    (folder / "folder").mkdir()
    npy, npz, raw = (folder / "whole.npy").read_bytes(), (folder / "whole.npz").read_bytes(), idx(PIXELS)
    return {
        "missing": (folder / "whole.npu", r"no file .*whole.npu; closest: '\w+.np[yz]'"),
        "missing-folder": (folder / "nowhere" / "a.npy", "no file"),
        "folder": (folder / "folder", "no images in .*folder"),
        "empty": (write(folder / "e", b""), "is empty"),
        "png": (write(folder / "p", b"\x89PNG\r\n"), "starts with bytes 89 50 4e 47; wanted an .npz, .npy or IDX file"),
        "cut-npy": (write(folder / "n", npy[:-1]), "cannot be read, or is truncated"),
        "cut-npz": (write(folder / "z", npz[:-30]), "cannot be read, or is truncated"),
        "cut-idx": (write(folder / "i", raw[:-1]), "promises 240 bytes; it holds 239"),
        "long-idx": (write(folder / "l", raw + b"1"), "promises 240 bytes; it holds 241"),
        "cut-idx-header": (write(folder / "h", raw[:9]), "ends within the sizes of its 3 dimensions"),
        "cut-gzip": (write(folder / "g", gzip.compress(raw)[:-9]), "truncated or damaged gzip"),
        "idx-type": (write(folder / "t", b"\0\0\x07\x03" + raw[4:]), "starts with bytes 00 00 07 03; IDX wants"),
        "gzip-of-text": (write(folder / "x", gzip.compress(b"hello")), "starts with bytes 68 65 6c 6c; IDX wants"),
        "object-npy": (folder / "object.npy", "cannot be read.*[Oo]bject"),
        "object-npz": (folder / "object.npz", "cannot be read.*allow_pickle|wanted one array"),
        "which-array": (folder / "two.npz", "holds 'x_train', 'x_test'; wanted one array named 'images' or 'x'"),
        "text-array": (folder / "text.npy", "of type <U1; wanted integers or floats"),
        "no-images": (folder / "none.npy", "there are no images"),
    }


def test_a_damaged_or_wrong_file_is_an_error_of_one_line(tmp_path):
    for case, (path, message) in damaged(tmp_path).items():
        with pytest.raises(InputError, match=message) as caught:
            open_images(path)
        assert "\n" not in str(caught.value), case


@pytest.mark.parametrize("form", ["npy", "npz", "idx", "gz"])
def test_a_file_with_random_damage_is_read_or_is_an_error(tmp_path, form):
    rng, path = np.random.default_rng(3), tmp_path / f"a.{form}"
    np.save(path, PIXELS) if form == "npy" else np.savez_compressed(path, images=PIXELS)
    whole = {"idx": idx(PIXELS), "gz": gzip.compress(idx(PIXELS))}.get(form) or path.read_bytes()
    for _ in range(150):
        content = bytearray(whole[: rng.integers(1, len(whole) + 1)] if rng.random() < 0.3 else whole)
        for position in rng.integers(0, min(len(content), 160), rng.integers(0, 4)):
            content[position] = rng.integers(0, 256)
        write(tmp_path / "b", bytes(content))
        try:
            open_images(tmp_path / "b")
        except InputError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("labels", "offset", "message"),
    [
        (LABELS[:5], 0, "5 labels for 12 images"),
        (LABELS, 2, r"label 11 at index 9 with offset 2 is outside 0\.\.10.*run from 0 to 9.*--label-offset"),
        (LABELS, -1, r"label -1 at index 0 with offset -1 is outside 0\.\.10"),
        (LABELS + 0.5, 0, "of type float64; wanted whole numbers"),
        (np.eye(12), 0, "one class number an image"),
    ],
    ids=["count", "too-large", "negative", "fractions", "one-hot"],
)
def test_labels_that_do_not_fit_are_an_error(labels, offset, message):
    with pytest.raises(InputError, match=message):
        ArrayImages(PIXELS, labels, Preprocess(label_offset=offset), classes=11)


def test_a_negative_label_is_an_error_even_when_classes_are_unknown():
    with pytest.raises(InputError, match="label -1 at index 0 with offset -1 is outside 0 and up"):
        ArrayImages(PIXELS, LABELS, Preprocess(label_offset=-1))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"1\ntwo\n3\n", "line 2 is 'two'; wanted one whole number"), (b"\xff\xfe1", "is not .npy, .npz, IDX or text")],
    ids=["word", "binary"],
)
def test_text_labels_that_are_not_numbers_are_an_error(tmp_path, content, message):
    np.save(tmp_path / "a.npy", PIXELS)
    with pytest.raises(InputError, match=message):
        open_images(tmp_path / "a.npy", write(tmp_path / "labels.txt", content))


# --- subsets, splits, batches


def test_a_subset_of_a_subset_reads_the_right_images():
    images = ArrayImages(PIXELS, LABELS, Preprocess(label_offset=1)).subset(np.array([7, 3, 5, 1])).subset(np.array([2, 0]))
    np.testing.assert_array_equal(everything(images)[:, 0], PIXELS[[5, 7]])
    np.testing.assert_array_equal(images.labels, LABELS[[5, 7]] + 1)


def test_fill_is_what_a_pixel_of_zero_becomes():
    images = ArrayImages(np.zeros((2, 6, 6, 3), np.uint8), preprocess=Preprocess(mean=(1, 2, 3), scale=(2,)))
    np.testing.assert_array_equal(images.fill, [-2, -4, -6])
    np.testing.assert_array_equal(images.fill, everything(images)[0, :, 0, 0])


def test_split_is_disjoint_whole_random_and_repeatable():
    images = ArrayImages(np.arange(100, dtype=np.uint8).reshape(100, 1, 1), np.arange(100))
    rest, held_out = split(images, 20, seed=0)
    assert (len(rest), len(held_out)) == (80, 20)
    assert sorted([*rest.labels, *held_out.labels]) == list(range(100))
    np.testing.assert_array_equal(everything(held_out).ravel(), held_out.labels)
    np.testing.assert_array_equal(split(images, 20, seed=0)[1].labels, held_out.labels)
    assert set(split(images, 20, seed=1)[1].labels) != set(held_out.labels)


@pytest.mark.parametrize("count", [0, 12, 13, -1])
def test_split_that_leaves_a_side_empty_is_an_error(count):
    with pytest.raises(InputError, match="cannot hold out .* of 12 images; wanted 1 to 11"):
        split(ArrayImages(PIXELS), count, seed=0)


def test_batches_together_are_the_images_in_order():
    order = np.random.default_rng(4).permutation(12)
    found = list(batches(ArrayImages(PIXELS, LABELS), 5, order))
    assert [len(batch.images) for batch in found] == [5, 5, 2]
    np.testing.assert_array_equal(np.concatenate([batch.images for batch in found])[:, 0], PIXELS[order])
    np.testing.assert_array_equal(np.concatenate([batch.labels for batch in found]), LABELS[order])


def test_drop_last_leaves_only_whole_batches():
    images = ArrayImages(PIXELS)
    assert [len(batch.images) for batch in batches(images, 5, drop_last=True)] == [5, 5]
    assert [len(batch.images) for batch in batches(images, 4, drop_last=True)] == [4, 4, 4]
    assert list(batches(images, 13, drop_last=True)) == []


def test_a_batch_size_below_one_is_an_error_at_once():
    with pytest.raises(InputError, match="batch size is 0; wanted 1 or more"):
        batches(ArrayImages(PIXELS), 0)


# --- augmentation


def shifted(image, down, right, fill):
    """The reference: one image [c, h, w] moved, pixel by pixel."""
    _, h, w = image.shape
    moved = np.empty_like(image)
    for y, x in np.ndindex(h, w):
        inside = 0 <= y - down < h and 0 <= x - right < w
        moved[:, y, x] = image[:, y - down, x - right] if inside else fill
    return moved


def test_augment_off_gives_the_images_themselves():
    images = np.ones((2, 1, 3, 3), np.float32)
    assert Augment()(images, np.random.default_rng(0), 0.0) is images


def test_every_augmented_image_is_one_of_the_flips_and_shifts_and_all_of_them_come():
    image = np.random.default_rng(5).random((2, 4, 5), dtype=np.float32)
    fill = np.float32([-1, -2])
    expected = {
        shifted(side, down, right, fill).tobytes()
        for side in (image, image[:, :, ::-1])
        for down in (-1, 0, 1)
        for right in (-1, 0, 1)
    }
    images = np.repeat(image[None], 400, axis=0)
    before = images.copy()
    found = Augment(flip=True, shift=1)(images, np.random.default_rng(0), fill)
    assert {one.tobytes() for one in found} == expected
    np.testing.assert_array_equal(images, before)


def test_flip_mirrors_about_half_of_the_images():
    images = np.repeat(np.arange(3, dtype=np.float32).reshape(1, 1, 1, 3), 1000, axis=0)
    mirrored = Augment(flip=True)(images, np.random.default_rng(0))[:, 0, 0, 0] == 2
    assert 420 < mirrored.sum() < 580  # five standard deviations of a fair coin


def test_augment_repeats_with_the_same_seed():
    images = np.random.default_rng(6).random((8, 1, 6, 6), dtype=np.float32)
    augment = Augment(flip=True, shift=2)
    first, again = (augment(images, np.random.default_rng(7), 0.0) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.flags.c_contiguous
    assert first.dtype == np.float32


def test_augment_of_a_batch_takes_under_two_milliseconds():
    images = np.random.default_rng(8).random((64, 1, 28, 28), dtype=np.float32)
    augment, rng, seconds = Augment(flip=True, shift=2), np.random.default_rng(0), []
    for _ in range(50):
        start = time.perf_counter()
        augment(images, rng, 0.0)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.002


@pytest.mark.parametrize("shift", [-1, 0.5, True])
def test_a_shift_that_is_no_count_of_pixels_is_an_error(shift):
    with pytest.raises(InputError, match="wanted a whole number of pixels"):
        Augment(shift=shift)


# --- scripts/get_data.py


def get_data():
    path = Path(__file__).parents[2] / "scripts" / "get_data.py"
    spec = importlib.util.spec_from_file_location("get_data", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_get_data_takes_each_file_from_the_first_source_that_has_it_right(tmp_path):
    script, wanted = get_data(), {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a", "b", "c")}
    for source, files in {"to": {"a": "a"}, "one": {"b": "b", "c": "damaged"}, "two": {"c": "c"}}.items():
        (tmp_path / source).mkdir()
        for name, content in files.items():
            (tmp_path / source / name).write_text(content)
    old = (tmp_path / "to" / "a").stat().st_mtime_ns
    failures = script.bring(
        tmp_path / "to", wanted, {name: script.from_folder(tmp_path / name) for name in ("none", "one", "two")}
    )
    assert {p.name: p.read_text() for p in (tmp_path / "to").iterdir()} == {"a": "a", "b": "b", "c": "c"}
    assert (tmp_path / "to" / "a").stat().st_mtime_ns == old
    assert failures[0] == "none: has no b"
    assert failures[1].startswith("one: c has sha256")


def test_get_data_says_what_is_missing_when_no_source_has_it(tmp_path):
    script = get_data()
    assert script.bring(tmp_path / "to", {"a": "0"}, {"there": script.from_folder(tmp_path)}) == ["there: has no a"]
    assert script.missing(tmp_path / "to", {"a": "0"}) == ["a"]


# --- as a reader sees them


@pytest.mark.parametrize("layout, shape", [("NHW", (2, 3, 4)), ("NHWC", (2, 3, 4, 3)), ("NCHW", (2, 3, 5, 4))])
def test_picture_is_what_is_stored_whatever_its_layout(layout, shape):
    stored = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    images = ArrayImages(
        stored, preprocess=Preprocess(mean=50.0, scale=0.1, layout=layout, order="BGR" if len(shape) > 3 else "RGB")
    )
    wanted = {"NHW": lambda x: x[..., None], "NHWC": lambda x: x, "NCHW": lambda x: x.transpose(1, 2, 0)}[layout](stored[1])
    np.testing.assert_array_equal(images.picture(1), wanted)


def test_picture_of_floats_goes_from_black_to_white():
    images = ArrayImages(np.array([[[-1.0, 0.0], [0.5, 1.0]]], np.float32))
    assert images.picture(0)[..., 0].tolist() == [[0, 128], [191, 255]]


def test_an_image_keeps_its_name_in_a_subset():
    images = ArrayImages(np.zeros((3, 2, 2), np.uint8), names=["a", "b", "c"]).subset(np.array([2, 0]))
    assert [images.name(i) for i in range(2)] == ["c", "a"]
    assert ArrayImages(np.zeros((3, 2, 2), np.uint8)).subset(np.array([2])).name(0) == "image 2"
