"""STDP pruning: the correlations against loops over spikes, what dies by them, and that nothing else changes."""

import copy
import gc
import weakref

import numpy as np
import pytest
import torch
from small_nets import batch, conv_net, optimizer_of, start, train_step
from torch import nn

import ndsnn
from ndsnn.errors import ConfigError, NonFiniteError, SparsityError
from ndsnn.models import layers as own
from ndsnn.sparse.methods import STDPPruning
from ndsnn.sparse.methods.pruning.spike_correlation import correlate, earlier_trace, spike_correlations, trace
from ndsnn.sparse.sparsify import sparsify

CRITERION = ndsnn.losses.mean_step_cross_entropy


def spikes(*shape, seed=0):
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.4).float()


def brute_force(read, fired, decay, depression):
    """The pair rule as it is written: every pair of spikes, one by one; [T, N, in] and [T, N, out]."""
    steps, samples, inputs = read.shape
    found = np.zeros((fired.shape[2], inputs))
    for n in range(samples):
        for post in range(steps):
            for pre in range(steps):
                pair = np.outer(fired[post, n], read[pre, n])
                if pre <= post:
                    found += decay ** (post - pre) * pair
                else:
                    found -= depression * decay ** (pre - post) * pair
    return found / samples


def test_traces_by_hand():
    s = torch.tensor([1.0, 0.0, 1.0, 1.0]).view(4, 1, 1)
    assert trace(s, 0.5).flatten().tolist() == [1, 0.5, 1.25, 1.625]
    assert earlier_trace(s, 0.5).flatten().tolist() == [0, 0.5, 0.25, 0.625]
    assert trace(s, 0.0).flatten().tolist() == [1, 0, 1, 1]
    assert earlier_trace(s, 0.0).flatten().tolist() == [0, 0, 0, 0]


def test_one_connection_by_hand():
    """Pre at 0 and 2, post at 1 and 2, λ = ½: ½ + (¼ + 1) for pre before or with post, −A·½ for pre at 2."""
    read, fired = torch.tensor([1.0, 0.0, 1.0]).view(3, 1, 1), torch.tensor([0.0, 1.0, 1.0]).view(3, 1, 1)
    assert float(correlate(own.Linear(1, 1), read, fired, 0.5, 0.0)) == 1.75
    assert float(correlate(own.Linear(1, 1), read, fired, 0.5, 1.0)) == 1.25


@pytest.mark.parametrize(("decay", "depression"), [(0.5, 1.0), (0.0, 1.0), (0.9, 0.3), (0.7, 0.0)])
def test_a_linear_layer_against_loops(decay, depression):
    read, fired = spikes(5, 6, 7), spikes(5, 6, 4, seed=1)
    expected = brute_force(read.numpy(), fired.numpy(), decay, depression)
    for layer, folded in ((own.Linear(7, 4), False), (nn.Linear(7, 4), True)):
        found = correlate(layer, read, fired, decay, depression, folded)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 1), (1, 0)])
