"""Arrays, HDF5 files and images that bring code, lead to other files, or claim more than there is."""

import hashlib
import io
import json
import pickle
import struct
import zlib

import h5py
import numpy as np
import pytest
from attack_watch import Payload, refused

from ndsnn.data import arrays
from ndsnn.data.decode import decode
from ndsnn.data.events.formats import read_aedat2_dvs128, read_aedat3
from ndsnn.data.events.shd import Shd, read_spikes
from ndsnn.data.idx import parse_idx
from ndsnn.errors import DataError

IMAGES = np.zeros((2, 1, 2, 2), np.uint8)


def npy(array, **keywords):
    file = io.BytesIO()
    np.save(file, array, **keywords)
    return file.getvalue()


def npz(**contents):
    file = io.BytesIO()
    np.savez(file, **contents)
    return file.getvalue()


def header(text):
    """A .npy file of a header of one's own."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(64)


def prepared(folder, images=None, labels=None, **manifest):
    """A folder of prepared images whose manifest vouches for whatever is in it."""
    folder.mkdir()
    entry = {"shape": [2, 1, 2, 2]}
    for name, content in (("images", images or npy(IMAGES)), ("labels", labels or npy(np.arange(2)))):
        (folder / f"train_{name}.npy").write_bytes(content)
        entry[f"{name}_sha256"] = hashlib.sha256(content).hexdigest()
    text = {"format": 1, "parts": {"train": entry}} | manifest
    (folder / "manifest.json").write_text(json.dumps(text))
    return folder


@pytest.mark.parametrize("which", ["images", "labels"])
def test_a_pickle_in_an_array(tmp_path, which):
    witness = tmp_path / "witness"
    objects = npy(np.array([Payload(witness)] * 2, dtype=object), allow_pickle=True)
    for content in (
        objects,
        pickle.dumps(Payload(witness)),
        npz(arr_0=np.array([Payload(witness)], dtype=object)),
    ):
        folder = prepared(tmp_path / str(len(list(tmp_path.iterdir()))), **{which: content})
        with refused(DataError, "corrupt|no single array"):
            arrays.open_part(folder, "train")
    assert not witness.exists()


@pytest.mark.parametrize(
    "text",
    [
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (1073741824, 1073741824, 1, 1)}",
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (-2, 1, 2, 2)}",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (2, 1, 2, 2)}",
        b"{'descr': __import__('os').mkdir('witness'), 'fortran_order': False, 'shape': (2,)}",
        b"{'descr': '<U999999999', 'fortran_order': False, 'shape': (2, 1, 2, 2)}",
        b"(" * 200 + b")" * 200,
        b"[" * 9000,
        b"",
    ],
)
def test_headers_of_arrays(tmp_path, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = prepared(tmp_path / "a", images=header(text))
    with refused(DataError, "corrupt|does not fit"):
        arrays.open_part(folder, "train")
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "object"},
        {"dtype": "float64"},
        {"parts": {"train": {"shape": "x"}}},
        {"parts": {"train": []}},
        {"parts": {}},
        {"parts": []},
        {"format": "1"},
    ],
)
def test_manifests_of_arrays(tmp_path, change):
    folder = prepared(tmp_path / "a", **change)
    with refused(DataError, "manifest.json"):
        arrays.open_part(folder, "train")


def test_labels_that_are_no_numbers(tmp_path):
    folder = prepared(tmp_path / "a", labels=npy(np.array(["a", "b"])))
    with refused(DataError, "does not fit"):
        arrays.open_part(folder, "train")


def shd(path, **changes):
    with h5py.File(path, "w") as file:
        spikes = file.create_group("spikes")
        for name, kind in (("times", "f2"), ("units", "u2")):
            if name in changes:
                changes[name](spikes, name)
                continue
            lists = spikes.create_dataset(name, (3,), h5py.vlen_dtype(np.dtype(kind)))
            for row in range(3):
                lists[row] = np.arange(4).astype(kind)
        if "labels" in changes:
            changes["labels"](file, "labels")
        else:
            file["labels"] = np.arange(3)
    return path


def soft(file, name):
    file[name] = h5py.SoftLink("/elsewhere")


def outer(file, name):
    file[name] = h5py.ExternalLink("/etc/passwd", "/x")


def external(file, name):
    file.create_dataset(name, (3,), "i8", external=[("/etc/passwd", 0, 24)])


def virtual(file, name):
    layout = h5py.VirtualLayout((3,), "i8")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (3,))
    file.create_virtual_dataset(name, layout)


def huge(file, name):
    file.create_dataset(name, (2**40,), "i8", chunks=(2**20,), compression="gzip")


def wide(file, name):
    file.create_dataset(name, (3,), np.dtype(("f8", (2**27,))), chunks=(1,))


def plugin(file, name):
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk((3,))
    made.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (1,))
    space = h5py.h5s.create_simple((3,))
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.STD_I64LE, space, made)


def texts(file, name):
    file.create_dataset(name, (3,), h5py.string_dtype())


def references(file, name):
    file.create_dataset(name, (3,), h5py.ref_dtype)


@pytest.mark.parametrize("lie", [soft, outer, external, virtual, huge, wide, plugin, texts, references])
@pytest.mark.parametrize("name", ["labels", "times"])
def test_hdf5(tmp_path, lie, name):
    folder = tmp_path / "shd"
    folder.mkdir()
    shd(folder / "shd_test.h5")
    path = shd(folder / "shd_train.h5", **{name: lie})
    with refused(DataError, "is refused|is mislabelled|is corrupt"):
        Shd().open(tmp_path, Shd.usual)
        read_spikes(path, 0)


@pytest.mark.parametrize("sides", [(2**32 - 1,) * 3, (2**31, 2**31, 4), (0, *[2**32 - 1] * 4), (2**32 - 1,) * 255])
def test_idx_that_claims_more(sides):
    content = b"\0\0\x08" + bytes([len(sides)]) + struct.pack(f">{len(sides)}I", *sides)
    with refused(DataError, "announces|corrupt"):
        parse_idx(content + b"x" * (0 not in sides), "file")


@pytest.mark.parametrize("size", [2**31 - 1, -1, 0])
def test_packets_that_claim_more(size):
    head = struct.pack("<HHiiiiii", 1, 1, 8, 4, 0, size, size, size)
    with refused(DataError, "truncated|corrupt"):
        read_aedat3(b"#!AER-DAT3.1\r\n#!END-HEADER\r\n" + head * (2 if size else 1) + b"x", "file")


def test_a_packet_of_nothing_at_all_does_not_go_on_for_ever():
    head = struct.pack("<HHiiiiii", 9, 1, 0, 4, 0, 2**31 - 1, 0, 0)
    with refused(DataError, "corrupt"):
        read_aedat3(b"#!AER-DAT3.1\r\n#!END-HEADER\r\n" + head, "file")


@pytest.mark.parametrize("lines", [b"#" * 10_000_000, b"#\n" * 2_000_000])
def test_a_header_that_does_not_end(lines):
    """The expression that finds the end must not go back and forth over it."""
    with refused(DataError, "truncated"):
        read_aedat3(b"#!AER-DAT3.1\n" + lines, "file")
    with refused(DataError, "truncated|outside"):
        read_aedat2_dvs128(b"#!AER-DAT2.0\n" + lines + b"\0\1\0", "file")


def png(width, height):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (60_000, 60_000), (10_000, 10_000)])
def test_an_image_that_claims_to_be_huge(size):
    with refused(DataError, "refused|corrupt"):
        decode(png(*size), "file", 3, (8, 8))


@pytest.mark.parametrize("content", [b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) run\n", b"GIF89a" + bytes(100)])
def test_formats_that_run_programs_or_are_not_wanted(content):
    with refused(DataError, "no PNG"):
        decode(content, "file", 3)
