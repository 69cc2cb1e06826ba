"""One image file becomes uint8 pixels of the size that a model wants."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from onnx_distill.errors import InputError, first_line

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")  # by content, whatever the name; no vector formats
MOST_PIXELS = 178_956_970  # Pillow's own line between large and a decompression bomb
FITS = ("crop", "stretch")
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, MemoryError, OverflowError, IndexError, KeyError, TypeError)


class BrokenImage(Exception):
    """The image cannot be decoded; the message says why."""


@dataclass(frozen=True)
class Framing:
    """Which part of an image a model sees, and how; checked when made (InputError)."""

    height: int  # pixels of the result
    width: int
    channels: int = 3  # 3: colour, 1: grey
    crop_fraction: float = 1.0  # central share of each side that is kept; 0.875 for most ImageNet models
    fit: str = "crop"  # crop: the aspect is kept, what hangs over is cut off (torchvision); stretch: it is not (TF-slim)

    def __post_init__(self):
        if self.channels not in (1, 3):
            raise InputError(f"the model wants {self.channels} channels; image files give 3, or 1 for grey. Use arrays.")
        if min(self.height, self.width) < 1:
            raise InputError(f"the image size is {self.height}x{self.width}; wanted at least 1x1.")
        if not 0 < self.crop_fraction <= 1:
            raise InputError(f"crop_fraction is {self.crop_fraction}; wanted above 0 and at most 1.")
        if self.fit not in FITS:
            raise InputError(f"fit is {self.fit!r}; wanted {' | '.join(FITS)}.")


def decode(content: bytes, framing: Framing) -> np.ndarray:
    """uint8 [height, width, channels] of an image file's bytes: its first frame, EXIF orientation not applied (as torchvision
    and TensorFlow read them), 16 bits scaled to 8, resized by an antialiased bilinear filter. Raises BrokenImage."""
    if not content:
        raise BrokenImage("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF and large sizes; the latter are refused below
            return _pixels(content, framing)
    except Image.DecompressionBombError:
        raise BrokenImage(f"more than {MOST_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise BrokenImage(f"not an image of format {', '.join(FORMATS)}") from None
    except UNREADABLE as error:
        raise BrokenImage(first_line(error)[:80]) from None


def _pixels(content: bytes, framing: Framing) -> np.ndarray:
    with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
        if opened.width * opened.height > MOST_PIXELS:
            raise BrokenImage(f"{opened.width}x{opened.height} is more than {MOST_PIXELS:,} pixels")
        box = _box(opened.width, opened.height, framing)
        image = _eight_bit(opened).convert("L" if framing.channels == 1 else "RGB")
        image = image.resize((framing.width, framing.height), Image.Resampling.BILINEAR, box=box)
    return np.asarray(image).reshape(framing.height, framing.width, framing.channels)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Pillow clips 16-bit grey to 8 bits, which leaves white paper; wanted is its upper byte."""
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise BrokenImage(f"grey values of {values.min()} to {values.max()}; wanted 8 or 16 bits")
        return Image.fromarray((values // 257).astype(np.uint8))
    if image.mode == "F":
        raise BrokenImage("float pixels, whose range nobody knows")
    return image


def _box(width: int, height: int, framing: Framing) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the central part that is kept."""
    keep_w, keep_h = float(width), float(height)
    if framing.fit == "crop":
        zoom = min(width / framing.width, height / framing.height)
        keep_w, keep_h = framing.width * zoom, framing.height * zoom
    keep_w, keep_h = keep_w * framing.crop_fraction, keep_h * framing.crop_fraction
    left, top = (width - keep_w) / 2, (height - keep_h) / 2
    return left, top, left + keep_w, top + keep_h
