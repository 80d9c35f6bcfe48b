import dataclasses
import hashlib
import os
import pickle
import shutil
import tarfile

import numpy as np
import pytest
import torch
import torchvision

from ndsnn import data as nd
from ndsnn.data.cifar import CIFAR10, CIFAR100
from ndsnn.data.pickles import load_arrays
from ndsnn.errors import DataError

OFFICIAL = {
    "cifar10": (CIFAR10, torchvision.datasets.CIFAR10),
    "cifar100": (CIFAR100, torchvision.datasets.CIFAR100),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_checksums_are_those_of_torchvision(name):
    ours, theirs = OFFICIAL[name]
    assert list(ours.train_files.items()) == [tuple(entry) for entry in theirs.train_list]
    assert list(ours.test_files.items()) == [tuple(entry) for entry in theirs.test_list]
    assert ours.meta_file == (theirs.meta["filename"], theirs.meta["md5"])
    assert ours.meta_key == theirs.meta["key"]
    assert (ours.folder, ours.archive, ours.archive_md5) == (theirs.base_folder, theirs.filename, theirs.tgz_md5)
    assert ours.url + ours.archive == theirs.url


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


class Small:
    """A CIFAR of a few images in the official format, its checksums put into a copy of the real table."""

    def __init__(self, name, root, monkeypatch):
        self.name, self.root, self.monkeypatch = name, root, monkeypatch
        self.official, self.theirs = OFFICIAL[name]
        self.folder = root / self.official.folder
        self.folder.mkdir(parents=True)
        random = np.random.default_rng(0)
        for file in (*self.official.train_files, *self.official.test_files):
            labels = random.integers(0, self.official.classes, 6).tolist()
            images = random.integers(0, 256, (6, 3072), dtype=np.uint8)
            self.write(file, {"data": images, self.official.label_key: labels, "filenames": ["x.png"] * 6})
        self.write(
            self.official.meta_file[0],
            {self.official.meta_key: [f"class {i}" for i in range(self.official.classes)]},
        )
        self.register()

    def write(self, file, entry):
        (self.folder / file).write_bytes(pickle.dumps(entry, protocol=2))

    def read(self, file):
        return pickle.loads((self.folder / file).read_bytes())

    def pack(self):
        with tarfile.open(self.root / self.official.archive, "w:gz") as tar:
            tar.add(self.folder, self.official.folder)
        shutil.rmtree(self.folder)
        self.register(archive_md5=md5((self.root / self.official.archive).read_bytes()))

    def register(self, **changes):
        if self.folder.exists():
            self.sums = {path.name: md5(path.read_bytes()) for path in self.folder.iterdir()}
        source = dataclasses.replace(
            self.official,
            train_files={file: self.sums[file] for file in self.official.train_files if file in self.sums},
            test_files={file: self.sums[file] for file in self.official.test_files if file in self.sums},
            meta_file=(self.official.meta_file[0], self.sums[self.official.meta_file[0]]),
            train_count=6 * len(self.official.train_files),
            test_count=6,
            url="http://127.0.0.1:9/",
            **changes,
        )
        self.monkeypatch.setitem(nd.SOURCES._entries, self.name, source)

    def load(self):
        return nd.load(self.name, self.root)


@pytest.fixture(params=OFFICIAL)
def small(request, tmp_path, monkeypatch):
    return Small(request.param, tmp_path, monkeypatch)


def whole(small):
    return nd.SOURCES[small.name].load_train(small.root, None, None)


def test_equals_torchvision_on_the_same_files(small):
    theirs = type("Theirs", (small.theirs,), {})
    theirs.train_list = [[file, small.sums[file]] for file in small.official.train_files]
    theirs.test_list = [[file, small.sums[file]] for file in small.official.test_files]
    theirs.meta = {**theirs.meta, "md5": small.sums[small.official.meta_file[0]]}
    for train, ours in ((True, whole(small)), (False, small.load().test())):
        reader = theirs(small.root, train=train)
        assert np.array_equal(ours.images.permute(0, 2, 3, 1).numpy(), reader.data)
        assert ours.labels.tolist() == reader.targets
        assert list(small.load().class_names) == reader.classes


def test_archive_equals_folder(small):
    before = small.load()
    test = before.test()
    small.pack()
    after = small.load()
    assert after.fingerprint == before.fingerprint
    assert torch.equal(after.test().images, test.images)
    assert os.listdir(small.root) == [small.official.archive]


def test_prepare_unpacks_the_archive(small):
    before = small.load()
    small.pack()
    row = nd.prepare(small.name, small.root)
    assert row.state == "ready"
    assert row.where == (str(small.folder),)
    (small.root / small.official.archive).unlink()
    assert small.load().fingerprint == before.fingerprint
    assert sorted(os.listdir(small.root)) == [small.official.folder]
    nd.prepare(small.name, small.root)


def test_constants(small):
    data = small.load()
    assert (data.num_classes, data.channels, data.image_size) == (small.official.classes, 3, (32, 32))
    assert (data.mean, data.std) == small.official.statistics
    assert len(data.train) + len(data.validation) == 6 * len(small.official.train_files)


@pytest.mark.parametrize("damage", [lambda c: c[:-10], lambda c: b"", lambda c: c[:50] + b"\0" + c[51:]])
def test_bad_file_is_noticed_before_decoding(small, damage, monkeypatch):
    file = next(iter(small.official.train_files))
    path = small.folder / file
    path.write_bytes(damage(path.read_bytes()))
    decoded = []
    monkeypatch.setattr("ndsnn.data.cifar.load_arrays", lambda content, where: decoded.append(where) or {})
    with pytest.raises(DataError, match=f"{file} is corrupt or truncated.*ndsnn data prepare {small.name}"):
        whole(small)
    assert not [where for where in decoded if where.endswith(f"/{file}")]


def test_bad_archive(small):
    small.pack()
    path = small.root / small.official.archive
    path.write_bytes(path.read_bytes()[:-50])
    for call in (small.load, lambda: nd.prepare(small.name, small.root)):
        with pytest.raises(DataError, match=f"{small.official.archive} is corrupt or truncated"):
            call()
    assert os.listdir(small.root) == [small.official.archive]


def test_missing_file(small):
    file = next(iter(small.official.test_files))
    (small.folder / file).unlink()
    with pytest.raises(DataError) as caught:
        small.load()
    for part in (
        f": {file} not found",
        str(small.folder),
        small.official.archive,
        f"`ndsnn data prepare {small.name}`",
    ):
        assert part in str(caught.value)


def test_bad_test_file_is_noticed_by_test_only(small):
    (small.folder / next(iter(small.official.test_files))).write_bytes(b"x")
    data = small.load()
    with pytest.raises(DataError, match=r"test.* is corrupt"):
        data.test()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": [0] * 5}, "5 labels for 6 images"),
        ({"label": [0] * 5 + [100]}, "is mislabelled: it has label 100"),
        ({"label": [0] * 5 + [-1]}, "is mislabelled: it has label -1"),
        ({"label": ["a"] * 6}, "no list of integers"),
        ({"label": None}, "no list of integers"),
        ({"data": np.zeros((6, 3071), np.uint8)}, "no uint8 array"),
        ({"data": np.zeros((6, 3072), np.int64)}, "no uint8 array"),
        ({"data": "text"}, "no uint8 array"),
        ({"data": np.zeros((6, 3072), np.float32)}, "a type that does not belong here"),
        ({"data": np.zeros((5, 3072), np.uint8), "label": [0] * 5}, r"hold \d+ images, expected"),
    ],
)
def test_wrong_content_under_a_right_checksum(small, change, message):
    file = next(iter(small.official.train_files))
    entry = small.read(file)
    entry.update({small.official.label_key if key == "label" else key: value for key, value in change.items()})
    small.write(file, entry)
    small.register()
    with pytest.raises(DataError, match=f"{file}.*{message}"):
        whole(small)


