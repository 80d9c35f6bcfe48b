import dataclasses
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from ndsnn import data as nd
from ndsnn.data import arrays, trees
from ndsnn.data.tiny_imagenet import TinyImageNet
from ndsnn.errors import DataError, MissingDependencyError

WNIDS = ["n03", "n01", "n02"]
PER_CLASS, TEST = 4, 5
BROKEN = "train/n01/images/n01_1.JPEG"
ANNOTATIONS = "val/val_annotations.txt"


def jpeg(random, mode="RGB", side=64) -> bytes:
    shape = (side, side, 3) if mode == "RGB" else (side, side)
    file = io.BytesIO()
    Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8), mode).save(file, "JPEG")
    return file.getvalue()


def official_files() -> dict[str, bytes]:
    """Three classes of four images in the official layout; the first of each class is grey."""
    random = np.random.default_rng(0)
    found = {"wnids.txt": "\n".join(WNIDS).encode(), "words.txt": b"n01\tcat, felid\nn02\tdog\nn99\tnot used\n"}
    for wnid in WNIDS:
        found[f"train/{wnid}/{wnid}_boxes.txt"] = b""
        for index in range(PER_CLASS):
            found[f"train/{wnid}/images/{wnid}_{index}.JPEG"] = jpeg(random, "RGB" if index else "L")
    lines = []
    for index in range(TEST):
        found[f"val/images/val_{index}.JPEG"] = jpeg(random)
        lines.append(f"val_{index}.JPEG\t{WNIDS[index % 3]}\t0\t32\t44\t62\n")
    found[ANNOTATIONS] = "".join(lines).encode()
    found["test/images/test_0.JPEG"] = b"its label is secret, it is never read"
    return found


class Small:
    def __init__(self, root, monkeypatch):
        self.root, self.monkeypatch = root, monkeypatch
        self.files = official_files()
        self.source = TinyImageNet(
            classes=3, per_class=PER_CLASS, test_count=TEST, url="http://127.0.0.1:9/tiny-imagenet-200.zip"
        )
        self.register()

    def register(self, **changes):
        self.source = dataclasses.replace(self.source, **changes)
        self.monkeypatch.setitem(nd.SOURCES._entries, "tiny-imagenet", self.source)

    @property
    def folder(self):
        return self.root / "tiny-imagenet-200"

    @property
    def archive(self):
        return self.root / "tiny-imagenet-200.zip"

    def write_folder(self):
        for name, content in self.files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def write_zip(self, extra=()):
        with zipfile.ZipFile(self.archive, "w") as archive:
            for name, content in self.files.items():
                archive.writestr(f"tiny-imagenet-200/{name}", content)
            for name, content in extra:
                archive.writestr(name, content, zipfile.ZIP_DEFLATED)
        self.sign()

    def sign(self):
        self.register(archive_md5=hashlib.md5(self.archive.read_bytes()).hexdigest())

    def write(self, kind):
        self.write_zip() if kind == "zip" else self.write_folder()

    def prepare(self):
        told = []
        nd.prepare("tiny-imagenet", self.root, lambda *what: told.append(what))
        return told

    def load(self):
        return nd.load("tiny-imagenet", self.root)

    def whole(self):
        return self.source.load_train(self.root, None, None)


@pytest.fixture
def small(tmp_path, monkeypatch):
    return Small(tmp_path, monkeypatch)


both = pytest.mark.parametrize("kind", ["zip", "folder"])


@both
def test_equals_torchvisions_reader(small, kind, tmp_path_factory):
    small.write(kind)
    small.prepare()
    small.root, decoded_at = tmp_path_factory.mktemp("official"), small.root
    small.write_folder()
    theirs = torchvision.datasets.ImageFolder(small.folder / "train")
    ours = small.source.load_train(decoded_at, None, None)
    assert ours.labels.tolist() == theirs.targets
    for index, (image, _) in enumerate(theirs):
        assert np.array_equal(ours.images[index].permute(1, 2, 0).numpy(), np.asarray(image))
    assert torch.equal(ours.images[0, 0], ours.images[0, 2])  # grey became RGB


