import io
import json
import shutil
import tarfile
import zipfile

import h5py
import numpy as np
import pytest
import torch
from event_files import (
    aedat2,
    aer40,
    make_cifar10_dvs,
    make_gesture,
    make_nmnist,
    make_shd,
    random_events,
    write,
    zip_folder,
)
from spikingjelly.datasets.utils import _split_class_indices

from ndsnn import data as nd
from ndsnn.config import EventConfig
from ndsnn.data import arrays
from ndsnn.data.events import Framing, Sensor, cache, frame_events, resolve_events
from ndsnn.data.events.cifar10_dvs import held_out
from ndsnn.data.events.formats import read_aedat2_dvs128, read_aedat3, read_aer40
from ndsnn.errors import ConfigError, DataError

MAKERS = {"nmnist": make_nmnist, "dvs-gesture": make_gesture, "cifar10-dvs": make_cifar10_dvs, "shd": make_shd}
SHAPES = {
    "nmnist": (10, 2, 34, 34),
    "dvs-gesture": (16, 2, 128, 128),
    "cifar10-dvs": (10, 2, 128, 128),
    "shd": (100, 1, 1, 700),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """All four data sets, framed as usual; not to be changed."""
    root = tmp_path_factory.mktemp("events")
    for name, make in MAKERS.items():
        make(root)
        nd.prepare(name, root)
    return root


@pytest.fixture
def nmnist(tmp_path):
    return make_nmnist(tmp_path, per_class=2, test_per_class=1, classes=3, count=60)


def frames_of(part):
    return part.frames[part.rows]


@pytest.mark.parametrize("name", MAKERS)
def test_prepared_and_loaded(made, name):
    data = nd.load(name, made)
    assert data.train.frames.shape[1:] == SHAPES[name]
    assert (data.time_steps, data.channels, data.image_size) == (*SHAPES[name][:2], SHAPES[name][2:])
    assert data.num_classes == len(nd.SOURCES[name].classes)
    assert not set(data.train.rows) & set(data.validation.rows)
    assert len(data.validation) == round(0.1 * (len(data.train) + len(data.validation)))
    assert isinstance(data.train.frames, np.memmap)
    x, y = next(nd.batches(data.train, 4, seed=0, epoch=0, augmentation=data.augmentation()))
    assert (x.shape, x.dtype) == ((SHAPES[name][0], 4, *SHAPES[name][1:]), torch.float32)
    assert y.shape == (4,)
    assert sorted(data.test().labels.unique().tolist()) == list(range(data.num_classes))


def test_nmnist_frames_are_those_of_its_files(made):
    data = nd.load("nmnist", made)
    folder = made / "nmnist" / "Test"
    for row, path in enumerate(sorted(folder.rglob("*.bin"))):
        expected = frame_events(read_aer40(path.read_bytes(), path), Sensor(34, 34, 2), Framing(10))
        assert np.array_equal(data.test().frames[row], expected)
        assert data.test().labels[row] == int(path.parent.name)


def test_gesture_trials_are_cut_by_the_label_files(made):
    top = made / "dvs-gesture" / "DvsGesture"
    test = nd.load("dvs-gesture", made).test()
    events = read_aedat3((top / "user24_lab.aedat").read_bytes(), "f")
    assert test.labels.tolist() == list(range(11))
    for row in range(11):
        begin = (row + 1) * 100_000
        inside = (events.t >= begin) & (events.t < begin + 90_000)
        trial = type(events)(*(column[inside] for column in events))
        assert test.frames[row].sum() == inside.sum() > 100
        assert np.array_equal(test.frames[row], frame_events(trial, Sensor(128, 128, 2), Framing(16)))


def test_shd_windows_begin_at_zero(made):
    test = nd.load("shd", made).test()
    with h5py.File(made / "shd" / "shd_test.h5") as file:
        for row in range(len(test)):
            times = file["spikes/times"][row].astype(np.float64)
            expected = np.zeros((100, 700), int)
            np.add.at(expected, ((times * 1e6).astype(int) // 14_000, file["spikes/units"][row]), 1)
            assert np.array_equal(test.frames[row, :, 0, 0], expected)
        assert test.labels.tolist() == file["labels"][:].tolist()


def numbers_of(part, made):
    """File numbers of test recordings, told by their first time as `make_cifar10_dvs` sets it."""
    first = {}
    for path in sorted((made / "cifar10-dvs" / "airplane").iterdir()):
        events = read_aedat2_dvs128(path.read_bytes(), path)
        first[int(path.stem.rpartition("_")[2])] = frame_events(events, Sensor(128, 128, 2), Framing(10))
    airplanes = [part.frames[i] for i in part.rows if part.labels[list(part.rows).index(i)] == 0]
    return [number for number, frames in first.items() if any(np.array_equal(frames, seen) for seen in airplanes)]


def test_cifar10_dvs_divisions(made):
    assert numbers_of(nd.load("cifar10-dvs", made).test(), made) == [9]
    settings = EventConfig(split="last-900")
    with pytest.raises(DataError, match=r"--data\.events\.split last-900"):
        nd.load("cifar10-dvs", made, events=settings)
    nd.prepare("cifar10-dvs", made, events=settings)
    data = nd.load("cifar10-dvs", made, events=settings)
    assert numbers_of(data.test(), made) == [0]
    assert len(data.train) + len(data.validation) == 90


def test_cifar10_dvs_names():
    names = [f"cifar10_cat_{number}.aedat" for number in range(1000)]
    assert held_out(names, "first-900", 0, 3) == set(names[900:])
    assert held_out(names, "last-900", 0, 3) == set(names[:100])
    drawn = [held_out(names, "random-900", seed, label) for seed, label in ((0, 0), (0, 0), (1, 0), (0, 1))]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 100
    assert drawn[0] != drawn[2] != drawn[3] != drawn[0]


def test_sorted_division_is_that_of_spikingjelly():
    # SpikingJelly lists files as torchvision's DatasetFolder does, by the alphabet.
    listed = sorted(f"cifar10_cat_{number}.npz" for number in range(1000))
    train, test = _split_class_indices([list(range(1000))], 0.9, random_split=False)
    expected = {listed[index].replace(".npz", ".aedat") for index in test}
    names = [f"cifar10_cat_{number}.aedat" for number in range(1000)]
    assert held_out(names, "sorted-900", 0, 3) == expected
    assert len(train) == 900


def test_cifar10_dvs_goes_by_numbers_not_by_the_alphabet(tmp_path):
    make_cifar10_dvs(tmp_path, per_class=21)
    nd.prepare("cifar10-dvs", tmp_path, events=EventConfig(frames=1, downsample=8))
    recordings = nd.SOURCES["cifar10-dvs"].open(tmp_path, EventConfig(split="first-900"))
    assert recordings.parts["test"].files[:2] == [
        "airplane/cifar10_airplane_19.aedat",
        "airplane/cifar10_airplane_20.aedat",
    ]


@pytest.mark.parametrize("name", ["nmnist", "cifar10-dvs"])
def test_zip_archives_are_read_in_place_and_mean_the_same(name, made, tmp_path):
    shutil.copytree(made / name, tmp_path / name)
    for folder in list((tmp_path / name).iterdir()):
        zip_folder(folder)
    nd.prepare(name, tmp_path)
    expected, found = nd.load(name, made), nd.load(name, tmp_path)
    assert found.fingerprint == expected.fingerprint
    assert all(path.suffix == ".zip" for path in (tmp_path / name).iterdir())
    # Unpacking them afterwards changes names and sizes, but not the content: nothing is framed anew.
    target = next((tmp_path / f"{name}-frames").iterdir())
    before = (target / "train_images.npy").stat().st_mtime_ns
    shutil.rmtree(tmp_path / name)
    shutil.copytree(made / name, tmp_path / name)
    with pytest.raises(DataError, match="have changed since"):
        nd.load(name, tmp_path)
    nd.prepare(name, tmp_path)
    assert (target / "train_images.npy").stat().st_mtime_ns == before
    assert nd.load(name, tmp_path).fingerprint == expected.fingerprint


def tar_of(folder, extra=()):
    archive = folder.with_name("DvsGesture.tar.gz")
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
        for member in extra:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    shutil.rmtree(folder)
    return archive


def test_gesture_archive_is_unpacked(made, tmp_path):
    shutil.copytree(made / "dvs-gesture", tmp_path / "dvs-gesture")
    outside = tarfile.TarInfo("DvsGesture/../../evil.aedat")
    outside.size = 4
    tar_of(tmp_path / "dvs-gesture" / "DvsGesture", [outside])
    nd.prepare("dvs-gesture", tmp_path)
    assert nd.load("dvs-gesture", tmp_path).fingerprint == nd.load("dvs-gesture", made).fingerprint
    assert not list(tmp_path.rglob("evil*"))


def test_gesture_archive_with_a_link_is_refused(made, tmp_path):
    shutil.copytree(made / "dvs-gesture", tmp_path / "dvs-gesture")
    link = tarfile.TarInfo("DvsGesture/user99_lab.aedat")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    tar_of(tmp_path / "dvs-gesture" / "DvsGesture", [link])
    with pytest.raises(DataError, match=r"user99_lab\.aedat is a link"):
        nd.prepare("dvs-gesture", tmp_path)
    assert not (tmp_path / "dvs-gesture" / "DvsGesture").exists()


def test_truncated_archives(made, tmp_path):
    shutil.copytree(made / "dvs-gesture", tmp_path / "dvs-gesture")
    shutil.copytree(made / "shd", tmp_path / "shd")
    archive = tar_of(tmp_path / "dvs-gesture" / "DvsGesture")
    archive.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"DvsGesture\.tar\.gz is corrupt or truncated"):
        nd.prepare("dvs-gesture", tmp_path)
    for part in ("train", "test"):
        path = tmp_path / "shd" / f"shd_{part}.h5"
        with zipfile.ZipFile(f"{path}.zip", "w") as opened:
            opened.write(path, path.name)
        path.unlink()
    good = (tmp_path / "shd" / "shd_train.h5.zip").read_bytes()
    spoilt = bytearray(good)
    spoilt[3000] ^= 1
    write(tmp_path / "shd" / "shd_train.h5.zip", bytes(spoilt))
    with pytest.raises(DataError, match=r"shd_train\.h5\.zip is corrupt"):
        nd.prepare("shd", tmp_path)
    assert not (tmp_path / "shd" / "shd_train.h5").exists()
    write(tmp_path / "shd" / "shd_train.h5.zip", good)
    nd.prepare("shd", tmp_path)
    assert nd.load("shd", tmp_path).fingerprint == nd.load("shd", made).fingerprint


def test_hostile_zip(nmnist):
    with zipfile.ZipFile(nmnist / "nmnist" / "Train.zip", "w") as opened:
        opened.writestr("Train/../../evil.bin", b"12345")
    shutil.rmtree(nmnist / "nmnist" / "Train")
    with pytest.raises(DataError, match="refused: its name leads outside"):
        nd.prepare("nmnist", nmnist)


def test_counts_above_255_are_kept_in_16_bits(nmnist):
    path = nmnist / "nmnist" / "Test" / "2" / "00001.bin"
    hot = random_events(np.random.default_rng(0), 4000, 34, 34, 300_000)
    hot["x"], hot["y"], hot["p"] = 7, 8, 1
    path.write_bytes(aer40(hot))
    nd.prepare("nmnist", nmnist)
    data = nd.load("nmnist", nmnist)
    assert data.test().frames.dtype == data.train.frames.dtype == np.uint16
    assert data.test().frames[2, :, 1, 8, 7].tolist() == [400] * 10
    x, _ = next(nd.evaluation_batches(data.test(), 3, mean=data.mean, std=data.std))
    assert x[:, 2, 1, 8, 7].tolist() == [400.0] * 10


def test_an_interrupted_preparation_is_continued(nmnist, monkeypatch):
    expected = make_nmnist(nmnist / "other", per_class=2, test_per_class=1, classes=3, count=60)
    nd.prepare("nmnist", expected)
    monkeypatch.setattr(cache, "_CHUNK_BYTES", 2 * 10 * 2 * 34 * 34)
    reads = []

    class StopError(Exception):
        pass

    def stop(what, done, total):
        reads.append((what, done))
        if what == "decode" and done == 4:
            raise StopError

    with pytest.raises(StopError):
        nd.prepare("nmnist", nmnist, stop)
    target = next((nmnist / "nmnist-frames").iterdir())
    assert target.suffix == ".partial"
    with pytest.raises(DataError, match="have not been made into"):
        nd.load("nmnist", nmnist)
    reads.clear()
    nd.prepare("nmnist", nmnist, lambda what, done, total: reads.append((what, done)))
    assert [done for what, done in reads if what == "decode"] == [6, 8, 9]
    assert nd.load("nmnist", nmnist).fingerprint == nd.load("nmnist", expected).fingerprint


def test_changed_recordings_are_noticed_and_framed_anew(nmnist):
    nd.prepare("nmnist", nmnist)
    before = nd.load("nmnist", nmnist).fingerprint
    path = nmnist / "nmnist" / "Train" / "0" / "00001.bin"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"have changed since .* run `ndsnn data prepare nmnist`"):
        nd.load("nmnist", nmnist)
    nd.prepare("nmnist", nmnist)
    assert nd.load("nmnist", nmnist).fingerprint != before
    same_size = bytearray(path.read_bytes())
    same_size[2] ^= 0x80
    path.write_bytes(bytes(same_size))
    after = nd.load("nmnist", nmnist).fingerprint
    nd.prepare("nmnist", nmnist)
    assert nd.load("nmnist", nmnist).fingerprint != after


def test_frames_stay_when_the_recordings_are_gone(nmnist):
    nd.prepare("nmnist", nmnist)
    before = nd.load("nmnist", nmnist).fingerprint
    shutil.rmtree(nmnist / "nmnist")
    assert nd.load("nmnist", nmnist).fingerprint == before
    nd.prepare("nmnist", nmnist)
    with pytest.raises(DataError, match=r"Train\.zip, Test\.zip not found in .*nmnist.*garrickorchard"):
        nd.load("nmnist", nmnist, events=EventConfig(frames=3))
    with pytest.raises(DataError, match="garrickorchard"):
        nd.prepare("nmnist", nmnist, events=EventConfig(frames=3))


def test_altered_frames_are_refused(nmnist):
    nd.prepare("nmnist", nmnist)
    target = next((nmnist / "nmnist-frames").iterdir())
    path = target / "train_images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"train_images\.npy is corrupt"):
        nd.load("nmnist", nmnist)
    manifest = json.loads((target / arrays.MANIFEST).read_bytes())
    assert manifest["framing"]["frames"] == 10
    del manifest["classes"]
    path.write_bytes(bytes([*content[:-1], content[-1] ^ 1]))
    (target / arrays.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="holds no frames of events"):
        nd.load("nmnist", nmnist)


def test_no_room(nmnist, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 1000))
    with pytest.raises(DataError, match=r"the frames need 0\.00 GB, but .* make room"):
        nd.prepare("nmnist", nmnist)