def test_wrong_class_names(small):
    file = small.official.meta_file[0]
    small.write(file, {small.official.meta_key: ["one"]})
    small.register()
    with pytest.raises(DataError, match=f"{file} is corrupt.*names"):
        small.load()


class _Attack:
    def __init__(self, target, *arguments):
        self.call = (target, arguments)

    def __reduce__(self):
        return self.call


def test_pickle_runs_nothing(tmp_path):
    witness = tmp_path / "witness"
    for attack in (_Attack(os.mkdir, str(witness)), _Attack(eval, f"__import__('os').mkdir({str(witness)!r})")):
        with pytest.raises(DataError, match=r"evil is corrupt.*which is no array"):
            load_arrays(pickle.dumps({"data": attack}), "evil")
    assert not witness.exists()


def test_pickle_of_python_2():
    # As numpy under Python 2 wrote it: byte strings, numpy.core, protocol 2.
    content = (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01K\x02\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x02\xff\x07tbU\x06labels]K\x03au."
    )
    entries = load_arrays(content, "batch")
    assert entries["data"].tolist() == [[255, 7]]
    assert entries["labels"] == [3]
    assert np.array_equal(pickle.loads(content, encoding="latin1")["data"], entries["data"])


@pytest.mark.parametrize("array", [np.arange(12, dtype=np.uint8).reshape(3, 4), np.arange(6).reshape(2, 3).T])
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_pickle_round_trip(array, protocol):
    found = load_arrays(pickle.dumps({"data": array}, protocol), "x")["data"]
    assert np.array_equal(found, array)
    assert found.dtype == array.dtype


@pytest.mark.parametrize("content", [b"", b"x", pickle.dumps([1]), pickle.dumps({"data": np.array([object()])})])
def test_bad_pickles(content):
    with pytest.raises(DataError, match="x is corrupt or not a CIFAR file"):
        load_arrays(content, "x")
