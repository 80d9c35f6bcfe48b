"""Small event data sets in the official formats, written byte by byte from the formats' descriptions."""

import struct
import zipfile
from pathlib import Path

import h5py
import numpy as np

GESTURE_FILES = {"train": ("user01_lab.aedat", "user02_led.aedat"), "test": ("user24_lab.aedat",)}


def random_events(random, count, width, height, duration, polarities=2):
    """Events as a structured array in the order of time."""
    events = np.zeros(count, [("t", np.int64), ("x", np.int64), ("y", np.int64), ("p", np.int64)])
    events["t"] = np.sort(random.integers(0, duration, count))
    events["x"] = random.integers(0, width, count)
    events["y"] = random.integers(0, height, count)
    events["p"] = random.integers(0, polarities, count)
    return events


def aer40(events):
    """N-MNIST: 40 bits an event, big-endian; times above 2**23 - 1 are not written here."""
    words = [int(e["x"]) << 32 | int(e["y"]) << 24 | int(e["p"]) << 23 | int(e["t"]) for e in events]
    return b"".join(word.to_bytes(5, "big") for word in words)


def aedat2(events, header=b"#!AER-DAT2.0\r\n# written by a test\r\n"):
    """CIFAR10-DVS: x and y are the upright coordinates, p is 1 for on."""
    body = b""
    for e in events:
        address = (127 - int(e["x"])) << 8 | (127 - int(e["y"])) << 1 | (1 - int(e["p"]))
        body += struct.pack(">II", address, int(e["t"]))
    return header + body


def aedat3_packet(events, kind=1, overflow=0, valid=None):
    """One packet of AEDAT 3.1."""
    valid = [1] * len(events) if valid is None else valid
    head = struct.pack("<HHIIIIII", kind, 1, 8, 4, overflow, len(events), len(events), sum(valid))
    body = b""
    for e, good in zip(events, valid, strict=True):
        word = int(e["x"]) << 17 | int(e["y"]) << 2 | int(e["p"]) << 1 | good
        body += struct.pack("<II", word, int(e["t"]))
    return head + body


AEDAT3_HEADER = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n"


def aedat3(events, packet=100):
    """DVS128 Gesture: packets of so many events."""
    return AEDAT3_HEADER + b"".join(
        aedat3_packet(events[first : first + packet]) for first in range(0, len(events), packet)
    )


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def zip_folder(folder):
    """Put a folder into FOLDER.zip beside it, under its own name, and delete it."""
    archive = folder.with_name(folder.name + ".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                opened.write(path, path.relative_to(folder.parent).as_posix())
                path.unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir()
    folder.rmdir()
    return archive


def make_nmnist(root, per_class=4, test_per_class=2, classes=10, count=300, seed=0):
    """Recordings whose digit d lights columns 3 d to 3 d + 3, so that it can be learned."""
    random = np.random.default_rng(seed)
    for top, number in (("Train", per_class), ("Test", test_per_class)):
        for label in range(classes):
            for index in range(number):
                events = random_events(random, count, 34, 34, 300_000)
                events["x"] = 3 * label + events["x"] % 4
                write(root / "nmnist" / top / str(label) / f"{index + 1:05}.bin", aer40(events))
    return root


def make_gesture(root, seed=0):
    """Two recordings for training and one for testing, each with one trial of every class."""
    random = np.random.default_rng(seed)
    top = root / "dvs-gesture" / "DvsGesture"
    for part, files in GESTURE_FILES.items():
        write(top / f"trials_to_{part}.txt", ("\n".join(files) + "\n").encode())
        for file in files:
            events = random_events(random, 4000, 128, 128, 1_200_000)
            write(top / file, aedat3(events))
            rows = [f"{label},{label * 100_000},{label * 100_000 + 90_000}" for label in range(1, 12)]
            text = "class,startTime_usec,endTime_usec\n" + "\n".join(rows) + "\n"
            write(top / file.replace(".aedat", "_labels.csv"), text.encode())
    return root


def make_cifar10_dvs(root, per_class=10, seed=0):
    """Ten classes; file k of a class begins at time 1000 k, by which it can be told."""
    from ndsnn.data import SOURCES

    random = np.random.default_rng(seed)
    for name in SOURCES["cifar10-dvs"].classes:
        for index in range(per_class):
            events = random_events(random, 200, 128, 128, 50_000)
            events["t"] += 1000 * index - events["t"][0]
            write(root / "cifar10-dvs" / name / f"cifar10_{name}_{index}.aedat", aedat2(events))
    return root


def make_shd(root, train=40, test=20, seed=0):
    """Spikes as SHD has them: float16 seconds, uint16 units."""
    random = np.random.default_rng(seed)
    folder = Path(root) / "shd"
    folder.mkdir(parents=True, exist_ok=True)
    for part, number in (("train", train), ("test", test)):
        with h5py.File(folder / f"shd_{part}.h5", "w") as file:
            spikes = file.create_group("spikes")
            times = spikes.create_dataset("times", (number,), h5py.vlen_dtype(np.float16))
            units = spikes.create_dataset("units", (number,), h5py.vlen_dtype(np.uint16))
            labels = np.arange(number) % 20
            for index in range(number):
                count = int(random.integers(100, 200))
                times[index] = np.sort(random.uniform(0, 1.3, count)).astype(np.float16)
                units[index] = (labels[index] * 35 + random.integers(0, 35, count)).astype(np.uint16)
            file.create_dataset("labels", data=labels.astype(np.uint16))
            file.create_dataset("extra/keys", data=[f"key {i}".encode() for i in range(20)])
            file.create_dataset("extra/speaker", data=np.zeros(number, np.uint16))
    return root
