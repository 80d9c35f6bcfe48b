"""Costs against loops over single spikes and values worked out by hand."""

import pytest
import torch
from torch import nn

import ndsnn
from ndsnn.training.activity import ActivityMeter
from ndsnn.training.costs import memory_footprint_bits, network_footprint_bits, operations, relative_training_cost


def test_relative_training_cost_by_hand():
    assert relative_training_cost(0.1, 0.95, 0.2) == pytest.approx(0.1 * 0.05 / 0.2)


def test_memory_footprint_by_hand():
    # (1 − .9)·100·[(1 + 5)·32 + 16] + (3 + 1)·16 + (4 + 1)·16 = 10·208 + 144
    assert memory_footprint_bits(0.9, 100, 5, [3, 4], 32, 16) == pytest.approx(2224)


def test_memory_footprint_of_a_network():
    net = nn.Sequential(nn.Conv2d(2, 5, 3, bias=False), nn.Flatten(), nn.Linear(5, 10, bias=False))
    ndsnn.sparsify(net, 0.5)
    assert network_footprint_bits(net, 2) == pytest.approx(70 * (3 * 32 + 32) + 6 * 32 + 11 * 32)


def conv_by_brute_force(spikes, mask, stride, padding):
    """Count, for every spike, each alive weight that carries it to an output inside the map."""
    n_out, n_in, kh, kw = mask.shape
    height, width = spikes.shape[-2:]
    out_h, out_w = (height + 2 * padding - kh) // stride + 1, (width + 2 * padding - kw) // stride + 1
    total = 0
    for sample in spikes.reshape(-1, n_in, height, width):
        for c, y, x in sample.nonzero().tolist():
            for o in range(n_out):
                for i in range(kh):
                    for j in range(kw):
                        row, column = y + padding - i, x + padding - j
                        inside = row % stride == 0 and column % stride == 0
                        if inside and 0 <= row // stride < out_h and 0 <= column // stride < out_w:
                            total += int(mask[o, c, i, j])
    return total


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 2, 0), (5, 1, 0), (5, 2, 2)])
def test_conv_operations(kernel, stride, padding):
    torch.manual_seed(kernel)
    conv = nn.Conv2d(3, 4, kernel, stride, padding)
    ndsnn.sparsify(conv, 0.7)
    spikes = (torch.rand(2, 2, 3, 7, 6) < 0.3).float()
    counted = operations(conv, (spikes != 0).flatten(0, 1).sum(0))
    assert counted == conv_by_brute_force(spikes, conv.sparsity_mask, stride, padding)
    assert counted > 0


def test_grouped_and_one_dimensional_conv_operations():
    torch.manual_seed(0)
    grouped = nn.Conv2d(4, 6, 3, padding=1, groups=2)
    ndsnn.sparsify(grouped, 0.5)
    spikes = (torch.rand(1, 4, 5, 5) < 0.4).float()
    mask = grouped.sparsity_mask
    parts = [conv_by_brute_force(spikes[:, g * 2 : g * 2 + 2], mask[g * 3 : g * 3 + 3], 1, 1) for g in range(2)]
    assert operations(grouped, spikes.sum(0)) == sum(parts)
    line = nn.Conv1d(2, 3, 3, padding=1)
    assert operations(line, torch.ones(2, 5)) == 3 * 2 * (5 * 3 - 2)


def test_linear_operations():
    linear = nn.Linear(6, 4)
    ndsnn.sparsify(linear, 0.5)
    counts = torch.tensor([3, 0, 1, 2, 0, 5])
    brute = sum(int(counts[i]) * int(linear.sparsity_mask[o, i]) for i in range(6) for o in range(4))
    assert operations(linear, counts) == brute


def test_meter_against_brute_force():
    """A whole small net: spikes, rates, operations of every layer, alive fan-out only."""
    torch.manual_seed(3)
    net = ndsnn.models.vgg(
        [4, "M", 6], num_classes=5, time_steps=3, in_channels=2, neuron=ndsnn.LIF(v_threshold=0.3)
    )
    ndsnn.sparsify(net, 0.6)
    meter = ActivityMeter(net)
    seen, spikes = {}, {}
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_pre_hook(lambda m, x, name=name: seen.__setitem__(name, x[0].detach()))
        if isinstance(module, ndsnn.LIF):
            module.register_forward_hook(lambda m, x, y, name=name: spikes.__setitem__(name, y.detach()))
    images = torch.randn(3, 2, 8, 8)
    with meter.counting():
        net(images)
    net(images)  # not counted
    meter.flush()
    first, second, last = seen
    assert meter.synapses[first].operations == conv_by_brute_force(
        images, net.get_submodule(first).sparsity_mask, 1, 1
    )
    assert not meter.synapses[first].spiking
    assert seen[second].shape[0] == 3
    brute = conv_by_brute_force(seen[second], net.get_submodule(second).sparsity_mask, 1, 1)
    assert meter.synapses[second].operations == brute > 0
    assert meter.synapses[second].spiking
    assert not meter.synapses[last].spiking, "averages over the map are analog"
    for name, neuron in meter.neurons.items():
        assert neuron.spikes == int(spikes[name].sum())
        assert neuron.chances == spikes[name].numel()
    total = sum(int(s.sum()) for s in spikes.values()) / sum(s.numel() for s in spikes.values())
    assert meter.firing_rate == pytest.approx(total)
    assert list(meter.feeds) == [first, second]
    assert list(meter.feeds.values()) == list(spikes)


def test_operations_follow_the_topology_of_their_time():
    net = nn.Sequential(nn.Linear(4, 3))
    ndsnn.sparsify(net, 0.5)
    meter = ActivityMeter(net)
    with meter.counting():
        net(torch.ones(1, 4))
    meter.flush()
    net[0].sparsity_mask.fill_(True)
    with meter.counting():
        net(torch.ones(2, 4))
    assert meter.total_operations(spiking=True) == 6 + 2 * 12


def test_meter_state_round_trip():
    net = ndsnn.models.vgg([4, "M"], num_classes=3, time_steps=2, in_channels=1)
    meter, copy = ActivityMeter(net), ActivityMeter(net)
    x = torch.randn(2, 1, 8, 8)
    with meter.counting():
        net(x)
    copy.load_state_dict(meter.state_dict())
    for each in (meter, copy):
        with each.counting():
            net(x)
    assert copy.state_dict() == meter.state_dict()
