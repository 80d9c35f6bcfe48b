"""Event data: readers of the official formats, frames of counts cached on disk, and augmentation of frames.

Importing this registers the built-in data sets nmnist, dvs-gesture, cifar10-dvs and shd.
"""

from ndsnn.data.events import cifar10_dvs, gesture, nmnist, shd  # noqa: F401
from ndsnn.data.events.augment import EventAugmentation
from ndsnn.data.events.frames import EventData, EventSet
from ndsnn.data.events.framing import Framing, frame_events
from ndsnn.data.events.loading import Split, from_recordings, load_events
from ndsnn.data.events.recording import Events, Sensor, as_events, checked
from ndsnn.data.events.source import EventSource, Recordings, resolve_events

__all__ = [
    "EventAugmentation",
    "EventData",
    "EventSet",
    "EventSource",
    "Events",
    "Framing",
    "Recordings",
    "Sensor",
    "Split",
    "as_events",
    "checked",
    "frame_events",
    "from_recordings",
    "load_events",
    "resolve_events",
]