def bad_nmnist(root, content=None, name="Train/0/00001.bin"):
    write(
        root / "nmnist" / name,
        aer40(random_events(np.random.default_rng(0), 20, 34, 34, 99)) if content is None else content,
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (bytes(7), "00001.bin is truncated: 7 bytes"),
        (b"", "00001.bin has no events"),
        (bytes([34, 0, 0, 0, 0]), "00001.bin has an event with x 34"),
        (bytes([1, 239, 0, 0, 0]), "00001.bin has an event with y 239"),
        (bytes([0, 0, 0, 0, 9, 0, 0, 0, 0, 8]), "00001.bin runs backwards in time"),
    ],
)
def test_broken_recordings(nmnist, content, words):
    bad_nmnist(nmnist, content)
    with pytest.raises(DataError, match=words):
        nd.prepare("nmnist", nmnist)
    assert nd.overview(nmnist)[sorted(nd.SOURCES).index("nmnist")].state == "can be prepared"


def test_unsorted_recordings_by_setting(nmnist):
    bad_nmnist(nmnist, bytes([0, 0, 0, 0, 9, 1, 0, 0, 0, 8]))
    settings = EventConfig(frames=2, sort=True)
    nd.prepare("nmnist", nmnist, events=settings)
    frames = nd.load("nmnist", nmnist, events=settings).train.frames[0]
    assert (frames[0, 0, 0, 1], frames[1, 0, 0, 0]) == (1, 1)


