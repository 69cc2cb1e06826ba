from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from onnx_distill.data.decode import BrokenImage, Framing, decode
from onnx_distill.errors import InputError

RAMP = np.add.outer(np.arange(16) * 8, np.arange(24) * 4).astype(np.uint8)  # [16, 24], 0..212
NOISE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
COLOUR = np.stack([RAMP, 255 - RAMP, np.full_like(RAMP, 7)], axis=-1)


def file_of(pixels: np.ndarray, kind: str = "PNG", mode: str | None = None, **options) -> bytes:
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def same_size(channels: int = 3, **options) -> Framing:
    return Framing(16, 24, channels, **options)


def test_lossless_file_of_the_right_size_is_decoded_exactly():
    np.testing.assert_array_equal(decode(file_of(COLOUR), same_size()), COLOUR)


def test_grey_file_has_three_equal_channels_and_colour_file_one_of_luminance():
    np.testing.assert_array_equal(decode(file_of(RAMP), same_size()), np.repeat(RAMP[:, :, None], 3, axis=2))
    luminance = COLOUR.astype(float) @ (0.299, 0.587, 0.114)  # ITU-R 601
    assert np.abs(decode(file_of(COLOUR), same_size(1))[:, :, 0] - luminance).max() <= 1


def test_sixteen_bit_grey_is_scaled_not_clipped():
    np.testing.assert_array_equal(decode(file_of(RAMP.astype(np.uint16) * 257), same_size(1))[:, :, 0], RAMP)


@pytest.mark.parametrize("mode", ["CMYK", "RGBA", "LA", "P", "1", "YCbCr"])
def test_every_mode_becomes_colour(mode):
    kind = {"CMYK": "TIFF", "YCbCr": "TIFF"}.get(mode, "PNG")
    assert decode(file_of(COLOUR, kind, mode), same_size()).shape == (16, 24, 3)


def test_animation_gives_its_first_frame():
    frames = [Image.fromarray(np.full((16, 24), level, np.uint8)) for level in (10, 200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert (decode(buffer.getvalue(), same_size(1)) == 10).all()


def test_crop_keeps_the_centre_and_the_aspect():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    assert (decode(file_of(wide), Framing(10, 10)) == 255).all()
    assert (decode(file_of(wide.transpose(1, 0, 2).copy()), Framing(10, 10)) == 255).all()


def test_crop_fraction_keeps_the_central_share_of_each_side():
    framed = np.zeros((16, 16, 3), np.uint8)
    framed[1:-1, 1:-1] = 255  # the seed's 0.875 of 16 leaves one pixel out at each edge
    assert (decode(file_of(framed), Framing(14, 14, crop_fraction=0.875)) == 255).all()


def test_stretch_keeps_everything():
    halves = np.zeros((10, 30), np.uint8)
    halves[:, 15:] = 255
    stretched = decode(file_of(halves), Framing(10, 10, 1, fit="stretch"))[0, :, 0]
    assert stretched[:4].max() == 0 and stretched[-4:].min() == 255


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "empty"),
        (b"hello, world", "not an image of format JPEG"),
        (file_of(NOISE)[:5000], "truncated"),
        (file_of(NOISE, "JPEG")[:1500], "truncated"),
        (file_of(RAMP.astype(np.float32), "TIFF"), "float pixels"),
    ],
    ids=["empty", "text", "half a png", "half a jpeg", "float"],
)
def test_what_cannot_be_decoded_says_why(content, reason):
    with pytest.raises(BrokenImage, match=reason):
        decode(content, same_size())


def test_huge_image_is_refused_by_its_header():
    bomb = bytearray(file_of(RAMP))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height in the IHDR chunk
    bomb[29:33] = __import__("zlib").crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    with pytest.raises(BrokenImage, match="pixels"):
        decode(bytes(bomb), same_size())


def test_damaged_bytes_give_pixels_or_a_reason():
    rng, whole = np.random.default_rng(0), file_of(COLOUR, "JPEG")
    for _ in range(300):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 4):
            damaged[place] = rng.integers(256)
        try:
            assert decode(bytes(damaged), same_size()).shape == (16, 24, 3)
        except BrokenImage as error:
            assert str(error)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"channels": 2}, "2 channels"),
        ({"crop_fraction": 0}, "crop_fraction is 0"),
        ({"fit": "pad"}, "fit is 'pad'"),
        ({"height": 0}, "0x24"),
    ],
)
def test_impossible_framings_are_refused(wrong, words):
    with pytest.raises(InputError, match=words):
        Framing(**{"height": 16, "width": 24, **wrong})
