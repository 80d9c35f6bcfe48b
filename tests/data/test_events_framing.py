import numpy as np
import pytest
import torch
from event_files import random_events
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.datasets.utils import integrate_events_by_fixed_frames_number
from tonic.transforms import ToFrame

from ndsnn.config import EventConfig
from ndsnn.data.events import Events, Framing, Sensor, as_events, frame_events
from ndsnn.data.events.framing import framing_of
from ndsnn.errors import ConfigError, DataError

SENSOR = Sensor(12, 9, 2)


@pytest.fixture
def array():
    events = random_events(np.random.default_rng(1), 1000, 12, 9, 98_765)
    events["t"] += 4321
    return events


def hand(t, x=None):
    zeros = np.zeros(len(t), np.int64)
    return Events(zeros if x is None else np.array(x), zeros, np.array(t), zeros)


def per_frame(events, framing):
    return frame_events(events, Sensor(4, 1, 1), framing).sum((1, 2, 3)).tolist()


def test_time_by_hand():
    # t from 10 to 20: two frames of ⌊10 / 2⌋ = 5, [10, 15) and [15, 20); the event at 20 is behind both.
    events = hand([10, 11, 14, 15, 19, 20])
    assert per_frame(events, Framing(2, "time")) == [3, 3]
    assert per_frame(events, Framing(2, "time", remainder="drop")) == [3, 2]
    assert per_frame(events, Framing(3, "time", 4)) == [2, 2, 2]
    assert per_frame(events, Framing(2, "time", 4)) == [2, 2]
    assert per_frame(events, Framing(3, "time", 8, start="zero")) == [0, 4, 2]


def test_count_by_hand():
    events = hand(list(range(8)))
    assert per_frame(events, Framing(3)) == [2, 2, 4]
    assert per_frame(events, Framing(3, remainder="drop")) == [2, 2, 2]
    assert per_frame(events, Framing(3, "count", 3)) == [3, 3, 2]
    assert per_frame(events, Framing(4, "count", 3)) == [3, 3, 2, 0]
    assert per_frame(events, Framing(2, "count", 3)) == [3, 3]


def test_places_polarities_and_downsampling_by_hand():
    events = Events(*(np.array(c) for c in ([0, 1, 4, 4], [0, 1, 2, 2], [0, 1, 2, 3], [0, 0, 1, 1])))
    frames = frame_events(events, Sensor(5, 3, 2), Framing(1))
    expected = np.zeros((1, 2, 3, 5), int)
    expected[0, 0, 0, 0] = expected[0, 0, 1, 1] = 1
    expected[0, 1, 2, 4] = 2
    assert np.array_equal(frames, expected)
    halved = frame_events(events, Sensor(5, 3, 2), Framing(1, downsample=2))
    assert halved.tolist() == [[[[2, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 2]]]]
    assert frame_events(events, Sensor(5, 3, 2), Framing(1, downsample=2, max_count=1)).sum() == 2


@pytest.mark.parametrize(
    ("framing", "theirs"),
    [
        (Framing(7, "time", remainder="drop"), {"n_time_bins": 7}),
        (Framing(16, "count", remainder="drop"), {"n_event_bins": 16}),
        (Framing(5, "time", 15_000), {"time_window": 15_000}),
        (Framing(5, "time", 15_000, start="zero"), {"time_window": 15_000, "start_time": 0}),
        (Framing(7, "count", 130), {"event_count": 130}),
    ],
)
def test_equals_tonic(array, framing, theirs):
    expected = ToFrame(sensor_size=tuple(SENSOR), **theirs)(array)
    ours = frame_events(as_events(array), SENSOR, framing)
    assert len(expected) >= framing.frames
    assert np.array_equal(ours, expected[: framing.frames])


@pytest.mark.parametrize("split_by", ["time", "count"])
def test_equals_spikingjelly(array, split_by):
    columns = {name: array[name] for name in "txyp"}
    mode = {"time": "time", "count": "number"}[split_by]
    expected = integrate_events_by_fixed_frames_number(columns, mode, 7, 9, 12)
    ours = frame_events(as_events(array), SENSOR, Framing(7, split_by))
    assert np.array_equal(ours, expected)
    assert ours.sum() == len(array)


@settings(max_examples=50, deadline=None)
@given(
    t=st.lists(st.integers(0, 300), min_size=1, max_size=40).map(sorted),
    frames=st.integers(1, 6),
    split_by=st.sampled_from(["time", "count"]),
    length=st.integers(0, 20),
    downsample=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_equals_a_loop_over_events(t, frames, split_by, length, downsample, seed):
    random = np.random.default_rng(seed)
    sensor = Sensor(5, 4, 2)
    x, y, p = (random.integers(0, bound, len(t)) for bound in sensor)
    framing = Framing(frames, split_by, length, downsample=downsample)
    expected = np.zeros(framing.shape(sensor), int)
    for index in range(len(t)):
        position = t[index] - t[0] if split_by == "time" else index
        whole = t[-1] - t[0] if split_by == "time" else len(t)
        width = length or whole // frames
        frame = position // width if width else frames
        frame = min(frame, frames - 1) if not length else frame
        if frame < frames:
            expected[frame, p[index], y[index] // downsample, x[index] // downsample] += 1
    events = Events(x, y, np.array(t), p)
    assert np.array_equal(frame_events(events, sensor, framing), expected)


def test_a_recording_without_a_whole_frame():
    assert per_frame(hand([5, 5]), Framing(3, "time")) == [0, 0, 2]
    with pytest.raises(DataError, match="none of them is in"):
        frame_events(hand([5, 5]), Sensor(4, 1, 1), Framing(3, "time", remainder="drop"))
    with pytest.raises(DataError, match="rec has 2 events, but none"):
        frame_events(hand([500, 600]), Sensor(4, 1, 1), Framing(3, "time", 10, start="zero"), "rec")


def test_too_many_events_in_one_place():
    events = hand([0] * 65536)
    with pytest.raises(DataError, match="65536 events in one place"):
        frame_events(events, Sensor(4, 1, 1), Framing(1))
    assert frame_events(events, Sensor(4, 1, 1), Framing(1, max_count=300)).max() == 300
    assert frame_events(hand([0] * 65535), Sensor(4, 1, 1), Framing(1)).max() == 65535


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frames": 0}, "frames must be"),
        ({"frames": True}, "frames must be"),
        ({"per_frame": -1}, "per_frame must be"),
        ({"downsample": 0}, "downsample must be"),
        ({"max_count": 65536}, "max_count must be"),
        ({"split_by": "number"}, "split_by must be one of time, count"),
        ({"start": "zero"}, "start zero needs"),
        ({"remainder": "drop", "per_frame": 5}, "remainder is a setting"),
    ],
)
def test_settings_out_of_range(changes, words):
    with pytest.raises(ConfigError, match=words):
        Framing(**({"frames": 4} | changes))


def test_frames_must_be_set():
    with pytest.raises(ConfigError, match=r"data.events.frames.* is not set"):
        framing_of(EventConfig(split_by="time"))
    assert framing_of(EventConfig(frames=3, sort=True)) == Framing(3, sort=True)


def test_frames_are_what_a_network_takes(array):
    import ndsnn

    frames = frame_events(as_events(array), SENSOR, Framing(4))
    net = ndsnn.models.vgg([4, "M", 8], num_classes=3, time_steps=4, in_channels=2)
    x_tnchw = torch.from_numpy(np.stack([frames, frames]).swapaxes(0, 1).astype(np.float32))
    assert net(x_tnchw).shape == (4, 2, 3)