@pytest.mark.parametrize("name", ["Train/x.bin", "Train/10/a.bin", "Train/0/readme.txt"])
def test_files_without_label(nmnist, name):
    bad_nmnist(nmnist, name=name)
    with pytest.raises(DataError, match="is not labelled"):
        nd.prepare("nmnist", nmnist)


def test_hidden_files_are_passed_over(nmnist):
    nd.prepare("nmnist", nmnist)
    before = nd.load("nmnist", nmnist).fingerprint
    write(nmnist / "nmnist" / "Train" / ".DS_Store", b"x")
    nd.prepare("nmnist", nmnist)
    assert nd.load("nmnist", nmnist).fingerprint == before


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("trials_to_test.txt", b"../../secret.aedat\n", r"lists '\.\./\.\./secret\.aedat'"),
        ("trials_to_test.txt", b"user24_lab.aedat\nuser24_lab.aedat\n", "names a recording twice"),
        ("trials_to_test.txt", b"\xff\xfe", "is no text"),
        ("user24_lab_labels.csv", b"class,start,end\n12,1,2\n", "line 2, is mislabelled: class 12"),
        ("user24_lab_labels.csv", b"class,start,end\n1,5,5\n", "start 5 before end 5"),
        ("user24_lab_labels.csv", b"class,start,end\n1,5\n", "is not class,start,end"),
        ("user24_lab_labels.csv", b"class,start,end\n", "labels no gesture"),
        (
            "user24_lab_labels.csv",
            b"class,start,end\n1,999000000,999000001\n",
            "from 999000000 to 999000001 µs has no events",
        ),
        ("user24_lab.aedat", b"nothing", "does not begin with"),
    ],
)
def test_broken_gesture_files(made, tmp_path, file, content, words):
    shutil.copytree(made / "dvs-gesture", tmp_path / "dvs-gesture")
    write(tmp_path / "dvs-gesture" / "DvsGesture" / file, content)
    with pytest.raises(DataError, match=words):
        nd.prepare("dvs-gesture", tmp_path, events=EventConfig(frames=1, downsample=16))
    assert nd.overview(tmp_path)


