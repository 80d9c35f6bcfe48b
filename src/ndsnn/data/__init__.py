"""Data sets of images in memory and of events on the disk: loading, splitting, augmentation, exact batches."""

from ndsnn.data.augment import Augmentation, default_augmentation, normalise
from ndsnn.data.events import EventAugmentation, EventData, EventSet, from_recordings
from ndsnn.data.images import ImageData, ImageSet
from ndsnn.data.loader import (
    balanced_batches,
    batch_sizes,
    batches,
    epoch_order,
    evaluation_batches,
    num_batches,
)
from ndsnn.data.registry import Row, load, overview, prepare
from ndsnn.data.samples import SampleSet, SplitData
from ndsnn.data.source import SOURCES, Description, Progress, Source, data_root

__all__ = [
    "SOURCES",
    "Augmentation",
    "Description",
    "EventAugmentation",
    "EventData",
    "EventSet",
    "ImageData",
    "ImageSet",
    "Progress",
    "Row",
    "SampleSet",
    "Source",
    "SplitData",
    "balanced_batches",
    "batch_sizes",
    "batches",
    "data_root",
    "default_augmentation",
    "epoch_order",
    "evaluation_batches",
    "from_recordings",
    "load",
    "normalise",
    "num_batches",
    "overview",
    "prepare",
]