@both
def test_load(small, kind):
    small.write(kind)
    assert nd.overview(small.root)[-1].state == "can be prepared"
    told = small.prepare()
    assert told[-1] == ("decode", 17, 17)
    assert nd.overview(small.root)[-1].where == (str(small.root / "tiny-imagenet"),)
    data = small.load()
    assert data.class_names == ("cat, felid", "dog", "n03")
    assert (len(data.train), len(data.validation), data.num_classes) == (11, 1, 3)
    assert (data.image_size, data.channels) == ((64, 64), 3)
    test = data.test()
    assert test.labels.tolist() == [2, 0, 1, 2, 0]
    with Image.open(io.BytesIO(small.files["val/images/val_3.JPEG"])) as image:
        assert np.array_equal(test.images[3].permute(1, 2, 0).numpy(), np.asarray(image))
    small.prepare()


def test_zip_and_folder_decode_to_the_same_bytes(small):
    digests = []
    for kind in ("zip", "folder"):
        small.write(kind)
        small.prepare()
        digests.append(json.loads((small.root / "tiny-imagenet" / "manifest.json").read_text())["parts"])
        shutil.rmtree(small.root / "tiny-imagenet")
        small.archive.unlink(missing_ok=True)
    assert digests[0] == digests[1]


def test_not_decoded_yet(small):
    small.write_zip()
    with pytest.raises(DataError) as caught:
        small.load()
    for part in ("manifest.json", str(small.archive), str(small.folder), "`ndsnn data prepare tiny-imagenet`"):
        assert part in str(caught.value)


def test_nothing_there(small):
    with pytest.raises(DataError, match=r"download of http://127.0.0.1:9/tiny.*put it at"):
        small.prepare()


