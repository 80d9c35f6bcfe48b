"""From the events of a recording to T frames of counts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np

from ndsnn.config import EventConfig
from ndsnn.data.events.recording import Events, Sensor
from ndsnn.errors import ConfigError, DataError

LARGEST_COUNT = 65535
"""Most events that one place of a frame can count."""

_MOST_FRAMES = 10_000


@dataclass(frozen=True)
class Framing:
    """How a recording is cut into frames; the settings of `EventConfig` with nothing left open.

    With t₀ and t₁ the times of the first and the last of E events, and per_frame = 0:

        split_by "time"    event at t → frame ⌊(t − t₀) / w⌋,  w = ⌊(t₁ − t₀) / T⌋
        split_by "count"   event k → frame ⌊k / n⌋,            n = ⌊E / T⌋

    Events behind the last whole frame are added to it (remainder "keep", as in SpikingJelly) or left out ("drop",
    as in tonic). With per_frame > 0, w or n is that number, and events behind frame T are left out; "time" then
    counts from t₀ (start "first") or from 0 ("zero").

    Attributes:
        frames: T.
        split_by: "time" or "count".
        per_frame: Ticks (microseconds) or events in a frame; 0 divides the whole recording.
        start: "first" or "zero".
        remainder: "keep" or "drop".
        downsample: Side of the squares of pixels that are added up.
        max_count: Counts above are cut to it; 1 makes frames of zeros and ones, 0 cuts nothing.
        sort: Whether events that are not in the order of time are sorted instead of refused.
    """

    frames: int
    split_by: str = "count"
    per_frame: int = 0
    start: str = "first"
    remainder: str = "keep"
    downsample: int = 1
    max_count: int = 0
    sort: bool = False

    def __post_init__(self) -> None:
        for key, least, most in (
            ("frames", 1, _MOST_FRAMES),
            ("per_frame", 0, 2**40),
            ("downsample", 1, 4096),
            ("max_count", 0, LARGEST_COUNT),
        ):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise ConfigError(f"data.events.{key} must be an integer from {least} to {most}, not {value!r}")
        for key, known in (
            ("split_by", ("time", "count")),
            ("start", ("first", "zero")),
            ("remainder", ("keep", "drop")),
        ):
            if getattr(self, key) not in known:
                raise ConfigError(
                    f"data.events.{key} must be one of {', '.join(known)}, not {getattr(self, key)!r}"
                )
        if self.start == "zero" and not (self.split_by == "time" and self.per_frame):
            raise ConfigError(
                "data.events.start zero needs frames of a fixed duration: data.events.split_by time and a "
                "data.events.per_frame above 0"
            )
        if self.remainder == "drop" and self.per_frame:
            raise ConfigError(
                "data.events.remainder is a setting of recordings that are divided whole; with "
                "data.events.per_frame above 0 what is behind the last frame is left out"
            )

    def shape(self, sensor: Sensor) -> tuple[int, int, int, int]:
        """Return (T, C, H, W) of the frames; a border that fills no square is one of its own."""
        height, width = (-(-side // self.downsample) for side in (sensor.height, sensor.width))
        return self.frames, sensor.polarities, height, width

    def text(self) -> str:
        """Return the settings as JSON, the same text for the same frames."""
        return json.dumps(asdict(self), sort_keys=True)

    def describe(self) -> str:
        """Return the settings in words."""
        if not self.per_frame:
            cut = f"of equal {'duration' if self.split_by == 'time' else 'numbers of events'}"
        else:
            cut = f"of {self.per_frame:,} {'µs' if self.split_by == 'time' else 'events'}"
        scale = f", {self.downsample}×{self.downsample} pixels added up" if self.downsample > 1 else ""
        return f"{self.frames} frames {cut}{scale}"


def framing_of(settings: EventConfig) -> Framing:
    """Return the framing that settings ask for; those left open are the ones of `Framing`.

    Raises:
        ConfigError: The number of frames is left open, or a setting is out of range.
    """
    if settings.frames is None:
        raise ConfigError("data.events.frames, the number of frames T, is not set")
    given = {
        name: value for name in Framing.__dataclass_fields__ if (value := getattr(settings, name)) is not None
    }
    return Framing(**given)


def frame_events(events: Events, sensor: Sensor, framing: Framing, where: object = "the recording") -> np.ndarray:
    """Count the events of a recording in each frame, polarity and place.

    Args:
        events: Checked by `recording.checked`.
        sensor: What has recorded them.
        framing: How they are cut.
        where: File or sample, for messages.

    Returns:
        uint16 [T, C, H, W], C the polarities.

    Raises:
        DataError: No event is left, or a count does not fit into 16 bits.
    """
    frames, channels, height, width = framing.shape(sensor)
    index = _frame_index(events.t, framing)
    inside = (index >= 0) & (index < frames)
    if not inside.any():
        raise DataError(f"{where} has {len(events.t)} events, but none of them is in {framing.describe()}")
    x, y = events.x // framing.downsample, events.y // framing.downsample
    place = ((index * channels + events.p) * height + y) * width + x
    counts = np.bincount(place[inside], minlength=frames * channels * height * width)
    if framing.max_count:
        counts = np.minimum(counts, framing.max_count)
    elif counts.max() > LARGEST_COUNT:
        raise DataError(
            f"{where} has {counts.max()} events in one place of a frame, more than {LARGEST_COUNT}; "
            "use more frames, or set data.events.max_count"
        )
    return counts.astype(np.uint16).reshape(frames, channels, height, width)


def _frame_index(t: np.ndarray, framing: Framing) -> np.ndarray:
    """Number of each event's frame; T or more where it is left out."""
    if framing.split_by == "time":
        origin = 0 if framing.start == "zero" else t[0]
        length = framing.per_frame or int(t[-1] - t[0]) // framing.frames
        position = t - origin
    else:
        length = framing.per_frame or len(t) // framing.frames
        position = np.arange(len(t))
    # A recording shorter than T ticks or events has no whole frame: all of it is remainder.
    index = position // length if length else np.full(len(t), framing.frames)
    if not framing.per_frame and framing.remainder == "keep":
        index = np.minimum(index, framing.frames - 1)
    return index
