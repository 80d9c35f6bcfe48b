"""Broken and hostile files: what reads them raises a typed error, and runs and builds nothing of them."""

import json
import pickle
import struct

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import ndsnn
from ndsnn.cli import main
from ndsnn.errors import CheckpointError

KEY = "features.5.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a good file."""
    torch.manual_seed(0)
    net = ndsnn.models.vgg([8, "M", 16, "M"], num_classes=4, time_steps=2, in_channels=1)
    ndsnn.sparsify(net, 0.8)
    path = tmp_path_factory.mktemp("good") / "net.safetensors"
    ndsnn.save(net, path)
    ndsnn.load(path)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "bad.safetensors"


def parts(data):
    """JSON of the safetensors header, header of ndsnn in it without its checksum, and the bytes behind."""
    (length,) = struct.unpack("<Q", data[:8])
    outer = json.loads(data[8 : 8 + length])
    inner = json.loads(outer["__metadata__"]["ndsnn"])
    del inner["sha256"]  # whoever alters a file on purpose can leave it out
    return outer, inner, data[8 + length :]


def joined(outer, inner, behind):
    text = inner if isinstance(inner, str) else json.dumps(inner)
    header = json.dumps(outer | {"__metadata__": {"ndsnn": text}}).encode()
    return struct.pack("<Q", len(header)) + header + behind


def require_refused(path):
    """Reader, inspection and export all refuse the file in one line."""
    with pytest.raises(CheckpointError, match=r"bad\.safetensors"):
        ndsnn.load(path)
    for arguments in (
        ["inspect", str(path)],
        ["export", str(path), "--format", "dense", "-o", str(path) + ".out"],
    ):
        assert main(arguments) == 2
    assert not path.with_name(path.name + ".out").exists()


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, 2000])
def test_truncated(whole, path, length, capsys):
    path.write_bytes(whole[:length])
    require_refused(path)
    assert "truncated" in capsys.readouterr().err


def test_a_byte_short_and_a_byte_long(whole, path):
    for data in (whole[:-1], whole + b"\0"):
        path.write_bytes(data)
        require_refused(path)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**12, 100_000_001])
def test_oversized_header(whole, path, length):
    path.write_bytes(struct.pack("<Q", length) + whole[8:])
    require_refused(path)


def test_a_pickle_is_not_unpickled(path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("code of a file was run",))

    path.write_bytes(pickle.dumps(Bomb()))
    require_refused(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.update(data_offsets=[0, 8]),
        lambda entry: entry.update(data_offsets=[10**9, 10**9 + 4]),
        lambda entry: entry.update(data_offsets=[8, 4]),
        lambda entry: entry.update(data_offsets=[-1, 4]),
        lambda entry: entry.update(dtype="F16"),
        lambda entry: entry.update(dtype="F8_E5M2"),
        lambda entry: entry.update(dtype="NONE"),
        lambda entry: entry.update(shape=[2**62, 2**62]),
        lambda entry: entry.pop("shape"),
    ],
)
def test_tensors_that_lie_about_their_place(whole, path, change):
    outer, inner, behind = parts(whole)
    change(outer[f"{KEY}.values"])
    path.write_bytes(joined(outer, inner, behind))
    require_refused(path)


def test_overlapping_tensors(whole, path):
    outer, inner, behind = parts(whole)
    outer["features.1.bias"]["data_offsets"] = outer["features.1.running_mean"]["data_offsets"]
    path.write_bytes(joined(outer, inner, behind))
    require_refused(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.pop("architecture"),
        lambda h: h.pop("distribution"),
        lambda h: h.update(architecture=["vgg"]),
        lambda h: h.update(architecture={"name": "vgg", "kwargs": {"layers": [2**40]}}),
        lambda h: h.update(architecture={"name": "vgg", "kwargs": {"layers": [10**400]}}),
        lambda h: h["architecture"]["kwargs"].update(width=1e9),
        lambda h: h["architecture"]["kwargs"].update(num_classes=2**40),
        lambda h: h["architecture"].update(name="__import__('os').system('true')"),
        lambda h: h["architecture"]["kwargs"].update(neuron={"tau": "2"}),
        lambda h: h["layers"][KEY].update(shape=[16, 8, 2**31, 2**31]),
        lambda h: h["layers"][KEY].update(shape=[1e400]),
        lambda h: h["layers"][KEY].update(shape=[16.5, 8, 3, 3]),
        lambda h: h["layers"][KEY].update(alive=10**6),
        lambda h: h["layers"][KEY].pop("alive"),
        lambda h: h.update(layers=[KEY]),
        lambda h: h.update(distribution=3),
        lambda h: h.update(notes=3),
        lambda h: h.update(version="1"),
    ],
)
def test_headers_that_lie(whole, path, change):
    outer, inner, behind = parts(whole)
    change(inner)
    path.write_bytes(joined(outer, inner, behind))
    require_refused(path)


