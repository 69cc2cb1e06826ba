"""The images of a run: those that it trains on, those of its table; what can be refused is, before the first one is decoded."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from onnx_distill.cli.inputs import decoded, find_data
from onnx_distill.cli.terminal import tell, warn
from onnx_distill.data import Found, Images, checked_count
from onnx_distill.data.decoded import check_space
from onnx_distill.errors import InputError
from onnx_distill.pipeline import kept_for_the_table, table_count

FEW_IMAGES = 50
LOOKED_AT, CHUNK = 4096, 512  # values of an image that tell it from others; images at a time


def images_to_train(model, options: dict, classes: int | None, student=None) -> Images:
    """Of --data. Raises InputError for a --validation that they are too few for."""
    found = find_data(model, options, classes=classes, student=student)
    checked_count(len(found), options["validation"])
    _warn_of_few(len(found))
    return decoded(found, options)


def images_of_run(model, options: dict, classes: int | None) -> tuple[Images, Images, str]:
    """(images to train on, images for the table, what to call those): of --test-data, or without it a part of --data; said then."""
    path = options["test_data"]
    if path is None and options["test_labels"] is not None:
        raise InputError(
            f"--test-labels is {options['test_labels']}, but there is no --test-data that they are of; give both, or neither."
        )
    of_test = {**options, "data": path, "labels": options["test_labels"]}
    train = find_data(model, options, classes=classes)
    test = find_data(model, of_test, classes=classes, like=train) if path else None
    checked_count(len(train) - (0 if test else table_count(len(train))), options["validation"])
    _check_room([train, *([test] if test else [])], options["cache"])
    _warn_of_few(len(train))
    images = decoded(train, options)
    if test is None:
        rest, part, said = part_for_the_table(images, options["data"])
        tell(
            f"no --test-data: {len(part):,} of the {len(images):,} images are kept for the table, and used for nothing else"
        )
        return rest, part, said
    found = decoded(test, of_test)
    common = seen_before(images, found)
    if common:
        warn(
            f"{common:,} of the {len(found):,} images of {path} are among those of {options['data']}, too: what is measured on them was learned"
        )
    return images, found, f"{len(found):,} images of {path}"


def seen_before(images: Images, test: Images) -> int:
    """How many of the test images are among the others, as far as the middle of each tells."""
    one, other = (part.stored(np.arange(1), LOOKED_AT) for part in (images, test))
    if one.shape != other.shape or one.dtype != other.dtype:
        return 0
    known = {row for rows in _chunks(images) for row in rows}
    return sum(row in known for rows in _chunks(test) for row in rows)


def _chunks(images: Images) -> Iterator[list[bytes]]:
    """A digest of each image, some hundreds at a time."""
    for start in range(0, len(images), CHUNK):
        stored = images.stored(np.arange(start, min(start + CHUNK, len(images))), LOOKED_AT)
        yield [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in np.ascontiguousarray(stored)]


def _warn_of_few(images: int) -> None:
    if images < FEW_IMAGES:
        warn(
            f"only {images} image{'s' if images > 1 else ''}: whatever is measured on a part of so few is mostly chance; some hundreds are wanted"
        )


def part_for_the_table(images: Images, path: str) -> tuple[Images, Images, str]:
    """(the rest, what a run without --test-data measures on, what to call that)."""
    rest, test = kept_for_the_table(images)
    return rest, test, f"{len(test):,} of the {len(images):,} images of {path}, kept apart from training"


def batch_sizes_of(options: dict) -> tuple[int, ...]:
    """That a run's table has latency of."""
    return (1, 64) if options["latency"] else ()


def _check_room(found: list[Found], cache: str | None) -> None:
    """Raises InputError where not all will find room together once they are decoded; what a cache has already is not counted."""
    if cache is None:
        check_space(Path(tempfile.gettempdir()), sum(part.decoded_bytes for part in found))
