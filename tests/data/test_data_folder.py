import sys

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from ndsnn import data as nd
from ndsnn.errors import ConfigError, DataError, MissingDependencyError


class Tree:
    def __init__(self, root):
        self.root = root
        self.random = np.random.default_rng(0)
        for part, count in (("train", 10), ("test", 2)):
            for name in ("cat", "Dog"):
                for index in range(count):
                    self.image(f"{part}/{name}/{index:02}.png")

    def image(self, name, mode="RGB", size=(6, 8)):
        shape = {"RGB": (*size, 3), "RGBA": (*size, 4), "LA": (*size, 2)}.get(mode, size)
        kind = np.uint16 if mode == "I;16" else np.uint8
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(self.random.integers(0, 256, shape).astype(kind)).save(path)
        return path

    def load(self, **settings):
        return nd.load("folder", self.root, **settings)


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def test_equals_torchvision(tree):
    data = tree.load()
    for part, ours in (("train", nd.SOURCES["folder"].load_train(tree.root, None, None)), ("test", data.test())):
        theirs = torchvision.datasets.ImageFolder(tree.root / part)
        assert ours.labels.tolist() == theirs.targets
        expected = np.stack([np.asarray(image) for image, _ in theirs])
        assert np.array_equal(ours.images.permute(0, 2, 3, 1).numpy(), expected)
    assert data.class_names == ("Dog", "cat")
    assert (len(data.train), len(data.validation), data.num_classes) == (18, 2, 2)
    assert (data.channels, data.image_size) == (3, (6, 8))
    scaled = data.train.images.double() / 255
    torch.testing.assert_close(torch.tensor(data.mean).double(), scaled.mean((0, 2, 3)))


@pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG", "bmp", "webp", "ppm"])
def test_formats(tree, suffix):
    tree.image(f"train/cat/other.{suffix}")
    assert len(tree.load().train) == 19


def test_channels_by_the_files_and_by_setting(tree):
    for path in tree.root.rglob("*.png"):
        Image.open(path).convert("L").save(path)
    grey = tree.load()
    assert grey.channels == 1
    assert grey.test().images.shape == (4, 1, 6, 8)
    colour = tree.load(channels=3)
    assert colour.test().images.shape == (4, 3, 6, 8)
    assert torch.equal(colour.train.images, grey.train.images.expand(-1, 3, -1, -1))
    tree.image("train/cat/colour.png", "RGBA")
    assert tree.load().channels == 3
    assert tree.load().test().images.shape == (4, 3, 6, 8)
    assert tree.load(channels=1).channels == 1
    with pytest.raises(ConfigError, match="channels must be 1"):
        tree.load(channels=2)


def test_different_sizes(tree):
    odd = tree.image("train/cat/99.png", size=(4, 4))
    with pytest.raises(DataError, match=r"cat/99.png has 4×4 pixels, but .*Dog/00.png has 6×8; set image_size"):
        tree.load()
    data = tree.load(image_size=(5, 7))
    assert data.train.images.shape[1:] == (3, 5, 7)
    assert data.test().images.shape[1:] == (3, 5, 7)
    odd.unlink()
    tree.image("test/cat/99.png", size=(4, 4))
    assert tree.load().test().images.shape == (5, 3, 6, 8)


def test_hidden_files_are_skipped(tree):
    (tree.root / "train" / ".DS_Store").write_bytes(b"x")
    (tree.root / "train" / "cat" / ".hidden").write_bytes(b"x")
    assert len(tree.load().train) == 18


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def flip(path):
    content = bytearray(path.read_bytes())
    content[60] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize(
    "damage", [cut, flip, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"GIF89a")]
)
def test_damaged_image(tree, part, damage):
    damage(tree.root / part / "cat" / "01.png")
    with pytest.raises(DataError, match=f"{part}/cat/01.png is corrupt"):
        tree.load().test()


def test_bad_layouts(tree):
    def fails(message):
        with pytest.raises(DataError, match=message):
            tree.load().test()
        with pytest.raises(DataError, match=message):
            nd.prepare("folder", tree.root)

    stray = tree.image("train/stray.png")
    fails(r"train/stray.png is not labelled: move it")
    stray.unlink()
    text = tree.root / "train" / "cat" / "notes.txt"
    text.write_text("x")
    fails(r"cat/notes.txt is no image")
    text.unlink()
    deep = tree.image("train/cat/deep/1.png")
    fails(r"cat/deep is no image")
    deep.unlink()
    deep.parent.rmdir()
    empty = tree.root / "train" / "empty"
    empty.mkdir()
    fails(r"train/empty is empty")
    empty.rmdir()
    bird = tree.image("test/bird/1.png")
    fails(r"test/bird is mislabelled: there is no class 'bird'")
    bird.unlink()
    bird.parent.rmdir()
    (tree.root / "test").rename(tree.root / "elsewhere")
    fails(r"test/ not found; looked in .*/train, .*/test; run `ndsnn data prepare folder`")
    (tree.root / "test").mkdir()
    fails(r"test has no images")
    nothing = tree.root / "train"
    nothing.rename(tree.root / "gone")
    nothing.mkdir()
    fails(r"train has no folders; make one for each class")


def test_16_bit_images_are_refused_rather_than_clipped(tree):
    tree.image("train/cat/deep.png", "I;16")
    with pytest.raises(DataError, match=r"deep.png has pixels of mode I;16; convert"):
        tree.load()


def test_too_many_pixels(tree, monkeypatch):
    monkeypatch.setattr("ndsnn.data.decode.MAX_PIXELS", 40)
    with pytest.raises(DataError, match=r"00.png is refused: 8×6 pixels are more than 40"):
        tree.load()


def test_bomb_that_pillow_refuses(tree, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match=r"00.png is refused"):
        tree.load()


def test_root_is_required():
    for call in (nd.load, nd.prepare):
        with pytest.raises(ConfigError, match=r"set --data\.root"):
            call("folder")


def test_prepare_and_overview(tree):
    told = []
    row = nd.prepare("folder", tree.root, lambda *what: told.append(what))
    assert (row.state, row.where) == ("ready", (str(tree.root),))
    assert told[-1] == ("verify", 24, 24)


def test_without_pillow(tree, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'ndsnn\[vision\]'"):
        tree.load()