def test_a_convolution_against_loops(stride, padding, monkeypatch):
    """Each place of the map is a pair of its own; in pieces of one sample, too."""
    layer = own.Conv2d(3, 4, 3, stride=stride, padding=padding)
    read = spikes(4, 2, 3, 6, 6)
    fired = (layer(read) > 0).float()
    padded = np.pad(read.numpy(), [(0, 0)] * 3 + [(padding, padding)] * 2)
    expected = np.zeros((4, 3, 3, 3))
    for y in range(fired.shape[3]):
        for x in range(fired.shape[4]):
            window = padded[..., y * stride : y * stride + 3, x * stride : x * stride + 3]
            here = brute_force(window.reshape(4, 2, 27), fired[..., y, x].numpy(), 0.6, 0.8)
            expected += here.reshape(4, 3, 3, 3)
    for piece in (2**22, 1):
        monkeypatch.setattr("ndsnn.sparse.methods.pruning.spike_correlation.PIECE", piece)
        found = correlate(layer, read, fired, 0.6, 0.8)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_grouped_and_transposed_layers_are_measured_too():
    """By the definition of the gradient: shifting w shifts ⟨layer(x), o⟩ by c."""
    for layer in (nn.Conv1d(4, 6, 3, groups=2, bias=False), nn.ConvTranspose2d(4, 6, 2, bias=False)):
        read = spikes(3, 2, 4, *([5] * (layer.weight.ndim - 2)))
        fired = spikes(3, 2, *layer(read.flatten(0, 1)).shape[1:], seed=1)
        found = correlate(layer, read, fired, 0.5, 1.0, folded=True)
        one = torch.zeros_like(layer.weight)
        place = (1,) * layer.weight.ndim
        one[place] = 1.0
        with torch.no_grad():
            layer.weight.copy_(one)
            before = (layer(trace(read, 0.5).flatten(0, 1)) * fired.flatten(0, 1)).sum()
            after = (layer(read.flatten(0, 1)) * earlier_trace(fired, 0.5).flatten(0, 1)).sum()
        assert float(found[place]) == pytest.approx(float(before - after) / 2, abs=1e-5)


# Which layer feeds which neurons -----------------------------------------------------------------------------


def seen(net, x):
    """What each LIF of a network put out, in the order in which they are called."""
    found = []
    handles = [
        m.register_forward_hook(lambda _m, _i, out: found.append(out.detach().numpy()))
        for m in net.modules()
        if isinstance(m, ndsnn.LIF)
    ]
    with torch.no_grad():
        net(x)
    for handle in handles:
        handle.remove()
    return found


def measured(net, x, names):
    return spike_correlations(net, x, names, lambda _, dense: dense, 0.5, 1.0)


def test_a_network_of_images():
    """The first layer reads the same analog values at all steps; the classifier has no neurons."""
    torch.manual_seed(0)
    net = ndsnn.models.vgg([4, "M", 6], num_classes=3, time_steps=3, in_channels=2)
    x = 3 * torch.randn(2, 2, 6, 6)
    net.train()
    first, second = seen(net, x)
    found = measured(net, x, ["features.0", "features.5", "classifier"])
    assert list(found) == ["features.0", "features.5"]
    pooled = first.reshape(3, 2, 4, 3, 2, 3, 2).max((4, 6))
    for name, read, fired in (
        ("features.0", np.broadcast_to(x.numpy(), (3, 2, 2, 6, 6)), first),
        ("features.5", pooled, second),
    ):
        padded, channels = np.pad(read, [(0, 0)] * 3 + [(1, 1)] * 2), read.shape[2]
        expected = np.zeros((fired.shape[2], channels, 3, 3))
        for i in range(fired.shape[3]):
            for j in range(fired.shape[4]):
                window = padded[..., i : i + 3, j : j + 3].reshape(3, 2, channels * 9)
                expected += brute_force(window, fired[..., i, j], 0.5, 1.0).reshape(expected.shape)
        assert fired.any()
        np.testing.assert_allclose(found[name].numpy(), expected, rtol=1e-4, atol=1e-4)


def test_a_block_with_a_shortcut_feeds_the_neurons_behind_the_sum():
    torch.manual_seed(0)
    net = ndsnn.models.resnet19(3, 2, in_channels=2, width=0.06)
    block = net.stages[1][0]
    block.train()
    read = spikes(2, 3, block.conv1.in_channels, 6, 6)
    inner, outer = seen(block, read)
    found = measured(block, read, ["conv1", "conv2", "shortcut.0"])
    for name, layer, pre, post in (
        ("conv1", block.conv1, read, inner),
        ("conv2", block.conv2, torch.from_numpy(inner), outer),
        ("shortcut.0", block.shortcut[0], read, outer),
    ):
        expected = correlate(layer, pre, torch.from_numpy(post), 0.5, 1.0)
        torch.testing.assert_close(found[name], expected)


