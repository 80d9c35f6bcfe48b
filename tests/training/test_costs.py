"""Costs against loops over single spikes and values worked out by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import ndsnn
from ndsnn.errors import ConfigError
from ndsnn.sparse.conversion import compress
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


def operations_by_torch(conv, counts):
    """Convolve the counts with the mask."""
    mask = conv.sparsity_mask.to(torch.float64)
    convolve = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}[mask.ndim]
    reached = convolve(
        counts[None].to(torch.float64), mask, None, conv.stride, conv.padding, conv.dilation, conv.groups
    )
    return round(float(reached.sum()))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(6, 4, 3, padding=1),
        nn.Conv2d(6, 4, 3, stride=2, padding=1),
        nn.Conv2d(6, 4, (3, 5), stride=(2, 1), padding=(0, 2)),
        nn.Conv2d(6, 4, 3, stride=3, padding=2),
        nn.Conv2d(6, 4, 7, padding=3),
        nn.Conv2d(6, 4, 1, stride=2),
        nn.Conv2d(6, 4, 3, padding="same"),
        nn.Conv2d(6, 4, 3, padding="valid"),
        nn.Conv2d(6, 4, (3, 5), padding="same", dilation=(1, 2)),
        nn.Conv2d(6, 4, (2, 3), padding="same"),
        nn.Conv2d(6, 4, 3, padding=2, dilation=2, stride=2),
        nn.Conv2d(6, 4, 3, padding=1, groups=2),
        nn.Conv2d(6, 6, 3, groups=6),
        nn.Conv1d(6, 4, 3, stride=2, padding=1),
        nn.Conv3d(6, 4, (1, 3, 2), padding=(0, 1, 1), stride=(1, 2, 1)),
    ],
    ids=str,
)
def test_operations_are_those_of_a_convolution_of_the_counts(conv):
    torch.manual_seed(0)
    conv = ndsnn.sparsify(copy.deepcopy(conv), 0.6)
    counts = torch.randint(0, 9, (6, 8, 9, 7)[: conv.weight.ndim - 1])
    expected = operations_by_torch(conv, counts)
    assert operations(conv, counts) == expected > 0
    even_same = conv.padding == "same" and any(side % 2 == 0 for side in conv.kernel_size)
    if isinstance(conv, nn.Conv2d) and conv.groups == 1 and set(conv.dilation) == {1} and not even_same:
        compressed = compress(nn.Sequential(copy.deepcopy(conv)))[0]
        assert operations(compressed, counts) == expected


def test_operations_that_no_float_holds():
    conv = nn.Conv2d(1, 1, 1, bias=False)
    counts = torch.tensor([[[2**53, 1], [0, 0]]])
    assert operations(conv, counts) == 2**53 + 1
    assert operations(compress(nn.Sequential(conv))[0], counts) == 2**53 + 1


def test_padding_that_repeats_values_is_refused():
    conv = nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")
    with pytest.raises(ConfigError, match="circular"):
        operations(conv, torch.ones(2, 4, 4))


def test_linear_operations():
    linear = nn.Linear(6, 4)
    ndsnn.sparsify(linear, 0.5)
    counts = torch.tensor([3, 0, 1, 2, 0, 5])
    brute = sum(int(counts[i]) * int(linear.sparsity_mask[o, i]) for i in range(6) for o in range(4))
    assert operations(linear, counts) == brute
    assert operations(compress(nn.Sequential(linear))[0], counts.view(6, 1, 1)) == brute


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
