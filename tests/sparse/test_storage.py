"""Sparse files: small, exact, and never read wrongly."""

import hashlib
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import ndsnn
from ndsnn.errors import CheckpointError
from ndsnn.sparse.packing import pack_weight, unpack_weight


def small_net(**settings):
    return ndsnn.models.vgg([8, "M", 16, "M"], num_classes=4, time_steps=2, in_channels=1, **settings)


def require_equal(a, b):
    first, second = a.state_dict(), b.state_dict()
    assert first.keys() == second.keys()
    for key in first:
        assert torch.equal(first[key], second[key]), key
    for (name, x), (other, y) in zip(a.named_buffers(), b.named_buffers(), strict=True):
        assert name == other
        assert torch.equal(x, y), name


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.99])
def test_round_trip(tmp_path, sparsity):
    torch.manual_seed(0)
    net = small_net(neuron=ndsnn.LIF(tau=2.0, v_reset=None))
    ndsnn.sparsify(net, sparsity) if sparsity else None
    net(torch.randn(3, 1, 8, 8))
    ndsnn.save(net, tmp_path / "net.safetensors")
    loaded = ndsnn.load(tmp_path / "net.safetensors")
    require_equal(net, loaded)
    assert ndsnn.sparsity(loaded) == ndsnn.sparsity(net)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(net.eval()(x), loaded.eval()(x))


def test_alive_zeros_stay_alive(tmp_path):
    net = small_net()
    ndsnn.sparsify(net, 0.5)
    layer = net.features[0]
    with torch.no_grad():
        layer.weight.zero_()
    ndsnn.save(net, tmp_path / "net.safetensors")
    loaded = ndsnn.load(tmp_path / "net.safetensors")
    assert torch.equal(loaded.features[0].sparsity_mask, layer.sparsity_mask)


def test_training_goes_on_with_the_recorded_distribution(tmp_path):
    net = small_net()
    ndsnn.sparsify(net, 0.5, "uniform", ["classifier"])
    ndsnn.save(net, tmp_path / "net.safetensors")
    loaded = ndsnn.load(tmp_path / "net.safetensors")
    counts = [
        ndsnn.NDSNN(each, torch.optim.SGD(each.parameters(), 0.1), 0.8, 100).final_counts for each in (net, loaded)
    ]
    assert counts[0] == counts[1]


def test_a_foreign_network_is_filled(tmp_path):
    def build():
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3))

    net = build()
    ndsnn.sparsify(net, 0.5)
    ndsnn.save(net, tmp_path / "net.safetensors")
    require_equal(net, ndsnn.load(tmp_path / "net.safetensors", build()))
    with pytest.raises(CheckpointError, match="pass one"):
        ndsnn.load(tmp_path / "net.safetensors")


def test_masks_that_the_file_does_not_have_are_removed(tmp_path):
    dense, sparse = small_net(), small_net()
    ndsnn.sparsify(sparse, 0.9)
    ndsnn.save(dense, tmp_path / "net.safetensors")
    ndsnn.load(tmp_path / "net.safetensors", sparse)
    assert ndsnn.sparsity(sparse) == 0
    require_equal(dense, sparse)


def test_channels_last(tmp_path):
    net = small_net().to(memory_format=torch.channels_last)
    ndsnn.sparsify(net, 0.5, dense_layers=["features.0"])
    ndsnn.save(net, tmp_path / "net.safetensors")
    require_equal(net, ndsnn.load(tmp_path / "net.safetensors"))
    ndsnn.save(small_net().to(memory_format=torch.channels_last), tmp_path / "dense.safetensors")


def test_the_file_shrinks_with_the_sparsity(tmp_path):
    sizes = []
    for sparsity in (0.0, 0.9, 0.99):
        net = ndsnn.models.vgg([128, 256, "M"], time_steps=1)
        ndsnn.sparsify(net, sparsity)
        ndsnn.save(net, tmp_path / "net.safetensors")
        sizes.append((tmp_path / "net.safetensors").stat().st_size)
    weights = sum(row.weights for row in ndsnn.layer_report(net))
    assert sizes[1] < 4 * 0.1 * weights + weights / 8 + 20_000
    assert sizes[2] < 8 * 0.01 * weights + 20_000 < sizes[0] / 10