def test_a_layer_that_is_used_twice_has_the_sum():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.neuron = own.Linear(5, 5, bias=False), ndsnn.LIF(v_threshold=0.1)

        def forward(self, x):
            return self.neuron(self.layer(self.neuron(self.layer(x))))

    torch.manual_seed(0)
    net, x = Twice(), spikes(4, 3, 5)
    first, second = (torch.from_numpy(each) for each in seen(net, x))
    expected = correlate(net.layer, x, first, 0.5, 1.0) + correlate(net.layer, first, second, 0.5, 1.0)
    torch.testing.assert_close(measured(net, x, ["layer"])["layer"], expected)


# The method --------------------------------------------------------------------------------------------------


def small_vgg(accelerated=False):
    torch.manual_seed(0)
    net = ndsnn.models.vgg([4, "M", 6], num_classes=3, time_steps=3, in_channels=2)
    return ndsnn.accelerate(net, backend="reference") if accelerated else net


def images(step, size=6):
    source = torch.Generator().manual_seed(step)
    return 3 * torch.rand(size, 2, 6, 6, generator=source), torch.arange(size) % 3


def vgg_step(net, optimizer, method, step):
    x, y = images(step)
    loss = CRITERION(net(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return method.step()


@pytest.mark.parametrize("accelerated", [False, True])
def test_the_least_correlated_die(accelerated):
    """Round by round against a measurement of one's own, an average of one's own and a sort by hand."""
    net = small_vgg(accelerated)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    settings = {"decay": 0.7, "depression": 0.5, "smoothing": 0.25, "samples": 4}
    method = STDPPruning(net, optimizer, 0.8, 12, update_every=2, **settings)
    averages, rounds = {}, 0
    for step in range(12):
        x, y = images(step)
        loss = CRITERION(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        before = {layer.name: layer.active_positions().tolist() for layer in method.layers}
        weights = {layer.name: layer.active_values().abs().tolist() for layer in method.layers}
        plain = ndsnn.to_dense(copy.deepcopy(net))
        fresh = spike_correlations(plain, x[:4], ["features.0", "features.5"], lambda _, c: c, 0.7, 0.5)
        if (update := method.step()) is None:
            continue
        rounds += 1
        for name, dense in fresh.items():
            averages[name] = 0.25 * averages[name] + 0.75 * dense if name in averages else dense
        for layer, row in zip(method.layers, update.layers, strict=True):
            score = averages[layer.name].flatten().tolist() if layer.name in averages else None
            listed = sorted(
                (0 if score is None else score[place], weight, place)
                for place, weight in zip(before[layer.name], weights[layer.name], strict=True)
            )
            dropped = {place for *_, place in listed[: row.dropped]}
            assert sorted(set(before[layer.name]) - dropped) == layer.active_positions().tolist()
    assert rounds == 4
    assert method.current_sparsity() == pytest.approx(0.8, abs=2e-3)
    assert "correlation" not in method.records


def test_both_forms_measure_and_prune_the_same():
    """Given the same weights: the optimizer has learning rate 0, since the forms round gradients differently."""
    runs = []
    for accelerated in (False, True):
        net = small_vgg(accelerated)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
        method = STDPPruning(net, optimizer, 0.8, 8, update_every=2)
        steps = []
        for step in range(8):
            vgg_step(net, optimizer, method, step)
            masks = [mask.clone() for mask in method.masks()]
            steps.append([*masks, *method.records.state_dict().get("correlation", {}).values()])
        runs.append(steps)
    for one, other in zip(*runs, strict=True):
        assert len(one) == len(other)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_measuring_leaves_no_trace():
    torch.manual_seed(0)
    net = nn.Sequential(small_vgg(), nn.Dropout(0.3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    method = STDPPruning(net, optimizer, 0.8, 8, update_every=1, smoothing=0.0)
    x, y = images(0)
    CRITERION(net(x), y).backward()
    optimizer.step()
    buffers = {name: value.clone() for name, value in net.named_buffers() if "mask" not in name}
    gradients = [p.grad.clone() for p in net.parameters()]
    random = torch.get_rng_state()
    method.step()
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, dict(net.named_buffers())[name]) for name, value in buffers.items())
    assert all(torch.equal(a, p.grad) for a, p in zip(gradients, net.parameters(), strict=True))
    assert net.training
    assert sum(len(m._forward_hooks) for m in net.modules()) == 0


def test_a_batch_is_kept_from_the_forward_pass_of_a_round_to_its_step_only():
    net = small_vgg()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    method = STDPPruning(net, optimizer, 0.8, 8, update_every=2, samples=2)
    x, _ = images(0)
    net(x)
    assert method._batch is None
    method.step()
    net.eval()
    net(x)
    net.train()
    with torch.no_grad():
        net(x)
    copy.deepcopy(net)(x)
    assert method._batch is None
    net(x)
    assert torch.equal(method._batch, x[:2])
    assert method._batch.untyped_storage().nbytes() == x[:2].numel() * 4
    method.step()
    assert method._batch is None
    net(x)
    assert method._batch is None


def test_events_are_cut_by_samples_and_other_inputs_are_not():
    net = small_vgg()
    method = STDPPruning(net, torch.optim.SGD(net.parameters(), lr=0.1), 0.8, 2, update_every=1, samples=2)
    method.see(torch.rand(3, 5, 2, 6, 6))
    assert method._batch.shape == (3, 2, 2, 6, 6)
    method.see(torch.rand(3, 5, 7))
    assert method._batch.shape == (3, 5, 7)


def test_a_round_without_a_batch_is_refused_before_the_optimizer_steps():
    net, optimizer, method = start("stdp", update_every=1)
    with pytest.raises(SparsityError, match="seen no batch"):
        method.require_finite_gradients()
    with pytest.raises(SparsityError, match="seen no batch"):
        method.step()
    assert method.steps_done == 0
    assert train_step(net, optimizer, method, 0).round == 1


def test_a_network_without_neurons_is_refused():
    net = conv_net()
    with pytest.raises(ConfigError, match=r"no ndsnn\.LIF neuron"):
        STDPPruning(net, optimizer_of(net), 0.8, 8)
    assert not hasattr(net[0], "sparsity_mask")


def test_what_the_batch_spoils_changes_nothing():
    net, optimizer, method = start("stdp", update_every=1)
    x, y = batch(0)
    nn.functional.cross_entropy(net(x), y).backward()
    method._batch.fill_(torch.inf)
    with pytest.raises(NonFiniteError, match="layer '0'"):
        method.step()
    assert method.steps_done == 0
    assert "correlation" not in method.records
    assert method.current_sparsity() == 0
    assert train_step(net, optimizer, method, 0) is not None


def test_the_newest_method_sees_the_batch_and_an_old_one_can_go():
    net = sparsify(small_vgg(), 0.0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    first = STDPPruning(net, optimizer, 0.8, 8, update_every=1)
    second = STDPPruning(net, optimizer, 0.8, 8, update_every=1)
    net(images(0)[0])
    assert first._batch is None
    assert second._batch is not None
    assert len(net._forward_pre_hooks) == 1
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None


def test_layers_that_stay_dense_are_not_measured():
    net = sparsify(small_vgg(), 0.0, dense_layers=["features.0"])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    method = STDPPruning(net, optimizer, 0.6, 8, update_every=1)
    vgg_step(net, optimizer, method, 0)
    assert list(method.records["correlation"]) == ["features.5"]
    assert len(method.records["correlation"]["features.5"]) == method.layers[1].nnz


@pytest.mark.parametrize(
    "settings",
    [
        {"decay": 1.0},
        {"decay": -0.1},
        {"smoothing": 1.0},
        {"smoothing": True},
        {"depression": -1.0},
        {"depression": float("nan")},
        {"samples": 0},
        {"samples": 1.5},
    ],
)
def test_settings_are_checked(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        STDPPruning(small_vgg(), None, 0.5, 8, **settings)
