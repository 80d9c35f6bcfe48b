"""Data sets in memory as uint8: loading and splitting, augmentation, and batches that can be resumed exactly."""

from ndsnn.data.augment import Augmentation, default_augmentation, normalise
from ndsnn.data.images import ImageData, ImageSet
from ndsnn.data.loader import batches, epoch_order, evaluation_batches, num_batches
from ndsnn.data.registry import Row, load, overview, prepare
from ndsnn.data.source import SOURCES, Description, Progress, Source, data_root

__all__ = [
    "SOURCES",
    "Augmentation",
    "Description",
    "ImageData",
    "ImageSet",
    "Progress",
    "Row",
    "Source",
    "batches",
    "data_root",
    "default_augmentation",
    "epoch_order",
    "evaluation_batches",
    "load",
    "normalise",
    "num_batches",
    "overview",
    "prepare",
]