def test_missing_gesture_files_are_named(made, tmp_path):
    shutil.copytree(made / "dvs-gesture", tmp_path / "dvs-gesture")
    (tmp_path / "dvs-gesture" / "DvsGesture" / "user02_led_labels.csv").unlink()
    with pytest.raises(DataError, match=r"user02_led_labels\.csv not found in .*dvs-gesture.*research\.ibm\.com"):
        nd.prepare("dvs-gesture", tmp_path)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["cifar10_airplane_0.aedat", "x.txt"], "x.txt is no recording"),
        (["cifar10_airplane_0.aedat", "b_0.aedat"], "two recordings of one number"),
        (["cifar10_airplane_0.aedat"], "has one recording"),
        ([], "has no recordings"),
    ],
)
def test_broken_cifar10_dvs_folders(tmp_path, names, words):
    make_cifar10_dvs(tmp_path, per_class=2)
    folder = tmp_path / "cifar10-dvs" / "airplane"
    shutil.rmtree(folder)
    folder.mkdir()
    for name in names:
        write(folder / name, aedat2(random_events(np.random.default_rng(0), 9, 128, 128, 99)))
    with pytest.raises(DataError, match=words):
        nd.prepare("cifar10-dvs", tmp_path)


def spoil_shd(root, how):
    path = root / "shd" / "shd_train.h5"
    if how == "truncated":
        return write(path, path.read_bytes()[:3000])
    if how == "text":
        return write(path, b"not HDF5")
    with h5py.File(path, "r+") as file:
        if how == "unit":
            file["spikes/units"][3] = np.full(len(file["spikes/units"][3]), 700, np.uint16)
        elif how == "lengths":
            file["spikes/units"][3] = np.zeros(2, np.uint16)
        elif how == "nan":
            file["spikes/times"][3] = np.full(len(file["spikes/times"][3]), np.nan, np.float16)
        elif how == "label":
            file["labels"][0] = 20
        elif how == "external link":
            del file["labels"]
            file["labels"] = h5py.ExternalLink("shd_test.h5", "labels")
        elif how == "soft link":
            del file["spikes/times"]
            file["spikes/times"] = h5py.SoftLink("/spikes/units")
        elif how == "external data":
            del file["labels"]
            file.create_dataset("labels", (40,), np.uint16, external=[("/etc/passwd", 0, 80)])
        elif how == "group":
            del file["labels"]
            file.create_group("labels")
        elif how == "few labels":
            del file["labels"]
            file["labels"] = np.zeros(3, np.uint16)
    return path


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("truncated", "is corrupt, truncated or no file"),
        ("text", "is corrupt, truncated or no file"),
        ("unit", "recording 3, has an event with x 700"),
        ("lengths", "recording 3, is corrupt"),
        ("nan", "recording 3, is corrupt: its times are not finite"),
        ("label", "labels run from 0 to 19"),
        ("external link", "labels is missing or a link"),
        ("soft link", "spikes/times is missing or a link"),
        ("external data", "labels is no plain list in this file"),
        ("group", "labels is no plain list"),
        ("few labels", "is mislabelled: 3 labels"),
    ],
)
def test_broken_shd_files(tmp_path, how, words):
    make_shd(tmp_path)
    spoil_shd(tmp_path, how)
    with pytest.raises(DataError, match=words):
        nd.prepare("shd", tmp_path)


