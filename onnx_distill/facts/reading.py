"""How images become a model's input, and what its classes are called, in the model's own metadata: a file that says it needs no options.

onnx_distill.preprocess    {"mean": [127.5], "scale": [0.00784], "order": "RGB", ...}, see data/preprocess.py
onnx_distill.class_names   ["cat", null, "dog"]: of each class, null where it has no name
"""

from __future__ import annotations

import json

import onnx

from onnx_distill.data import Images
from onnx_distill.data.preprocess import AS_STORED, METADATA_KEY
from onnx_distill.errors import InputError

CLASS_NAMES = "onnx_distill.class_names"


def describe(model: onnx.ModelProto, images: Images) -> onnx.ModelProto:
    """Write into the model how these images were read and what their classes are called, in place, where there is something to say."""
    how, names = getattr(images, "preprocess", AS_STORED), images.class_names
    known = {entry.key: entry.value for entry in model.metadata_props}
    if how.replace(layout="auto") != AS_STORED or METADATA_KEY in known:
        known[METADATA_KEY] = how.as_metadata()
    if names:
        known[CLASS_NAMES] = json.dumps([names.get(number) for number in range(max(names) + 1)], ensure_ascii=False)
    del model.metadata_props[:]
    for key, value in known.items():
        model.metadata_props.add(key=key, value=value)
    return model


def class_names_in(*models: onnx.ModelProto | None) -> dict[int, str]:
    """Class -> name, as the first of the models says that says it; {} where none does. Raises InputError for bad metadata."""
    for model in models:
        text = {e.key: e.value for e in model.metadata_props}.get(CLASS_NAMES) if model is not None else None
        if text is not None:
            return _parsed(text)
    return {}


def _parsed(text: str) -> dict[int, str]:
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(name is None or isinstance(name, str) for name in names):
        raise InputError(f"the model's {CLASS_NAMES} metadata is {text[:60]!r}; wanted a JSON list of names.")
    return {number: name for number, name in enumerate(names) if name is not None}
