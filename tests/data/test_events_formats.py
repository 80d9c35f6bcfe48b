import struct

import numpy as np
import pytest
import tonic.io
from event_files import AEDAT3_HEADER, aedat2, aedat3, aedat3_packet, aer40, random_events, write
from spikingjelly.datasets.cifar10_dvs import _load_origin_data
from spikingjelly.datasets.utils import load_aedat_v3

from ndsnn.data.events.formats import read_aedat2_dvs128, read_aedat3, read_aer40
from ndsnn.data.events.recording import Events, Sensor, as_events, checked
from ndsnn.errors import ConfigError, DataError


@pytest.fixture
def events():
    return random_events(np.random.default_rng(3), 700, 128, 128, 5_000_000)


def same(ours, expected, names="xytp"):
    for name in names:
        assert np.array_equal(getattr(ours, name), np.asarray(expected[name]).astype(np.int64)), name


def test_aer40_by_hand():
    # x = 3, y = 5, on, t = 0x012345; then an overflow; then x = 1, y = 2, off, t = 7 + 2**13.
    content = bytes([3, 5, 0x81, 0x23, 0x45, 0, 240, 0, 0, 0, 1, 2, 0, 0, 7])
    ours = read_aer40(content, "file")
    assert [column.tolist() for column in ours] == [[3, 1], [5, 2], [0x012345, 7 + 8192], [1, 0]]


def test_aer40_is_what_tonic_reads(events, tmp_path):
    content = aer40(events[:300])
    for position in (0, 50, 50, 299):
        content = content[: 5 * position] + bytes([9, 240, 128, 1, 2]) + content[5 * position :]
    path = write(tmp_path / "a.bin", content)
    dtype = np.dtype([("x", int), ("y", int), ("t", int), ("p", int)])
    theirs = tonic.io.read_mnist_file(str(path), dtype=dtype)
    assert len(theirs) == 300
    same(read_aer40(content, path), theirs)


def test_aedat2_by_hand():
    # Address 0b0000_0010_0000_0111: bits 14–8 = 2, bits 7–1 = 3, bit 0 = 1 (off).
    content = b"#!AER-DAT2.0\r\n# x\r\n" + struct.pack(">IIII", 0x0207, 9, 0x8000, 10)
    assert [column.tolist() for column in read_aedat2_dvs128(content, "f")] == [[125], [124], [9], [0]]


def test_aedat2_is_what_tonic_and_spikingjelly_read(events, tmp_path):
    path = write(tmp_path / "a.aedat", aedat2(events))
    ours = read_aedat2_dvs128(path.read_bytes(), path)
    same(ours, events)
    same(ours, _load_origin_data(path))
    # tonic's read_dvs_128 fails in 1.7 (it unpacks two of three values), so its halves are called by themselves.
    version, start, _ = tonic.io.read_aedat_header_from_file(str(path))
    raw = tonic.io.get_aer_events_from_file(str(path), version, start)
    address = raw["address"].astype(np.int64)
    theirs = {"x": 127 - (address >> 8 & 127), "y": 127 - (address >> 1 & 127), "p": 1 - (address & 1)}
    same(ours, theirs | {"t": raw["timeStamp"]})


def test_aedat3_is_what_tonic_and_spikingjelly_read(events, tmp_path):
    path = write(tmp_path / "a.aedat", aedat3(events))
    ours = read_aedat3(path.read_bytes(), path)
    same(ours, events)
    same(ours, load_aedat_v3(path))
    version, start, _ = tonic.io.read_aedat_header_from_file(str(path))
    raw = tonic.io.get_aer_events_from_file(str(path), version, start)
    address = raw["address"].astype(np.int64)
    theirs = {"x": address >> 17 & 0x1FFF, "y": address >> 2 & 0x1FFF, "p": address >> 1 & 1}
    same(ours, theirs | {"t": raw["timeStamp"]})


def test_aedat3_leaves_out_what_is_not_valid_or_of_another_type_and_counts_overflows(events):
    content = (
        AEDAT3_HEADER
        + aedat3_packet(events[:3], kind=0)
        + aedat3_packet(events[:2], valid=[0, 1])
        + aedat3_packet(events[:1], overflow=2)
    )
    ours = read_aedat3(content, "f")
    assert ours.t.tolist() == [events["t"][1], events["t"][0] + 2 * 2**31]


def test_aedat_files_without_events(tmp_path):
    assert len(read_aedat3(AEDAT3_HEADER, "f").t) == 0
    assert len(read_aedat2_dvs128(b"#!AER-DAT2.0\r\n", "f").t) == 0


def packet(capacity=1, number=1, size=8, overflow=0):
    return struct.pack("<HHiiiiii", 1, 1, size, 4, overflow, capacity, number, number) + bytes(8)