@pytest.mark.parametrize("layers", [3, [3], [{}], [{"name": "a", "shape": [1], "weights": "9", "alive": 1}]])
def test_notes_are_not_trusted(whole, path, layers, capsys):
    outer, inner, behind = parts(whole)
    inner["notes"] = {"layers": layers}
    path.write_bytes(joined(outer, inner, behind))
    assert main(["inspect", str(path)]) == 2
    assert "table of its layers" in capsys.readouterr().err


def test_a_header_nested_too_deeply(whole, path):
    outer, _, behind = parts(whole)
    path.write_bytes(joined(outer, "[" * 100_000, behind))
    require_refused(path)


def test_a_network_larger_than_the_machine(path):
    """Few bytes that would become petabytes: refused by arithmetic, before anything is allocated."""
    side = 2**24
    arguments = {"layers": [side, side], "num_classes": 2, "time_steps": 1, "in_channels": 1, "width": 1.0}
    arguments |= {"neuron": None, "norm": "bn"}
    shapes = {"features.0.weight": [side, 1, 3, 3], "features.4.weight": [side, side, 3, 3]}
    header = {
        "format": "ndsnn-sparse",
        "version": 1,
        "layers": {key: {"shape": shape, "alive": 1} for key, shape in shapes.items()},
        "distribution": None,
        "architecture": {"name": "vgg", "kwargs": arguments},
    }
    tensors = {}
    for key in shapes:
        tensors |= {f"{key}.values": torch.ones(1), f"{key}.positions": torch.zeros(1, dtype=torch.int64)}
    save_file(tensors, path, metadata={"ndsnn": json.dumps(header)})
    with pytest.raises(CheckpointError, match="this machine has"):
        ndsnn.load(path)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("positions", torch.tensor([0, 2**40])),
        ("positions", torch.tensor([-1, 3])),
        ("positions", torch.tensor([3, 3])),
        ("positions", torch.tensor([0.0, 1.0])),
        ("positions", torch.tensor([[0, 1]])),
        ("bitmask", torch.zeros(144, dtype=torch.int8)),
        ("bitmask", torch.zeros(143, dtype=torch.uint8)),
        ("bitmask", torch.full((144,), 255, dtype=torch.uint8)),
    ],
)
def test_indices_out_of_order_and_range(whole, path, name, tensor):
    path.write_bytes(whole)
    tensors, header = ndsnn.sparse.storage.read_sparse_file(path)
    for part in ("positions", "bitmask"):
        tensors.pop(f"{KEY}.{part}", None)
    tensors |= {f"{KEY}.values": torch.ones(2), f"{KEY}.{name}": tensor}
    save_file(tensors, path, metadata={"ndsnn": json.dumps(header)})
    require_refused(path)


@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipped_bits(whole, path, flips):
    """A flipped bit is noticed, or changes a value or a name that nothing depends on; nothing else happens."""
    data = bytearray(whole)
    (length,) = struct.unpack("<Q", data[:8])
    for place, bit in flips:
        data[int(place * (length + 8))] ^= 1 << bit
    path.write_bytes(bytes(data))
    try:
        net = ndsnn.load(path)
    except CheckpointError:
        return
    assert isinstance(net, torch.nn.Module)


LIES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


@given(where=st.integers(0, 10**6), lie=LIES)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_lie_at_any_place_of_the_header(whole, path, where, lie):
    outer, inner, behind = parts(whole)
    places = list(_places(inner))
    container, key = places[where % len(places)]
    container[key] = lie
    path.write_bytes(joined(outer, inner, behind))
    try:
        net = ndsnn.load(path)
    except CheckpointError:
        return
    assert all(np.isfinite(value.numpy()).all() for value in net.state_dict().values())


def _places(value):
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])
