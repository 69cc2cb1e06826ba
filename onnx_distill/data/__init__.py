"""Images in: arrays, IDX files, folders, list files, tars and what a program hands over; preprocessing, batches, augmentation."""

from onnx_distill.data.arrays import ArrayImages
from onnx_distill.data.augment import Augment
from onnx_distill.data.batches import Batch, batches
from onnx_distill.data.found import Found, find_images
from onnx_distill.data.given import Given, images_from
from onnx_distill.data.images import Images, checked_count, held_out_count, split
from onnx_distill.data.open import Decoding, is_collection, open_files, open_images
from onnx_distill.data.preprocess import PRESETS, Preprocess

__all__ = [
    "PRESETS",
    "ArrayImages",
    "Augment",
    "Batch",
    "Decoding",
    "Found",
    "Given",
    "Images",
    "Preprocess",
    "checked_count",
    "find_images",
    "held_out_count",
    "images_from",
    "is_collection",
    "batches",
    "open_files",
    "open_images",
    "split",
]