@pytest.mark.parametrize(
    ("read", "content", "words"),
    [
        (read_aer40, bytes(12), "truncated: 12 bytes"),
        (read_aedat2_dvs128, b"#!AER-DAT2.0\r\n" + bytes(12), "truncated: 12 bytes"),
        (read_aedat2_dvs128, b"#!AER-DAT3.1\r\n", "does not begin with #!AER-DAT2.0"),
        (read_aedat2_dvs128, b"", "does not begin"),
        (read_aedat2_dvs128, b"#!AER-DAT2.0\r\n" + struct.pack(">II", 1 << 20, 1), "address 0x100000"),
        (read_aedat3, b"#!AER-DAT2.0\r\n", "does not begin with #!AER-DAT3."),
        (read_aedat3, b"#!AER-DAT3.1\r\n#Source 1: DVS128\r\n", "does not end with #!END-HEADER"),
        (read_aedat3, AEDAT3_HEADER + bytes(20), "within the packet header at byte"),
        (read_aedat3, AEDAT3_HEADER + packet()[:-1], "ends behind the file"),
        (read_aedat3, AEDAT3_HEADER + packet(capacity=2**31 - 1), "ends behind the file"),
        (read_aedat3, AEDAT3_HEADER + packet(capacity=1, number=2), "capacity 1 and 2 events"),
        (read_aedat3, AEDAT3_HEADER + packet(capacity=-1, number=-1), "capacity -1"),
        (read_aedat3, AEDAT3_HEADER + packet(size=0), "0 bytes an event"),
        (read_aedat3, AEDAT3_HEADER + packet(overflow=-5), "-5 overflows"),
    ],
)
def test_broken_files(read, content, words):
    with pytest.raises(DataError, match=words) as caught:
        read(content, "some/file")
    assert "some/file" in str(caught.value)


@pytest.mark.parametrize("read", [read_aer40, read_aedat2_dvs128, read_aedat3])
def test_random_bytes_are_read_or_refused(read):
    random = np.random.default_rng(0)
    headers = {read_aedat2_dvs128: b"#!AER-DAT2.0\r\n", read_aedat3: AEDAT3_HEADER}
    for _ in range(200):
        content = headers.get(read, b"") + random.bytes(int(random.integers(0, 200)))
        try:
            found = read(content, "f")
        except DataError:
            continue
        assert len({len(column) for column in found}) == 1


SENSOR = Sensor(10, 8, 2)


def recording(**columns):
    whole = {"x": [1, 2], "y": [3, 4], "t": [5, 6], "p": [0, 1]} | columns
    return Events(*(np.array(whole[name], np.int64) for name in "xytp"))


def test_arrays_of_any_order_and_kind():
    expected = recording()
    for order in ("xytp", "ptyx", "txpy"):
        structured = np.zeros(2, [(name, np.int32 if name != "p" else bool) for name in order])
        for name in order:
            structured[name] = getattr(expected, name)
        same(as_events(structured), expected._asdict())
        plain = np.stack([getattr(expected, name) for name in order], 1)
        for dtype in (np.int16, np.uint64, np.float32):
            same(as_events(plain.astype(dtype), order), expected._asdict())
    same(as_events(np.array([(1, 2)], [("t", int), ("x", int)])), {"t": [1], "x": [2], "y": [0], "p": [0]})


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 5)), r"plain array \[E, 4\]"),
        (np.zeros(4), r"plain array \[E, 4\]"),
        (np.zeros(2, [("x", int), ("y", int)]), "'t' is needed"),
        (np.array([[1, 2, 0.5, 1]]), "'t' of the events is not whole"),
        (np.array([[1, 2, np.nan, 1]]), "not finite"),
        (np.array([[1, 2, 2**63, 1]], np.uint64), "too large"),
        (np.zeros(1, [("x", "S4"), ("t", int)]), "not numbers"),
    ],
)
def test_arrays_that_are_no_events(array, words):
    with pytest.raises(DataError, match=words):
        as_events(array)


def test_order_must_be_a_permutation():
    with pytest.raises(ConfigError, match="permutation"):
        as_events(np.zeros((1, 4)), "xyt")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"x": [1, 10]}, "an event with x 10, outside 0 … 9"),
        ({"y": [-1, 2]}, "an event with y -1, outside 0 … 7"),
        ({"p": [0, 2]}, "polarity 2, outside 0 … 1"),
        ({"p": [-1, 1]}, "polarity -1"),
        ({"t": [6, 5]}, "backwards in time: event 1 is at 5, after one at 6.*data.events.sort"),
        ({"x": [], "y": [], "t": [], "p": []}, "has no events"),
    ],
)
def test_events_off_the_sensor_or_out_of_order(columns, words):
    with pytest.raises(DataError, match=words):
        checked(recording(**columns), SENSOR, "some/file")


def test_sorting_keeps_equal_times_in_their_order():
    found = checked(recording(x=[1, 2, 3], y=[0, 0, 0], t=[7, 5, 7], p=[0, 0, 0]), SENSOR, "f", sort=True)
    assert (found.t.tolist(), found.x.tolist()) == ([5, 7, 7], [2, 1, 3])
