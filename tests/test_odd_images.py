"""A folder as people have them: what can be read is read right, what cannot is counted and named, nothing crashes."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import onnx_distill

from onnx_distill.data import Decoding, open_images
from onnx_distill.data.decode import Framing
from onnx_distill.data.decoded import decode_all
from onnx_distill.data.listing import list_folder

LEVEL = 120  # of grey, in every image that can be read
SIDE = 8


def flat(mode: str, level: int = LEVEL) -> Image.Image:
    """An image of one grey, in the mode."""
    if mode == "CMYK":
        return Image.new("CMYK", (SIDE, SIDE), (0, 0, 0, 255 - level))
    if mode == "I;16":
        return Image.fromarray(np.full((SIDE, SIDE), level * 257, np.uint16))
    return Image.new("L", (SIDE, SIDE), level).convert(mode)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def sixteen_bit_colour() -> bytes:
    """PNG of 16 bits a channel in colour, which Pillow reads and does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    header = SIDE.to_bytes(4, "big") * 2 + bytes([16, 2, 0, 0, 0])
    rows = b"".join(b"\0" + bytes([LEVEL]) * 6 * SIDE for _ in range(SIDE))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def bomb() -> bytes:
    """A PNG that says it has 60,000 x 60,000 pixels."""
    content = bytearray(saved(flat("L"), "PNG"))
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    return bytes(content)


FRAMES = dict(save_all=True, append_images=[flat("L", 10)])
GOOD = {
    "grey.png": saved(flat("L"), "PNG"),
    "cmyk.jpg": saved(flat("CMYK"), "JPEG", quality=100),
    "cmyk.tif": saved(flat("CMYK"), "TIFF"),
    "16 bit grey.png": saved(flat("I;16"), "PNG"),
    "16 bit grey.tif": saved(flat("I;16"), "TIFF"),
    "16 bit colour.png": sixteen_bit_colour(),
    "animated.gif": saved(flat("L"), "GIF", **FRAMES),
    "animated.png": saved(flat("L"), "PNG", **FRAMES),
    "animated.webp": saved(flat("RGB"), "WEBP", lossless=True, save_all=True, append_images=[flat("RGB", 10)]),
    "transparent.png": saved(flat("RGBA"), "PNG"),
    "palette.png": saved(flat("P"), "PNG"),
    "misnamed.jpg": saved(flat("RGB"), "PNG"),
    "misnamed.png": saved(flat("RGB"), "JPEG", quality=100),
}
BROKEN = {
    "empty.png": (b"", "the file is empty"),
    "half.jpg": (saved(Image.effect_noise((64, 64), 50), "JPEG")[:800], "truncated"),
    "half.png": (saved(Image.effect_noise((64, 64), 50), "PNG")[:1500], "truncated"),
    "huge.png": (bomb(), "pixels"),
    "page.jpg": (b"<html>404 not found</html>", "not an image of format"),
    "program.png": (b"\x7fELF" + bytes(200), "not an image of format"),
    "vector.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of format"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("odd") / "set"
    for name, content in {**GOOD, **{name: content for name, (content, _) in BROKEN.items()}}.items():
        path = root / ("good" if name in GOOD else "bad") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (root / "good" / "notes.txt").write_text("no image, and not named like one")
    return root


@pytest.fixture(scope="module", params=[0, 2], ids=["in this process", "two workers"])
def decoded(folder, request):
    return decode_all(list_folder(folder), Framing(SIDE, SIDE), request.param)


def test_every_image_that_cannot_be_read_is_named_with_its_reason(decoded):
    found = {Path(name).name: reason for name, reason in decoded.broken}
    assert set(found) == set(BROKEN)
    for name, (_, reason) in BROKEN.items():
        assert reason in found[name], name


def test_every_image_that_can_be_read_is_the_grey_that_it_shows(folder, decoded):
    names = [Path(entry.name).name for entry in list_folder(folder).entries]
    assert {names[row] for row in decoded.rows} == set(GOOD)
    for row in decoded.rows:
        off = np.abs(decoded.pixels[row].astype(int) - LEVEL).max()
        assert off <= 1, f"{names[row]}: off by {off}"  # JPEG and CMYK round


def test_labels_stay_with_their_images(folder):
    images = open_images(folder, shape=(3, SIDE, SIDE), decoding=Decoding(most_broken=0.9))
    assert images.labels.tolist() == [1] * len(GOOD)


def test_command_line_counts_and_names_them(folder, files):
    line = f"quantize {files}/logits.onnx --data {folder} --workers 0 --threads 1 -o {folder}/../s.onnx"
    refused = onnx_distill(line)
    assert refused.code == 2 and f"{len(BROKEN)} of {len(BROKEN) + len(GOOD)} images cannot be read" in refused.err
    accepted = onnx_distill(line + " --max-broken 0.5")
    assert accepted.code == 0, accepted.err
    assert f"skipped {len(BROKEN)} of {len(BROKEN) + len(GOOD)} images" in accepted.err
    assert all(f"skipped bad/{name}: " in accepted.err for name in BROKEN)
