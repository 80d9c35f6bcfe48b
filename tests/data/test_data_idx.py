import dataclasses
import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from ndsnn import data as nd
from ndsnn.data.files import Checksum
from ndsnn.data.idx import FashionMnist, IdxFile, parse_idx
from ndsnn.errors import DataError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
real = pytest.mark.skipif(not DEBIAN.is_dir(), reason="the package dataset-fashion-mnist is not installed")


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


class Small:
    def __init__(self, root, monkeypatch):
        self.root, self.monkeypatch = root, monkeypatch
        self.folder = root / "fashion-mnist"
        self.folder.mkdir()
        random = np.random.default_rng(0)
        self.arrays = {}
        for part, count in (("train", 20), ("t10k", 5)):
            self.arrays[f"{part}-images-idx3-ubyte.gz"] = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
            self.arrays[f"{part}-labels-idx1-ubyte.gz"] = random.integers(0, 10, count, dtype=np.uint8)
        self.contents = {name: idx(array) for name, array in self.arrays.items()}
        self.register()

    def register(self, **changes):
        table = {}
        for name, content in self.contents.items():
            packed = gzip.compress(content)
            (self.folder / name).write_bytes(packed)
            table[name] = IdxFile(
                Checksum("md5", hashlib.md5(packed).hexdigest()),
                Checksum("sha256", hashlib.sha256(content).hexdigest()),
                self.arrays[name].shape,
            )
        settings = {"table": table, "system_folder": self.root / "system", "url": "http://127.0.0.1:9/", **changes}
        self.monkeypatch.setitem(nd.SOURCES._entries, "fashion-mnist", FashionMnist(**settings))

    def load(self):
        return nd.load("fashion-mnist", self.root)


@pytest.fixture
def small(tmp_path, monkeypatch):
    return Small(tmp_path, monkeypatch)


IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


def test_small_files(small):
    data = small.load()
    whole = nd.SOURCES["fashion-mnist"].load_train(small.root, None, None)
    assert np.array_equal(whole.images[:, 0].numpy(), small.arrays[IMAGES])
    assert whole.labels.tolist() == small.arrays[LABELS].tolist()
    assert (len(data.train), len(data.validation), len(data.test())) == (18, 2, 5)
    assert data.test().labels.tolist() == small.arrays["t10k-labels-idx1-ubyte.gz"].tolist()


def test_download_checksums_are_those_of_torchvision():
    theirs = dict(torchvision.datasets.FashionMNIST.resources)
    ours = nd.SOURCES["fashion-mnist"]
    assert {name: entry.download.digest for name, entry in ours.table.items()} == theirs
    assert ours.url == torchvision.datasets.FashionMNIST.mirrors[0]


def test_second_place(small):
    small.folder.rename(small.root / "system")
    assert {row.name: row for row in nd.overview(small.root)}["fashion-mnist"].where == (
        str(small.root / "system"),
    )
    small.folder.mkdir()
    (small.folder / IMAGES).write_bytes(b"a lonely file does not hide the complete folder")
    assert len(small.load().train) == 18
    assert nd.prepare("fashion-mnist", small.root).state == "ready"


def test_missing_file(small):
    (small.folder / LABELS).unlink()
    with pytest.raises(DataError) as caught:
        small.load()
    for part in (
        LABELS,
        str(small.folder),
        str(small.root / "system"),
        "`ndsnn data prepare fashion-mnist`",
        "apt install",
    ):
        assert part in str(caught.value)
    with pytest.raises(DataError, match=f"download of http://127.0.0.1:9/{LABELS} failed"):
        nd.prepare("fashion-mnist", small.root)


@pytest.mark.parametrize("name", [IMAGES, LABELS])
def test_truncated_and_corrupt(small, name):
    path = small.folder / name
    packed = path.read_bytes()
    other = gzip.compress(small.contents[name][:-1] + b"\0")
    bomb = gzip.compress(bytes(1 << 22))
    for content, message in (
        (packed[:-20], "is corrupt or truncated"),
        (b"", "is corrupt or truncated"),
        (other, "is corrupt or truncated: its SHA256 is"),
        (bomb, "more than the expected"),
    ):
        path.write_bytes(content)
        for call in (small.load, lambda: nd.prepare("fashion-mnist", small.root)):
            with pytest.raises(DataError, match=f"{name} .*{message}"):
                call()


def test_mislabelled(small):
    small.arrays[LABELS][3] = 10
    small.contents[LABELS] = idx(small.arrays[LABELS])
    small.register()
    with pytest.raises(DataError, match=f"{LABELS} is mislabelled: it has label 10"):
        small.load()


def test_header_of_another_array(small):
    small.contents[LABELS] = idx(small.arrays[LABELS].reshape(4, 5)[:, :4])
    small.register()
    with pytest.raises(DataError, match=rf"{LABELS} holds an array \[4, 4\], expected \[20\]"):
        small.load()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an IDX file of bytes: it starts with nothing"),
        (b"\0\0\x0d\x01\0\0\0\0", "starts with 00 00 0d 01"),
        (b"\0\0\x08\0", "is not an IDX file"),
        (b"\0\0\x08\x02\0\0\0\x01", "ends within its header"),
        (b"\0\0\x08\x01\0\0\0\x03ab", "announces .3., 3 bytes, but 2 follow"),
        (b"\0\0\x08\x01\0\0\0\x01ab", "announces .1., 1 bytes, but 2 follow"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "but 0 follow"),
    ],
)
def test_bad_idx(content, message):
    with pytest.raises(DataError, match=f"name.gz {message}|name.gz .*{message}"):
        parse_idx(content, "name.gz")


def test_idx_round_trip():
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert np.array_equal(parse_idx(idx(array), "x"), array)


@real
def test_real_files(tmp_path):
    data = nd.load("fashion-mnist", tmp_path)
    assert (len(data.train), len(data.validation)) == (54000, 6000)
    assert (data.channels, data.image_size, data.num_classes) == (1, (28, 28), 10)
    whole = nd.SOURCES["fashion-mnist"].load_train(tmp_path, None, None)
    assert torch.bincount(whole.labels).tolist() == [6000] * 10
    assert whole.labels[:5].tolist() == [9, 0, 0, 3, 0]
    assert abs((whole.images / 255).mean() - data.mean[0]) < 1e-4
    assert abs((whole.images / 255).std() - data.std[0]) < 1e-4
    test = data.test()
    assert len(test) == 10000
    assert data.class_names[test.labels[0]] == "Ankle boot"


@real
def test_real_files_are_those_that_torchvision_reads(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for path in DEBIAN.glob("t10k*.gz"):
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    theirs = torchvision.datasets.mnist
    test = nd.SOURCES["fashion-mnist"].load_test(tmp_path, None, None)
    assert torch.equal(test.images[:, 0], theirs.read_image_file(str(raw / "t10k-images-idx3-ubyte")))
    assert torch.equal(test.labels, theirs.read_label_file(str(raw / "t10k-labels-idx1-ubyte")))


@real
def test_max_train_and_size(tmp_path):
    data = nd.load("fashion-mnist", tmp_path, image_size=14, max_train=100)
    assert data.train.images.shape == (100, 1, 14, 14)
    assert dataclasses.is_dataclass(data)
