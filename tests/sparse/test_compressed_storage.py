"""Files and checkpoints are the same for both forms: what one wrote, the other reads."""

import copy
from pathlib import Path

import pytest
import torch
from compressed_nets import both, conv_net, gradients_of, require_same, step_of_both
from small_nets import ALL, optimizer_of, through_file
from torch import nn

import ndsnn
from ndsnn.errors import CheckpointError
from ndsnn.sparse import CompressedConv2d, Distribution, compress, decompress, set_masks
from ndsnn.sparse.sparsify import recorded_distribution, sparsify, sparsity
from ndsnn.sparse.storage import pack_network, unpack_network
from ndsnn.training.checkpoint import Checkpoint, pack_training, restore_training


def small_vgg(sparse=0.8, seed=0, **settings):
    torch.manual_seed(seed)
    net = ndsnn.models.vgg([8, "M", 16, "M"], num_classes=4, time_steps=2, in_channels=1)
    if sparse is not None:
        ndsnn.sparsify(net, sparse, generator=torch.Generator().manual_seed(seed), **settings)
    return net


def require_equal_nets(one, other):
    """Two nets in any form, compared in the plain one."""
    one, other = decompress(copy.deepcopy(one)), decompress(copy.deepcopy(other))
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    for (name, x), (also, y) in zip(one.named_buffers(), other.named_buffers(), strict=True):
        assert name == also
        assert torch.equal(x, y), name
    assert recorded_distribution(one) == recorded_distribution(other)


@pytest.mark.parametrize("sparsity", [None, 0.0, 0.5, 0.9, 0.99])
def test_both_forms_write_the_same_bytes(tmp_path, sparsity):
    net = small_vgg(sparsity)
    ndsnn.save(net, tmp_path / "masked.safetensors")
    ndsnn.save(compress(net), tmp_path / "compressed.safetensors")
    assert (tmp_path / "masked.safetensors").read_bytes() == (tmp_path / "compressed.safetensors").read_bytes()


@pytest.mark.parametrize("there", ["masked", "compressed"])
@pytest.mark.parametrize("here", ["masked", "compressed"])
@pytest.mark.parametrize("target", [None, 0.0, 0.5, 0.9])
def test_what_one_form_wrote_the_other_reads(tmp_path, here, there, target):
    """Whatever was in the net before: other weights, other masks, or none."""
    net = small_vgg(0.8, seed=1, dense_layers=["classifier"])
    if here == "compressed":
        compress(net)
    ndsnn.save(net, tmp_path / "net.safetensors")
    other = small_vgg(target, seed=2)
    if there == "compressed":
        compress(other)
    parameters = list(other.parameters())
    assert ndsnn.load(tmp_path / "net.safetensors", other) is other
    assert all(one is two for one, two in zip(parameters, other.parameters(), strict=True))
    require_equal_nets(net, other)
    assert sparsity(other) == sparsity(net)
    counts = [
        ndsnn.NDSNN(each, torch.optim.SGD(each.parameters(), 0.1), 0.85, 100).final_counts for each in (net, other)
    ]
    assert counts[0] == counts[1]
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(net.eval()(x), other.eval()(x))


@pytest.mark.parametrize("form", ["masked", "compressed"])
def test_a_dense_file_makes_a_sparse_net_dense(tmp_path, form):
    dense, sparse = small_vgg(None), small_vgg(0.9)
    ndsnn.save(compress(dense) if form == "masked" else dense, tmp_path / "net.safetensors")
    if form == "compressed":
        compress(sparse)
    ndsnn.load(tmp_path / "net.safetensors", sparse)
    assert sparsity(sparse) == 0
    assert not ndsnn.sparse.sparse_layers(sparse)
    for key, value in decompress(dense).state_dict().items():
        assert torch.equal(decompress(sparse).state_dict()[key], value)