def test_settings_are_filled_with_what_is_usual():
    shd, cifar = nd.SOURCES["shd"], nd.SOURCES["cifar10-dvs"]
    usual = resolve_events(shd, EventConfig())
    assert (usual.frames, usual.split_by, usual.per_frame, usual.start) == (100, "time", 14_000, "zero")
    assert resolve_events(shd, usual) == usual
    whole = resolve_events(shd, EventConfig(per_frame=0))
    assert (whole.split_by, whole.per_frame, whole.start) == ("time", 0, "first")
    longer = resolve_events(shd, EventConfig(per_frame=20_000))
    assert (longer.per_frame, longer.start) == (20_000, "zero")
    by_count = resolve_events(shd, EventConfig(split_by="count"))
    assert (by_count.per_frame, by_count.start) == (0, "first")
    assert (resolve_events(cifar, EventConfig()).roll, resolve_events(cifar, EventConfig(shift=2)).roll) == (5, 0)
    assert resolve_events(cifar, EventConfig(split="random-900")).test_seed == 0
    assert resolve_events(nd.SOURCES["digits"], EventConfig()) == EventConfig()


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("digits", {"frames": 4}, "data.events.frames is for event data, but 'digits' has images"),
        ("dvs-gesture", {"flip": True}, "flip is not valid for 'dvs-gesture': mirrored, a wave of the right hand"),
        ("nmnist", {"flip": True}, "flip is not valid for 'nmnist'"),
        ("shd", {"flip": True}, "flip is not valid for 'shd'"),
        ("nmnist", {"split": "first-900"}, "split is for data sets without official test recordings"),
        ("cifar10-dvs", {"split": "half"}, "must be one of sorted-900, first-900, last-900, random-900"),
        ("cifar10-dvs", {"test_seed": 3}, "setting of split 'random-900' only"),
        ("cifar10-dvs", {"split": "random-900", "test_seed": -1}, "test_seed is -1"),
        ("nmnist", {"frames": 0}, "frames must be"),
    ],
)
def test_settings_that_a_data_set_does_not_have(name, settings, words, tmp_path):
    for call in (nd.load, nd.prepare):
        with pytest.raises(ConfigError, match=words):
            call(name, tmp_path, events=EventConfig(**settings))