@given(
    shape=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    density=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
@settings(max_examples=80, deadline=None)
def test_any_mask(shape, density, seed):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(shape, generator=generator) < density
    weight = torch.where(mask, torch.randn(shape, generator=generator), 0.0)
    packed = pack_weight("w", weight, mask)
    again, places = unpack_weight("w", tuple(shape), packed)
    assert torch.equal(again, weight)
    assert torch.equal(places, mask)


def test_the_smaller_index_is_chosen():
    weight, mask = torch.ones(100, 100), torch.zeros(100, 100, dtype=torch.bool)
    mask.view(-1)[:300] = True
    assert set(pack_weight("w", weight, mask)) == {"w.values", "w.positions"}
    mask.view(-1)[:400] = True
    assert set(pack_weight("w", weight, mask)) == {"w.values", "w.bitmask"}


def rewrite(path, change):
    """Save the tensors and header of a file again after `change(tensors, header)`, without a checksum."""
    with safe_open(str(path), "pt") as file:
        header = json.loads(file.metadata()["ndsnn"])
    del header["sha256"]
    tensors = load_file(path)
    change(tensors, header)
    save_file(tensors, path, metadata={"ndsnn": json.dumps(header)})


KEY = "features.5.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t, h: h.update(version=2), "version 2"),
        (lambda t, h: h.update(format="other"), "no sparse network"),
        (lambda t, h: t.pop(f"{KEY}.values"), "missing"),
        (lambda t, h: t.update({f"{KEY}.values": t[f"{KEY}.values"][1:].clone()}), "alive places"),
        (lambda t, h: t.pop("features.1.bias"), "only in the network"),
        (lambda t, h: t.update(more=torch.zeros(2)), "only in the file"),
        (lambda t, h: h["layers"][KEY].update(shape=[16, 8, 3, 4]), "bytes"),
        (lambda t, h: h["layers"][KEY].update(shape="abc"), "malformed"),
        (lambda t, h: h["layers"][KEY].update(shape=[-1, 2]), "malformed"),
        (lambda t, h: h.pop("layers"), "malformed"),
        (lambda t, h: h.update(layers={"nothing.weight": h["layers"][KEY]}), "missing"),
        (lambda t, h: h["architecture"].update(name="vgg99"), "cannot be built"),
        (lambda t, h: h["architecture"]["kwargs"].update(layers=[9]), "another architecture"),
        (
            lambda t, h: t.update({"classifier.weight.values": t["classifier.weight.values"].double()}),
            "architecture",
        ),
    ],
)
def test_altered_files(tmp_path, change, words):
    net = small_net()
    ndsnn.sparsify(net, 0.8)
    path = tmp_path / "net.safetensors"
    ndsnn.save(net, path)
    rewrite(path, change)
    with pytest.raises(CheckpointError, match=words):
        ndsnn.load(path)


@pytest.mark.parametrize("positions", [[5, 4], [4, 4], [-1, 3], [0, 12]])
def test_bad_positions(positions):
    tensors = {"w.values": torch.ones(2), "w.positions": torch.tensor(positions, dtype=torch.int32)}
    with pytest.raises(CheckpointError, match="ascending"):
        unpack_weight("w", (3, 4), tensors)


def test_truncation_everywhere(tmp_path):
    net = small_net()
    ndsnn.sparsify(net, 0.9)
    path = tmp_path / "net.safetensors"
    ndsnn.save(net, path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"net\.safetensors"):
            ndsnn.load(path)
    with pytest.raises(CheckpointError, match="there is no file"):
        ndsnn.load(tmp_path / "nowhere")


def test_the_checksum_is_that_of_the_file_with_zeros_in_its_place(tmp_path):
    path = tmp_path / "net.safetensors"
    net = small_net()
    ndsnn.sparsify(net, 0.9)
    ndsnn.save(net, path, {"sha256": "0" * 64})
    whole = path.read_bytes()
    with safe_open(str(path), "pt") as file:
        digits = json.loads(file.metadata()["ndsnn"])["sha256"]
    assert whole.count(digits.encode()) == 1
    assert hashlib.sha256(whole.replace(digits.encode(), b"0" * 64)).hexdigest() == digits
    ndsnn.save(ndsnn.load(path), tmp_path / "again.safetensors", {"sha256": "0" * 64})
    assert (tmp_path / "again.safetensors").read_bytes() == whole


def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path):
    """In the data, in the header, and in the padding between them."""
    path = tmp_path / "net.safetensors"
    net = ndsnn.models.vgg([2, "M"], num_classes=2, time_steps=1, in_channels=1)
    ndsnn.sparsify(net, 0.5)
    ndsnn.save(net, path)
    whole = path.read_bytes()
    noticed = 0
    for position in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        try:
            require_equal(net, ndsnn.load(path))
        except CheckpointError:
            noticed += 1
    assert noticed > 0.99 * len(whole) / 3


def test_a_file_without_a_checksum_is_loaded(tmp_path):
    """Those of early versions; nothing is claimed of them."""
    path = tmp_path / "net.safetensors"
    net = small_net()
    ndsnn.sparsify(net, 0.9)
    ndsnn.save(net, path)
    rewrite(path, lambda tensors, header: None)
    require_equal(net, ndsnn.load(path))


def test_a_failed_load_changes_nothing(tmp_path):
    net, other = small_net(), small_net()
    ndsnn.sparsify(net, 0.5)
    path = tmp_path / "net.safetensors"
    ndsnn.save(net, path)
    rewrite(path, lambda t, h: t.pop("features.1.bias"))
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(CheckpointError):
        ndsnn.load(path, other)
    assert all(torch.equal(before[key], value) for key, value in other.state_dict().items())
    assert ndsnn.sparsity(other) == 0


def test_an_unwritable_place(tmp_path):
    with pytest.raises(CheckpointError, match="cannot write"):
        ndsnn.save(small_net(), tmp_path / "nowhere" / "net.safetensors")
