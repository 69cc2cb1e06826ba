"""Where a model comes from, in its own metadata: `onnx_distill.` keys, each a short text. Nothing in them depends on the time.

tool                the version that wrote the file
teacher_sha256      of the teacher's file
logits              value that the teacher was cut at
target, weight_bits, activation_bits, calibration, rounding   how it was quantized
bits                where layers have bits of their own: how many have which
temperature, alpha, epochs, data_sha256                  how it was trained, and on what
score_of, score_before, score_after, score_teacher       on held-out images: before and after training, and the teacher's own
kept                why it is the PTQ model and not a trained one, where it is
refused             why --max-drop refused it, where it did
"""

from __future__ import annotations

import hashlib
import os

import numpy as np
import onnx

from onnx_distill.data import Images

PREFIX = "onnx_distill."
BYTES, CHUNK = 2**30, 2**24  # that a fingerprint of every image reads, a second of hashing; at a time
SAMPLES = 256  # images that go into a fingerprint, evenly spread, beside the number of all and every label
KEYS = (
    "tool teacher_sha256 logits target weight_bits activation_bits bits calibration rounding temperature alpha epochs data_sha256 "
    "score_of score_before score_after score_teacher kept refused weight_storage"
).split()


def stamp(model: onnx.ModelProto, **facts: object) -> onnx.ModelProto:
    """Write facts into the model's metadata, in place, over what stood under their keys; None leaves a key as it is."""
    known = {name: str(value) for name, value in facts.items() if value is not None}
    assert set(known) <= set(KEYS), f"unknown: {set(known) - set(KEYS)}"
    kept = [
        (e.key, e.value) for e in model.metadata_props if e.key[len(PREFIX) :] not in known or not e.key.startswith(PREFIX)
    ]
    del model.metadata_props[:]
    for key, value in [*kept, *((PREFIX + name, known[name]) for name in sorted(known))]:
        model.metadata_props.add(key=key, value=value)
    return model


def provenance(model: onnx.ModelProto) -> dict[str, str]:
    """What the model says of itself, in the order of KEYS."""
    found = {entry.key[len(PREFIX) :]: entry.value for entry in model.metadata_props if entry.key.startswith(PREFIX)}
    return {name: found[name] for name in KEYS if name in found}


def file_sha256(path: str | os.PathLike) -> str:
    """In hexadecimal, of the whole file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def data_sha256(images: Images) -> str:
    """A fingerprint of images and labels as the model reads them: their number, every label, SAMPLES of the images."""
    digest = hashlib.sha256(str(len(images)).encode())
    if images.labels is not None:
        digest.update(np.ascontiguousarray(images.labels, np.int64).tobytes())
    chosen = np.unique(np.linspace(0, len(images) - 1, min(SAMPLES, len(images))).astype(np.int64))
    digest.update(images.read(chosen).astype("<f4").tobytes())
    return digest.hexdigest()


def contents_sha256(images: Images) -> str:
    """A fingerprint by which a run knows its images again: data_sha256, and every image as it is stored; of more than BYTES the middle
    of each, so that one in another's place is seen among however many.

    Times of change and names are no part of it: copied files are the same images."""
    digest = hashlib.sha256(data_sha256(images).encode())
    first = images.stored(np.arange(1))
    most = min(first.shape[1], max(1, BYTES // (first.itemsize * len(images))))
    rows = max(1, CHUNK // (most * first.itemsize))
    for start in range(0, len(images), rows):
        digest.update(np.ascontiguousarray(images.stored(np.arange(start, min(start + rows, len(images))), most)).tobytes())
    return digest.hexdigest()