def test_images_settings_are_refused(made):
    with pytest.raises(ConfigError, match=r"set data\.events\.downsample, not image_size"):
        nd.load("nmnist", made, image_size=16)
    with pytest.raises(ConfigError, match="has 2 channels"):
        nd.load("nmnist", made, channels=1)


def test_downsampled_sets_lie_side_by_side(made):
    settings = EventConfig(downsample=2)
    with pytest.raises(DataError, match=r"--data\.events\.downsample 2`"):
        nd.load("nmnist", made, events=settings)
    nd.prepare("nmnist", made, events=settings)
    whole, halved = nd.load("nmnist", made), nd.load("nmnist", made, events=settings)
    assert halved.image_size == (17, 17)
    blocks = whole.test().frames.reshape(20, 10, 2, 17, 2, 17, 2).sum((4, 6))
    assert np.array_equal(halved.test().frames, blocks)


def test_max_train_and_split_seed(made):
    assert len(nd.load("nmnist", made, max_train=5).train) == 5
    first, second = nd.load("nmnist", made), nd.load("nmnist", made, split_seed=1)
    assert first.fingerprint != second.fingerprint


def test_overview_and_notes(made, tmp_path):
    rows = {row.name: row for row in nd.overview(made)}
    assert {rows[name].state for name in MAKERS} == {"ready"}
    assert rows["shd"].about == (8156, 2264, 20, 1, (1, 700))
    make_shd(tmp_path)
    rows = {row.name: row for row in nd.overview(tmp_path)}
    assert (rows["shd"].state, rows["nmnist"].state) == ("can be prepared", "missing")
    assert nd.prepare("shd", made).notes == (
        "40 training and 20 test recordings in 100 frames of 14,000 µs",
        "officially there are 8,156 and 2,264",
    )


