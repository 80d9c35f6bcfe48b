"""tonic's own data sets and event arrays of one's own, and tonic's readers against ours."""

import numpy as np
import pytest
import tonic
import torch
from event_files import make_nmnist, make_shd, random_events
from tonic.transforms import ToFrame

from ndsnn import data as nd
from ndsnn.config import EventConfig
from ndsnn.data.events import Split
from ndsnn.errors import ConfigError, DataError


@pytest.fixture
def as_tonic(monkeypatch):
    """tonic data sets that are content with few files, and download nothing."""

    def refuse(self):
        raise AssertionError("tonic wants to download")

    for kind in (tonic.datasets.NMNIST, tonic.datasets.SHD):
        monkeypatch.setattr(kind, "_check_exists", lambda self: True)
        monkeypatch.setattr(kind, "download", refuse)
    return tonic.datasets


def framed_by_tonic(dataset, **settings):
    frame = ToFrame(sensor_size=dataset.sensor_size, **settings)
    samples = [dataset[index] for index in range(len(dataset))]
    return np.stack([frame(events) for events, _ in samples]), [int(label) for _, label in samples]


def test_nmnist_by_both(as_tonic, tmp_path):
    make_nmnist(tmp_path, per_class=2, test_per_class=1)
    (tmp_path / "NMNIST").symlink_to(tmp_path / "nmnist")
    train, test = (as_tonic.NMNIST(str(tmp_path), train=part) for part in (True, False))
    settings = EventConfig(frames=5, remainder="drop")
    ours = nd.from_recordings(train, test, tmp_path / "cache", settings)
    frames, labels = framed_by_tonic(train, n_event_bins=5)
    assert np.array_equal(ours.train.frames, frames)
    assert sorted(ours.train.labels.tolist() + ours.validation.labels.tolist()) == labels
    nd.prepare("nmnist", tmp_path, events=settings)
    built_in = nd.load("nmnist", tmp_path, events=settings)
    assert np.array_equal(built_in.train.frames, frames)
    assert np.array_equal(built_in.test().frames, framed_by_tonic(test, n_event_bins=5)[0])
    assert torch.equal(built_in.train.labels, ours.train.labels)


def test_shd_by_both(as_tonic, tmp_path):
    make_shd(tmp_path)
    (tmp_path / "SHD").symlink_to(tmp_path / "shd")
    train, test = (as_tonic.SHD(str(tmp_path), train=part) for part in (True, False))
    settings = EventConfig(frames=50, split_by="time", per_frame=20_000, start="zero")
    ours = nd.from_recordings(train, test, tmp_path / "cache", settings)
    frames, labels = framed_by_tonic(test, time_window=20_000, start_time=0, end_time=1_000_001)
    frames = frames[:, :, :, None]  # [.., T, P, X]: tonic leaves out the axis of y, as the recordings have none
    assert np.array_equal(ours.test().frames, frames)
    assert ours.test().labels.tolist() == labels
    nd.prepare("shd", tmp_path, events=settings)
    assert np.array_equal(nd.load("shd", tmp_path, events=settings).test().frames, frames)


def recordings(count, seed, classes=3, order=None):
    random = np.random.default_rng(seed)
    made = []
    for index in range(count):
        events = random_events(random, 50, 8, 6, 1000)
        if order:
            events = np.stack([events[name] for name in order], 1)
        made.append((events, index % classes))
    return made


SETTINGS = EventConfig(frames=4, flip=True)


def test_arrays_of_ones_own(tmp_path):
    columns = recordings(12, 0)
    data = nd.from_recordings(columns, recordings(6, 1), tmp_path, SETTINGS, sensor=(8, 6, 2))
    plain = [(np.stack([e[name] for name in "ptyx"], 1), label) for e, label in columns]
    again = nd.from_recordings(
        plain, recordings(6, 1, order="ptyx"), tmp_path / "b", SETTINGS, sensor=(8, 6, 2), order="ptyx"
    )
    assert (data.time_steps, data.channels, data.image_size, data.num_classes) == (4, 2, (6, 8), 3)
    assert (len(data.train), len(data.validation), len(data.test())) == (11, 1, 6)
    assert np.array_equal(data.train.frames, again.train.frames)
    assert data.class_names == ("0", "1", "2")
    assert data.augment.flip


def test_frames_are_kept_until_the_recordings_change(tmp_path):
    done = []

    def frame(train, **settings):
        done.clear()
        return nd.from_recordings(
            train,
            recordings(6, 1),
            tmp_path,
            SETTINGS,
            sensor=(8, 6, 2),
            progress=lambda *step: done.append(step),
            **settings,
        )

    first = frame(recordings(12, 0))
    assert done
    assert frame(recordings(12, 0)).fingerprint == first.fingerprint
    assert not done
    assert frame(recordings(12, 0), split=Split(0.5, 7)).fingerprint != first.fingerprint
    assert not done
    assert frame(recordings(12, 5)).fingerprint != first.fingerprint
    assert done


def test_labels_that_are_changed_on_the_way_are_read(tmp_path):
    class Changed(list):
        targets = (9, 9)
        sensor_size = (8, 6, 2)

        def target_transform(self, label):
            return label

    train = Changed(recordings(4, 0, classes=2))
    train.targets = (9,) * 4
    assert nd.from_recordings(train, train, tmp_path, SETTINGS, split=Split(0.25)).num_classes == 2


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"sensor": None}, ConfigError, "list has no sensor_size"),
        ({"sensor": (7, 6, 2)}, DataError, "recordings train .* has an event with x 7"),
        ({"class_names": ["a", "b"]}, DataError, r"train recording 2 has label 2, outside 0 … 1"),
        ({"settings": EventConfig()}, ConfigError, "the number of frames T, is not set"),
        ({"train": []}, DataError, "there are no train recordings"),
        ({"train": [(np.zeros(3), 0)]}, DataError, "events must be"),
        ({"train": [(np.zeros((1, 4)), "cat")]}, DataError, "no class indices"),
    ],
)
def test_what_is_no_recording(tmp_path, changes, error, words):
    given = {
        "train": recordings(6, 0),
        "test": recordings(3, 1),
        "settings": SETTINGS,
        "sensor": (8, 6, 2),
    } | changes
    with pytest.raises(error, match=words):
        nd.from_recordings(folder=tmp_path, **given)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    nd.from_recordings(recordings(6, 0), recordings(3, 1), tmp_path, SETTINGS, sensor=(8, 6, 2))
    folder = next(tmp_path.iterdir())
    (folder / "manifest.json").write_text("mine")
    with pytest.raises(DataError, match=r"manifest\.json is missing or corrupt"):
        nd.from_recordings(recordings(6, 0), recordings(3, 1), tmp_path, SETTINGS, sensor=(8, 6, 2))
    assert (folder / "manifest.json").read_text() == "mine"
