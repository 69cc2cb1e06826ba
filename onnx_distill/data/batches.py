"""Images in batches, in any order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from onnx_distill.data.images import Images
from onnx_distill.errors import InputError


class Batch(NamedTuple):
    images: np.ndarray  # float32 [n, channels, height, width]
    labels: np.ndarray | None  # int64 [n]


def batches(images: Images, batch_size: int, order: np.ndarray | None = None, drop_last: bool = False) -> Iterator[Batch]:
    """Each image once, in `order` (positions; as stored if None), batch_size at a time.

    The last batch is smaller where the count does not divide, or left out with drop_last. Raises InputError for batch_size < 1.
    """
    if batch_size < 1:
        raise InputError(f"batch size is {batch_size}; wanted 1 or more.")
    order = np.arange(len(images)) if order is None else np.asarray(order)
    end = len(order) - len(order) % batch_size if drop_last else len(order)
    return (_batch(images, order[i : min(i + batch_size, end)]) for i in range(0, end, batch_size))


def _batch(images: Images, indices: np.ndarray) -> Batch:
    return Batch(images.read(indices), None if images.labels is None else images.labels[indices])
