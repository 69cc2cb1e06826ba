"""From stored pixels to what the model was trained on: x = (pixel - mean) * scale, as float32 [n, channels, height, width]."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass

import numpy as np
import onnx

from onnx_distill.data.decode import Framing
from onnx_distill.errors import InputError

METADATA_KEY = "onnx_distill.preprocess"  # in a model's metadata_props
LAYOUTS = ("auto", "NCHW", "NHWC", "NHW")
ORDERS = ("RGB", "BGR")
STORED = ("mean", "scale", "layout", "order", "crop_fraction", "fit", "label_offset")  # what files and metadata may say
CHANNEL_COUNTS = (1, 3, 4)  # grey, RGB, RGBA: what 'auto' takes for channels


@dataclass(frozen=True)
class Preprocess:
    """What is done to stored pixels and labels; checked when made (InputError)."""

    mean: tuple[float, ...] = (0.0,)  # pixel units; one for all channels, or one per channel
    scale: tuple[float, ...] = (1.0,)  # 1 / standard deviation, per pixel unit; one for all channels, or one per channel
    layout: str = "auto"  # of the stored arrays; auto: rank 3 is NHW, rank 4 by where 1, 3 or 4 channels stand
    order: str = (
        "RGB"  # of the channels that the model wants; files and arrays hold RGB. BGR: trained on OpenCV's or Caffe's images
    )
    crop_fraction: float = 1.0  # of image files: central share of each side that is kept; 0.875 for most ImageNet models
    fit: str = (
        "crop"  # of image files: crop keeps the aspect and cuts what hangs over (torchvision), stretch does not (TF-slim)
    )
    label_offset: int = 0  # added to every stored label; 1 for models with a background class at 0

    def __post_init__(self):
        object.__setattr__(self, "mean", _numbers("mean", self.mean))
        object.__setattr__(self, "scale", _numbers("scale", self.scale))
        if 0.0 in self.scale:
            raise InputError(
                "scale is 0, which would make every image the same; wanted 1 / standard deviation of the pixels."
            )
        if len({len(self.mean), len(self.scale)} - {1}) > 1:
            raise InputError(
                f"{len(self.mean)} means and {len(self.scale)} scales; wanted one, or one per channel, of each."
            )
        if self.layout not in LAYOUTS:
            raise InputError(f"layout {self.layout!r} is unknown; wanted one of {', '.join(LAYOUTS)}.")
        if self.order not in ORDERS:
            raise InputError(f"order {self.order!r} is unknown; wanted one of {', '.join(ORDERS)}.")
        Framing(1, 1, crop_fraction=self.crop_fraction, fit=self.fit)
        if isinstance(self.label_offset, bool) or not isinstance(self.label_offset, int):
            raise InputError(f"label_offset is {self.label_offset!r}; wanted a whole number.")

    @classmethod
    def of(cls, *models: onnx.ModelProto) -> Preprocess:
        """What the metadata of the first model that has some says under `onnx_distill.preprocess`, or the defaults where none does.

        The metadata is JSON: {"mean": [72.9], "scale": [0.011], "layout": "NCHW", "label_offset": 1}. Its layout is the
        one the model wants, not that of stored arrays. Raises InputError for bad metadata and models that want not NCHW.
        """
        said = (entry.value for model in models for entry in model.metadata_props if entry.key == METADATA_KEY)
        stored = next(said, None)
        if stored is None:
            return cls()
        values = _parse(stored)
        layout = values.pop("layout", "NCHW")
        if layout != "NCHW":
            raise InputError(
                f"the model's {METADATA_KEY} metadata asks for layout {layout!r}; only NCHW models are supported."
            )
        return cls(**values)

    def as_metadata(self) -> str:
        """What `of` reads; of stored arrays the layout is their own matter."""
        return json.dumps({name: getattr(self, name) for name in STORED if name != "layout"})

    def __str__(self) -> str:
        channels = lambda numbers: " ".join(f"{number:.5g}" for number in numbers)  # noqa: E731
        parts = [f"x = (pixel - {channels(self.mean)}) * {channels(self.scale)}", self.order]
        parts += [f"central {self.crop_fraction:g} of each side"] if self.crop_fraction != 1 else []
        parts += [f"labels + {self.label_offset}"] if self.label_offset else []
        return ", ".join(parts)

    def replace(self, **given) -> Preprocess:
        """The same with the fields given changed; None keeps a field."""
        return dataclasses.replace(self, **{name: value for name, value in given.items() if value is not None})

    def layout_of(self, shape: tuple[int, ...]) -> str:
        """NCHW, NHWC or NHW: how arrays of this shape are read. Raises InputError where they cannot be, or it is not clear."""
        layout = _guess(shape) if self.layout == "auto" else self.layout
        if len(layout) != len(shape):
            raise InputError(f"images of shape {list(shape)} cannot have layout {layout}; give another --layout.")
        channels = 1 if layout == "NHW" else shape[layout.index("C")]
        wanted = max(len(self.mean), len(self.scale))
        if wanted not in (1, channels):
            raise InputError(
                f"mean and scale are given for {wanted} channels; images of shape {list(shape)}, read as {layout}, have {channels}."
            )
        return layout

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """float32 [n, channels, height, width], contiguous, of a batch of stored pixels; the argument is not changed."""
        layout = self.layout_of(pixels.shape)
        if layout == "NHWC":
            pixels = pixels.transpose(0, 3, 1, 2)
        elif layout == "NHW":
            pixels = pixels[:, None]
        if self.order == "BGR":
            pixels = pixels[:, ::-1]
        x = np.asarray(pixels).astype(np.float32, order="C")
        x -= np.array(self.mean, np.float32)[:, None, None]
        x *= np.array(self.scale, np.float32)[:, None, None]
        return x

    def framing(self, shape: tuple[int, ...]) -> Framing:
        """How image files are cut and scaled for a model whose images are [channels, height, width]."""
        channels, height, width = shape
        return Framing(height, width, channels, self.crop_fraction, self.fit)


def _numbers(name: str, given) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in np.atleast_1d(given))
    except (TypeError, ValueError):
        raise InputError(f"{name} is {given!r}; wanted a number, or one per channel.") from None
    if not numbers or not all(math.isfinite(number) for number in numbers):
        raise InputError(f"{name} is {given!r}; wanted a finite number, or one per channel.")
    return numbers


def _parse(stored: str) -> dict:
    wanted = f"wanted a JSON object with any of {', '.join(STORED)}."
    try:
        values = json.loads(stored)
    except ValueError:
        raise InputError(f"the model's {METADATA_KEY} metadata is not JSON: {stored[:60]!r}; {wanted}") from None
    if not isinstance(values, dict) or set(values) - set(STORED):
        raise InputError(f"the model's {METADATA_KEY} metadata is {stored[:60]!r}; {wanted}")
    return values


def _guess(shape: tuple[int, ...]) -> str:
    if len(shape) == 3:
        return "NHW"
    if len(shape) != 4:
        raise InputError(f"images of shape {list(shape)}; wanted [n, height, width] or four dimensions with channels.")
    first, last = shape[1] in CHANNEL_COUNTS, shape[3] in CHANNEL_COUNTS
    if first == last:
        raise InputError(f"images of shape {list(shape)} may be NCHW or NHWC; say which with --layout.")
    return "NCHW" if first else "NHWC"


_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels / 255, as torchvision has them
PRESETS = {
    "imagenet": dict(
        mean=tuple(255 * m for m in _MEAN), scale=tuple(1 / (255 * s) for s in _STD), crop_fraction=0.875, fit="crop"
    ),
    "mobilenet": dict(mean=127.5, scale=1 / 127.5, crop_fraction=0.875, fit="stretch"),  # TF-slim, and the seed's demo
    "raw": dict(mean=0.0, scale=1.0, crop_fraction=1.0, fit="stretch"),
}
AS_STORED = Preprocess()  # pixels and labels taken as they are
