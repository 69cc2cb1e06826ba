"""Images in: arrays and IDX files, preprocessing, batches, augmentation."""

from onnx_distill.data.arrays import ArrayImages, open_images
from onnx_distill.data.augment import Augment
from onnx_distill.data.batches import Batch, batches
from onnx_distill.data.images import Images, split
from onnx_distill.data.preprocess import Preprocess

__all__ = ["ArrayImages", "Augment", "Batch", "Images", "Preprocess", "batches", "open_images", "split"]