def test_layers_without_mask_beside_sparse_ones():
    """Masks on one layer only: the others are stored dense in both forms."""
    nets = [conv_net(seed) for seed in (0, 0, 1)]
    mask = torch.rand(8, 6, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.3
    for net in nets[:2]:
        set_masks(net, {"3": mask}, Distribution("uniform"))
    compress(nets[1])
    packed = [pack_network(net) for net in nets[:2]]
    assert packed[0][1] == packed[1][1]
    assert packed[0][0].keys() == packed[1][0].keys()
    assert all(torch.equal(value, packed[1][0][key]) for key, value in packed[0][0].items())
    unpack_network(compress(nets[2]), *packed[0])
    require_equal_nets(nets[0], nets[2])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t, h: t.pop("features.5.weight.values"), "missing"),
        (lambda t, h: t.update({"features.5.weight.values": torch.ones(3)}), "3 values for"),
        (lambda t, h: t.pop("features.1.bias"), "only in the network"),
        (lambda t, h: t.update(more=torch.zeros(2)), "only in the file"),
        (lambda t, h: h["layers"]["features.5.weight"].update(shape=[16, 8, 9, 1]), "another architecture"),
        (lambda t, h: h["layers"].pop("features.5.weight"), "only in the"),
        (
            lambda t, h: t.update({"features.5.weight.values": t["features.5.weight.values"].double()}),
            "torch.float64",
        ),
    ],
)
def test_what_does_not_fit_a_compressed_net_changes_nothing(change, words):
    tensors, header = pack_network(small_vgg(0.8))
    change(tensors, header)
    net = compress(small_vgg(0.5, seed=3))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(CheckpointError, match=words):
        unpack_network(net, tensors, header)
    assert before.keys() == net.state_dict().keys()
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_a_layer_that_cannot_be_sparse_is_refused():
    net = small_vgg(0.8)
    tensors, header = pack_network(net)
    header["layers"]["features.1.bias"] = {"shape": [8], "alive": 8}
    tensors["features.1.bias.values"] = tensors.pop("features.1.bias")
    with pytest.raises(CheckpointError, match=r"'features\.1\.bias' cannot be sparse"):
        unpack_network(net, tensors, header)


# Checkpoints -------------------------------------------------------------------------------------------------


def checkpoint_of(run):
    tensors, state = pack_training(*run)
    return Checkpoint(tensors, copy.deepcopy(state), Path("there"))


@pytest.mark.parametrize(("stop", "kind"), [(0, "momentum"), (3, "adam"), (4, "momentum"), (9, "adam")])
@pytest.mark.parametrize("name", ALL)
def test_a_run_goes_on_in_the_other_form(name, stop, kind):
    """Saved in each form, restored into each form of a run from other weights; then both go on side by side."""
    masked, compressed = both(name, kind=kind)
    for step in range(stop):
        step_of_both(masked, compressed, gradients_of(step))
    saved = [checkpoint_of(masked), checkpoint_of(compressed)]
    assert saved[0].state == saved[1].state
    assert saved[0].tensors.keys() == saved[1].tensors.keys()
    assert all(torch.equal(value, saved[1].tensors[key]) for key, value in saved[0].tensors.items())
    one, other = both(name, kind=kind, seed=9)
    step_of_both(one, other, gradients_of(50))
    parameters = list(other[0].parameters())
    restore_training(saved[1], *one)
    restore_training(saved[0], *other)
    assert all(a is b for a, b in zip(parameters, other[0].parameters(), strict=True))
    require_same(one, compressed)
    require_same(masked, other)
    for step in range(stop, 14):
        step_of_both(masked, compressed, gradients_of(step))
        step_of_both(one, other, gradients_of(step), channels=1)
        require_same(one, other)
        require_same(masked, other)


