import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from ndsnn import data as nd
from ndsnn.errors import ConfigError, DataError, MissingDependencyError


def test_parts_are_disjoint_and_complete():
    data = nd.load("digits", image_size=8)
    parts = [data.train, data.validation, data.test()]
    assert [len(part) for part in parts] == [1294, 144, 359]
    ours = np.concatenate([part.images.numpy().reshape(-1, 64) for part in parts])
    labels = np.concatenate([part.labels.numpy() for part in parts])
    theirs = load_digits()
    expected = np.round(theirs.data / 16 * 255).astype(np.uint8)
    left = sorted(zip(map(bytes, ours), labels.tolist(), strict=True))
    right = sorted(zip(map(bytes, expected), theirs.target.tolist(), strict=True))
    assert left == right


def test_test_set_is_the_same_for_every_split():
    first, second = (
        nd.load("digits", split_seed=seed, validation_fraction=part) for seed, part in ((0, 0.1), (1, 0.3))
    )
    assert torch.equal(first.test().images, second.test().images)
    assert first.fingerprint != second.fingerprint
    assert first.test().labels[:8].tolist() == [1, 0, 2, 5, 5, 4, 8, 5]


def test_default_size_and_statistics_of_the_training_part():
    data = nd.load("digits")
    assert data.train.images.shape == (1294, 1, 16, 16)
    scaled = data.train.images.double() / 255
    assert abs(scaled.mean() - data.mean[0]) < 1e-9
    assert abs(scaled.std(correction=0) - data.std[0]) < 1e-9
    assert int(data.train.images.max()) == 255
    assert data.test().images.shape[1:] == (1, 16, 16)
    assert data.class_names == tuple("0123456789")


def test_independent_of_global_seeds():
    torch.manual_seed(0)
    first = nd.load("digits").fingerprint
    torch.manual_seed(1)
    assert nd.load("digits").fingerprint == first


def test_test_set_is_read_by_test_only(monkeypatch):
    source = type(nd.SOURCES["digits"])
    touched = []
    original = source.load_test
    monkeypatch.setattr(source, "load_test", lambda *a: touched.append(1) or original(*a))
    data = nd.load("digits")
    recipe = nd.default_augmentation("digits", data.mean, data.std)
    list(nd.batches(data.train, 64, seed=0, epoch=0, augmentation=recipe))
    list(nd.evaluation_batches(data.validation, 64, mean=data.mean, std=data.std))
    nd.overview()
    nd.prepare("digits")
    repr(data)
    assert not touched
    assert len(data.test()) == 359
    assert touched == [1]


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    for call in (nd.load, nd.prepare):
        with pytest.raises(MissingDependencyError, match=r"pip install 'ndsnn\[demo\]'"):
            call("digits")
    row = next(row for row in nd.overview() if row.name == "digits")
    assert row.state == "missing"


def test_mislabelled(monkeypatch):
    bunch = load_digits()
    bunch.target[5] = 12
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda: bunch)
    with pytest.raises(DataError, match="mislabelled: it has label 12"):
        nd.load("digits")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation_fraction": 0}, "validation_fraction"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"split_seed": -1}, "split_seed"),
        ({"image_size": 0}, "image_size"),
        ({"max_train": 0}, "max_train"),
        ({"channels": 3}, "has 1 channels, not 3"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        nd.load("digits", **settings)


def test_max_train_keeps_the_validation_part():
    data, whole = nd.load("digits", max_train=10), nd.load("digits")
    assert torch.equal(data.train.images, whole.train.images[:10])
    assert torch.equal(data.validation.images, whole.validation.images)


def test_unknown_name():
    for call in (nd.load, nd.prepare):
        with pytest.raises(ConfigError, match="unknown data set 'digit'; did you mean 'digits'"):
            call("digit")


def test_overview_of_an_empty_root(tmp_path, monkeypatch):
    monkeypatch.setenv("NDSNN_DATA", str(tmp_path))
    rows = {row.name: row for row in nd.overview()}
    events = ["cifar10-dvs", "dvs-gesture", "nmnist", "shd"]
    assert sorted({*rows} - {*events}) == [
        "cifar10",
        "cifar100",
        "digits",
        "fashion-mnist",
        "folder",
        "tiny-imagenet",
    ]
    assert list(rows) == sorted(rows)
    states = {name: row.state for name, row in rows.items() if name != "fashion-mnist"}
    assert states == dict.fromkeys(events, "missing") | {
        "cifar10": "can be downloaded",
        "cifar100": "can be downloaded",
        "digits": "ready",
        "folder": "missing",
        "tiny-imagenet": "can be downloaded",
    }
    assert rows["cifar10"].where == (
        str(tmp_path / "cifar-10-batches-py"),
        str(tmp_path / "cifar-10-python.tar.gz"),
    )
    assert rows["tiny-imagenet"].about == (100000, 10000, 200, 3, (64, 64))
    assert not list(tmp_path.iterdir())


def test_default_root(monkeypatch, tmp_path):
    monkeypatch.delenv("NDSNN_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert nd.data_root() == tmp_path / ".cache" / "ndsnn" / "data"
    assert nd.data_root("~/x") == tmp_path / "x"
    assert nd.data_root(tmp_path) == tmp_path


def test_sources_of_users_are_checked_too(monkeypatch):
    class Own(type(nd.SOURCES["digits"])):
        wrong = ""

        def class_names(self, root):
            return tuple("0123456789")[: 9 if self.wrong == "train" else 10]

        def load_test(self, root, size, channels):
            test = super().load_test(root, size, channels)
            return nd.ImageSet(test.images, test.labels + 1) if self.wrong == "test" else test

    own = Own()
    monkeypatch.setitem(nd.SOURCES._entries, "own", own)
    assert len(nd.load("own").test()) == 359
    own.wrong = "test"
    data = nd.load("own")
    with pytest.raises(DataError, match="mislabelled: it has label 10"):
        data.test()
    own.wrong = "train"
    with pytest.raises(DataError, match="mislabelled: it has label 9"):
        nd.load("own")
