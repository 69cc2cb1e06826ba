"""From the values of options to models, images and configurations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Callable

import numpy as np
import onnx

from onnx_distill import model as models
from onnx_distill.cli.progress import Bar
from onnx_distill.cli.terminal import tell, tell_images, warn
from onnx_distill.data import PRESETS, Decoding, Found, Images, Preprocess, find_images, is_collection, open_files
from onnx_distill.data.labels import read_class_names
from onnx_distill.data.listing import is_image_file
from onnx_distill.errors import InputError
from onnx_distill.facts.provenance import file_sha256, provenance, stamp
from onnx_distill.facts.reading import class_names_in
from onnx_distill.files.settings import read_settings
from onnx_distill.mixed.budget import Budget
from onnx_distill.mixed.ranking import load_sensitivity
from onnx_distill.normalize.image_form import as_images
from onnx_distill.normalize.prepare import image_shape, prepare


def chosen(kind, options: dict):
    """The configuration dataclass `kind` from the options that have its fields' names."""
    return kind(**{name: options[name] for name in kind.__dataclass_fields__ if name in options})


def budget_of(options: dict) -> Budget | None:
    """The ranking and the budget among the options; None without a ranking. Raises InputError for one without the other."""
    size, accuracy = options["budget_size"], options["budget_accuracy"]
    if options["mixed"] is None:
        if size is not None or accuracy is not None:
            raise InputError(
                "a budget wants a ranking of the layers: --mixed FILE. Make one with `onnx-distill sensitivity`."
            )
        return None
    return Budget(load_sensitivity(options["mixed"]), size, accuracy, options["size_of"])


def load(path: str, input_shape: tuple[int, ...] | None, constants: tuple[tuple[str, np.ndarray], ...]):
    """The model in a file, with its size pinned and its further inputs given; its metadata say which file it comes from."""
    loaded = models.load(path)
    if "teacher_sha256" not in provenance(loaded):
        stamp(loaded, teacher_sha256=file_sha256(path))
    return prepare(loaded, input_shape, dict(constants))


def open_data(model, options: dict, labelled: bool = True, classes: int | None = None, student=None) -> Images:
    """The images that the options name, as the model wants them; student: see find_data."""
    return decoded(find_data(model, options, labelled, classes, student), options)


def find_data(
    model, options: dict, labelled: bool = True, classes: int | None = None, student=None, like: Found | None = None
) -> Found:
    """What open_data would open. Raises InputError for all that can be refused before an image is decoded.

    student: of the model, which says how images are read where it was made by onnx-distill; image files are made as large as it wants.
    like: images whose class folders these have; else the classes have the names of --class-names or in the model, where any folder has one.
    """
    path, preprocess = Path(options["data"]), preprocess_of(model, options, student)
    named = _class_names(options, preprocess, classes)
    _decoding(options)
    shape = images_wanted(student if student is not None else model) if is_collection(path) else None
    names, whose = named or class_names_in(student, model), "--class-names" if named else "the model"
    if like is not None and like.class_names:
        names, whose = like.class_names, str(like.path)
    labels = options["labels"] if labelled else None
    found = find_images(path, labels, preprocess, classes, shape, names, whose, foreign=like is None)
    _tell_classes(found, whose, len(names), matched=like is not None and bool(names))
    return found


def _tell_classes(found: Found, whose: str, known: int, matched: bool) -> None:
    """Class folders that are missing, or not as many as the model has classes, are named. matched: with those of other images."""
    listing = found.listing
    if listing is None or not listing.class_names:
        return
    if listing.empty:
        warn(f"{found.path}: folders without images are no classes: {some(listing.empty)}")
    if found.missing:
        warn(f"{found.path} has no images of {len(found.missing)} of the {known} classes of {whose}: {some(found.missing)}")
    wanted = found.classes - found.preprocess.label_offset if found.classes is not None else len(listing.class_names)
    if not matched and not found.missing and len(listing.class_names) < wanted:
        places = f"{min(listing.class_names)} to {max(listing.class_names)}"
        warn(
            f"{found.path} has {len(listing.class_names)} class folders, the model {wanted} classes: they are taken for classes {places}, "
            "in the order of their names. Where that is wrong, give --class-names or --labels."
        )


def some(names: Sequence[str], most: int = 5) -> str:
    """The first few names with commas between."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def decoded(found: Found, options: dict) -> Images:
    images = found.open(_decoding(options))
    images.class_names = {**images.class_names, **_class_names(options, found.preprocess, found.classes)}
    tell(f"{found.path}: {len(images):,} images, read as {found.preprocess}")
    tell_images(images, str(found.path))
    return images


def _decoding(options: dict) -> Decoding:
    workers = options["workers"] if options["workers"] is not None else os.cpu_count() or 0
    return Decoding(workers, options["cache"], options["max_broken"], _decoding_bar(), _tell_broken)


def _class_names(options: dict, preprocess: Preprocess, classes: int | None) -> dict[int, str]:
    """Of --class-names; {} without."""
    path = options.get("class_names")
    return read_class_names(Path(path), preprocess.label_offset, classes) if path else {}


def open_unlabelled(model, paths: Sequence[str], options: dict) -> Images:
    """Images to be answered: image files one by one, or as a single path whatever open_data takes."""
    if len(paths) == 1 and not is_image_file(Path(paths[0])):
        return open_data(model, {**options, "data": paths[0]}, labelled=False)
    return open_files(paths, preprocess_of(model, options), images_wanted(model), _decoding(options))


def images_wanted(model: onnx.ModelProto) -> tuple[int, ...]:
    """[channels, height, width] of the images of a model of either layout. Raises InputError where some of it is free."""
    return image_shape(as_images(model))


def preprocess_of(model, options: dict, student=None) -> Preprocess:
    """What the student or else the model says itself, then a preset, then a file, then single options: the later wins."""
    preprocess = Preprocess.of(model) if student is None else Preprocess.of(student, model)
    if options["preset"]:
        preprocess = preprocess.replace(**PRESETS[options["preset"]])
    if options["preprocess"]:
        preprocess = preprocess.replace(**read_settings(options["preprocess"], list(Preprocess.__dataclass_fields__)))
    given = {name: options[name] or None for name in ("mean", "scale")}
    names = ("layout", "label_offset", "order", "crop_fraction", "fit")
    return preprocess.replace(**given, **{name: options[name] for name in names})


def _decoding_bar() -> Callable[[int, int], None]:
    bars: list[Bar] = []

    def show(done: int, total: int) -> None:
        if not bars:
            bars.append(Bar("decode", total, "images"))
        bars[0].update(done)

    return show


def _tell_broken(decoded) -> None:
    for name, reason in decoded.broken:
        warn(f"skipped {name}: {reason}")
    if decoded.broken:
        warn(f"skipped {len(decoded.broken)} of {len(decoded.pixels)} images")