def test_layers_without_mask_keep_their_optimizer_state():
    """Their momentum has the dense shape in the checkpoint, whatever form wrote it."""
    mask = torch.rand(8, 6, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.3

    def run(seed, compressed):
        net = set_masks(conv_net(seed), {"3": mask}, Distribution())
        if compressed:
            compress(net)
        optimizer = optimizer_of(net)
        method = ndsnn.NDSNN(net, optimizer, 0.8, 20, update_every=5)
        torch.manual_seed(seed)
        net(torch.randn(4, 2, 6, 6)).square().sum().backward()
        optimizer.step()
        method.step()
        return net, optimizer, method

    runs = [run(0, False), run(0, True)]
    saved = [checkpoint_of(each) for each in runs]
    assert saved[0].state == saved[1].state
    for key, value in saved[0].tensors.items():
        torch.testing.assert_close(value, saved[1].tensors[key], rtol=1e-5, atol=1e-6)
    for source in saved:
        targets = [run(5, False), run(5, True)]
        for target in targets:
            restore_training(source, *target)
        again = [checkpoint_of(each).tensors for each in targets]
        assert source.tensors.keys() == again[0].keys() == again[1].keys()
        for key, value in source.tensors.items():
            assert torch.equal(value, again[0][key]), key
            assert torch.equal(value, again[1][key]), key
        assert targets[1][1].state[targets[1][0][0].weight]["momentum_buffer"].shape == (108,)


def test_state_that_does_not_fit_the_alive_weights_is_refused():
    masked, compressed = both("rigl")
    step_of_both(masked, compressed, gradients_of(0))
    for run in (masked, compressed):
        found = checkpoint_of(run)
        found.tensors["optimizer/state/1/momentum_buffer"] = torch.ones(3)
        with pytest.raises(CheckpointError, match="alive weights, not 3"):
            restore_training(found, *run)


@pytest.mark.parametrize(("stop", "kind"), [(2, "momentum"), (5, "adamw")])
@pytest.mark.parametrize("name", ALL)
def test_stopped_and_continued_by_state_dicts(name, stop, kind):
    masked, compressed = both(name, kind=kind)
    for step in range(stop):
        step_of_both(masked, compressed, gradients_of(step))
    saved = through_file([part.state_dict() for part in compressed])
    other = both(name, kind=kind, seed=9)[1]
    for part, state in zip(other, saved, strict=True):
        part.load_state_dict(state)
    for step in range(stop, 14):
        step_of_both(masked, other, gradients_of(step))
        require_same(masked, other)


@pytest.mark.parametrize("name", ["ndsnn", "dst-ee"])
def test_the_state_of_a_method_fits_both_forms(name):
    """The masks in it decide, though the network came without them."""
    masked, compressed = both(name)
    for step in range(6):
        step_of_both(masked, compressed, gradients_of(step))
    states = [through_file(run[2].state_dict()) for run in (masked, compressed)]
    assert {k: v for k, v in states[0].items() if k not in ("masks", "times_active")} == {
        k: v for k, v in states[1].items() if k not in ("masks", "times_active")
    }
    one, other = both(name, seed=4)
    step_of_both(one, other, gradients_of(1))
    one[2].load_state_dict(states[1])
    other[2].load_state_dict(states[0])
    for layer, target in zip(other[2].layers, masked[2].layers, strict=True):
        assert torch.equal(layer.mask, target.mask)
        assert other[1].state[layer.weight]["momentum_buffer"].shape == (layer.nnz,)
    # What was alive in neither is 0 in the compressed form; the masked one may have had weights there.
    for a, b in zip(one[2].layers, other[2].layers, strict=True):
        assert torch.equal(a.active_values(), b.active_values())


def test_a_file_for_a_net_that_was_built_compressed(tmp_path):
    net = nn.Sequential(CompressedConv2d(1, 2, (2, 2), torch.tensor([1.0, 2.0]), torch.tensor([1, 6])))
    ndsnn.save(net, tmp_path / "net.safetensors")
    plain = nn.Sequential(nn.Conv2d(1, 2, 2, bias=False))
    ndsnn.load(tmp_path / "net.safetensors", plain)
    assert plain[0].weight.flatten().tolist() == [0, 1, 0, 0, 0, 0, 2, 0]
    with pytest.raises(CheckpointError, match="pass one"):
        ndsnn.load(tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match="another architecture"):
        ndsnn.load(tmp_path / "net.safetensors", sparsify(conv_net(), 0.5))