def test_batches_are_resumed_bit_for_bit(made):
    data = nd.load("cifar10-dvs", made)
    settings = {"seed": 3, "epoch": 2, "augmentation": data.augmentation()}
    whole = list(nd.batches(data.train, 16, **settings))
    rest = list(nd.batches(data.train, 16, start_batch=2, **settings))
    assert len(rest) == len(whole) - 2 > 0
    for (x, y), (x_again, y_again) in zip(whole[2:], rest, strict=True):
        assert torch.equal(x, x_again)
        assert torch.equal(y, y_again)
    plain = next(nd.batches(data.train, 16, seed=3, epoch=2, augmentation=data.augmentation(False)))
    assert not torch.equal(plain[0], whole[0][0])
    rows = nd.epoch_order(len(data.train), 3, 2)[:16]
    assert torch.equal(plain[0], data.train.inputs(rows.numpy(), data.mean, data.std))


def test_balanced_batches_take_each_class(made):
    data = nd.load("nmnist", made)
    batches = nd.balanced_batches(data.train, 8, per_class=2, seed=0, mean=data.mean, std=data.std)
    seen = [(x.shape[:2], y) for x, y in batches]
    assert all(shape == (10, len(y)) for shape, y in seen)
    assert torch.cat([y for _, y in seen]).bincount().tolist() == [2] * 10