@both
@pytest.mark.parametrize("stop_at", [1, 5, 11, 13, 16])
def test_resumes_after_an_interruption(small, kind, stop_at, monkeypatch):
    small.write(kind)
    small.prepare()
    expected = {path.name: path.read_bytes() for path in (small.root / "tiny-imagenet").iterdir()}
    shutil.rmtree(small.root / "tiny-imagenet")
    monkeypatch.setattr(arrays, "build", lambda *a: build(*a, chunk=2))
    decoded, real = [], arrays_decode()

    def interrupted(tree, name):
        if len(decoded) == stop_at:
            raise KeyboardInterrupt
        decoded.append(name)
        return real(tree, name)

    monkeypatch.setattr("ndsnn.data.tiny_imagenet._decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        small.prepare()
    assert not (small.root / "tiny-imagenet").exists()
    again = []
    monkeypatch.setattr("ndsnn.data.tiny_imagenet._decode", lambda t, n: again.append(n) or real(t, n))
    small.prepare()
    assert {path.name: path.read_bytes() for path in (small.root / "tiny-imagenet").iterdir()} == expected
    assert len(again) <= 17 - stop_at + 1  # at most the part of a chunk that was not recorded is done again
    assert sorted(os.listdir(small.root))[0] == "tiny-imagenet"
    assert not (small.root / "tiny-imagenet.partial").exists()


build = arrays.build


def arrays_decode():
    from ndsnn.data import tiny_imagenet

    return tiny_imagenet._decode


KILLED = """
import os, sys, signal
from ndsnn.data import arrays, tiny_imagenet
from pathlib import Path
real, build, count = tiny_imagenet._decode, arrays.build, 0
def dying(tree, name):
    global count
    count += 1
    if count == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(tree, name)
tiny_imagenet._decode = dying
arrays.build = lambda *a: build(*a, chunk=3)
tiny_imagenet.TinyImageNet(classes=3, per_class=4, test_count=5).prepare(Path(sys.argv[1]), lambda *_: None)
"""


def test_resumes_after_a_kill(small):
    small.write_folder()
    code = subprocess.run([sys.executable, "-c", KILLED, str(small.root)], timeout=60).returncode
    assert code == -9
    state = json.loads((small.root / "tiny-imagenet.partial" / "progress.json").read_text())
    assert state["done"] == {"train": 6, "test": 0}
    told = small.prepare()
    assert told[-1] == ("decode", 17, 17)
    resumed = small.whole()
    shutil.rmtree(small.root / "tiny-imagenet")
    small.prepare()
    assert torch.equal(resumed.images, small.whole().images)


def test_work_begun_on_other_files_is_thrown_away(small, monkeypatch):
    small.write_folder()
    partial = small.root / "tiny-imagenet.partial"
    partial.mkdir()
    (partial / "progress.json").write_text(json.dumps({"source": "another", "done": {"train": 12, "test": 5}}))
    small.prepare()
    assert len(small.load().train) == 11


def test_lost_bytes_of_a_partial_file(small, monkeypatch):
    small.write_folder()
    partial = small.root / "tiny-imagenet.partial"
    partial.mkdir()
    source = trees.FolderTree(small.folder).identity()
    (partial / "progress.json").write_text(json.dumps({"source": source, "done": {"train": 6, "test": 0}}))
    (partial / "train_images.npy").write_bytes(b"short")
    with pytest.raises(DataError, match=r"train_images.npy is shorter than its record says; delete"):
        small.prepare()


@pytest.mark.parametrize("name", ["train_images.npy", "train_labels.npy"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_decoded_file(small, name, damage):
    small.write_folder()
    small.prepare()
    path = small.root / "tiny-imagenet" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flip" else content[:-1])
    for call in (small.load, small.prepare):
        with pytest.raises(DataError, match=f"{name} is .*delete .*tiny-imagenet and prepare it again"):
            call()


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"format": 2}', b'{"format": 1, "parts": {"train": {}}}'])
def test_damaged_manifest(small, content):
    small.write_folder()
    small.prepare()
    (small.root / "tiny-imagenet" / "manifest.json").write_bytes(content)
    with pytest.raises(DataError, match=r"manifest\.json"):
        small.load()


def test_images_are_mapped_not_changed(small):
    small.write_folder()
    small.prepare()
    path = small.root / "tiny-imagenet" / "train_images.npy"
    before = path.read_bytes()
    small.whole().images.zero_()
    assert path.read_bytes() == before


def replaced(old, new):
    return lambda files: files.update({name: content.replace(old, new) for name, content in files.items()})


def changed(name, change):
    return lambda files: files.update({name: change(files[name])})


FAULTS = {
    "truncated": (changed(BROKEN, lambda c: c[: len(c) // 2]), f"{BROKEN} is corrupt or truncated"),
    "empty": (changed(BROKEN, lambda c: b""), f"{BROKEN} is corrupt"),
    "not an image": (changed(BROKEN, lambda c: b"GIF89a nonsense"), f"{BROKEN} is corrupt or no"),
    "size": (changed(BROKEN, lambda c: jpeg(np.random.default_rng(0), side=32)), f"{BROKEN} has 32×32 pixels"),
    "missing image": (lambda f: f.pop(BROKEN), "train/n01 has 3 images, expected 4"),
    "wrong class": (
        lambda f: f.update({"train/n02/images/n01_1.JPEG": f.pop(BROKEN)}),
        "train/n02/images/n01_1.JPEG is mislabelled: its name does not begin with n02_",
    ),
    "unknown class": (
        lambda f: f.update({"train/n77/images/n77_1.JPEG": f[BROKEN]}),
        "n77_1.JPEG is mislabelled: 'n77' is not a class",
    ),
    "stray": (lambda f: f.update({"train/stray.JPEG": b""}), "train/stray.JPEG is mislabelled: '' is not a class"),
    "no line": (
        changed(ANNOTATIONS, lambda c: c[c.index(b"\n") + 1 :]),
        f"{ANNOTATIONS} has no line for .*val_0.JPEG",
    ),
    "no image": (lambda f: f.pop("val/images/val_2.JPEG"), "val_2.JPEG is missing, though"),
    "double line": (
        changed(ANNOTATIONS, lambda c: c + c),
        f"{ANNOTATIONS} line 6 labels val_0.JPEG a second time",
    ),
    "unknown wnid": (
        changed(ANNOTATIONS, lambda c: c.replace(b"n01", b"n77")),
        "line 2 is mislabelled: its class, 'n77'",
    ),
    "no wnid": (changed(ANNOTATIONS, lambda c: b"x\n"), "line 1 is mislabelled: its class, none"),
    "binary": (changed(ANNOTATIONS, lambda c: b"\xff\xfe"), f"{ANNOTATIONS} is corrupt"),
    "wnids": (changed("wnids.txt", lambda c: b"n01\nn01\nn02"), "wnids.txt names 3 classes, expected 3 different"),
    "no wnids": (lambda f: f.pop("wnids.txt"), "wnids.txt|no file"),
}


@both
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_name_the_file(small, kind, fault):
    change, message = FAULTS[fault]
    change(small.files)
    small.write(kind)
    with pytest.raises(DataError, match=message):
        small.prepare()
    assert not (small.root / "tiny-imagenet").exists()


def test_a_repaired_file_continues(small):
    good = small.files[BROKEN]
    small.files[BROKEN] = good[:50]
    small.write_folder()
    with pytest.raises(DataError, match="n01_1"):
        small.prepare()
    (small.folder / BROKEN).write_bytes(good)
    small.prepare()
    assert len(small.whole()) == 12


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../evil", "leads outside"),
        ("/etc/passwd", "leads outside"),
        ("tiny-imagenet-200/../../evil", "leads outside"),
        ("tiny-imagenet-200/a\\..\\evil", "leads outside"),
        ("other/file", "leads outside"),
        ("tiny-imagenet-200/wnids.txt", "two members have this name"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_names(small, name, message):
    small.write_zip([(name, b"x")])
    with pytest.raises(DataError, match=message):
        small.prepare()
    assert os.listdir(small.root) == ["tiny-imagenet-200.zip"]


def test_huge_member(small, monkeypatch):
    small.write_zip([("tiny-imagenet-200/bomb", bytes(trees.MEMBER_LIMIT + 1))])
    with pytest.raises(DataError, match=r"tiny-imagenet-200/bomb is refused: 16777217 bytes"):
        small.prepare()


def test_too_many_members(small, monkeypatch):
    monkeypatch.setattr(trees, "_MAX_MEMBERS", 3)
    small.write_zip()
    with pytest.raises(DataError, match=r"zip is refused: it has \d+ members"):
        small.prepare()


def test_archive_with_a_wrong_checksum_is_not_opened(small, monkeypatch):
    small.write_zip()
    small.register(archive_md5="0" * 32)
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(DataError, match=r"tiny-imagenet-200.zip is corrupt or truncated: its MD5"):
        small.prepare()


def test_damage_inside_the_archive(small):
    small.write_zip()
    content = bytearray(small.archive.read_bytes())
    content[content.index(small.files[BROKEN]) + 600] ^= 1
    small.archive.write_bytes(content)
    small.sign()
    with pytest.raises(DataError, match=r"n01_1.JPEG is corrupt or truncated: Bad CRC"):
        small.prepare()
    small.archive.write_bytes(content[:-100])
    small.sign()
    with pytest.raises(DataError, match=r"tiny-imagenet-200.zip is corrupt or truncated"):
        small.prepare()


def test_folder_that_is_in_the_way(small):
    small.write_folder()
    (small.root / "tiny-imagenet").mkdir()
    with pytest.raises(DataError, match=r"tiny-imagenet exists but has no manifest.json; move it away"):
        small.prepare()


def test_full_disk(small, monkeypatch):
    small.write_folder()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(arrays.os, "fsync", full)
    with pytest.raises(DataError, match=r"partial cannot be written: .*No space left.*run the command again"):
        small.prepare()


def test_without_pillow(small, monkeypatch):
    small.write_folder()
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'ndsnn\[vision\]'"):
        small.prepare()
