"""The meter sees the same whichever form and engine the network has."""

import copy

import pytest
import torch
from tiny_runs import needs_native
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import ndsnn
from ndsnn import models
from ndsnn.sparse.conversion import compress
from ndsnn.training.activity import ActivityMeter

NETS = {
    "vgg": {"layers": [8, "M", 12, 12, "M"]},
    "resnet19": {"width": 0.06},
    "lenet5": {"width": 0.5},
}


def network(name: str, sparsity: float = 0.6) -> nn.Module:
    """A small net in which all layers fire; in evaluation mode all sums inside it are exact in float32.

    Norms then do nothing, weights are multiples of 1/8, and τ is 2.
    """
    torch.manual_seed(0)
    neuron = ndsnn.LIF(tau=2.0, v_threshold=0.5)
    net = models.MODELS[name](num_classes=5, time_steps=2, in_channels=2, neuron=neuron, **NETS[name])
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            module.eps = 2.0**-17
            module.running_var.fill_(1 - module.eps)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data.copy_(torch.randint(-7, 8, module.weight.shape) / 8)
            if module.bias is not None:
                module.bias.data.zero_()
    return ndsnn.sparsify(net, sparsity, generator=torch.Generator().manual_seed(1))


def images() -> torch.Tensor:
    """Multiples of 1/4, many of them 0."""
    return torch.randint(-3, 5, (3, 2, 32, 32), generator=torch.Generator().manual_seed(2)).div(4).relu()


def seen(net: nn.Module, x: torch.Tensor) -> tuple[dict, dict]:
    """What a meter has of two passes, with a flush between them."""
    meter = ActivityMeter(net)
    for _ in range(2):
        with meter.counting(), torch.no_grad():
            net(x)
        meter.flush()
    with torch.no_grad():
        net(x)  # not counted
    return meter.state_dict(), meter.feeds


def require_lively(state: dict) -> None:
    assert all(0 < row["spikes"] < row["chances"] for row in state["neurons"].values())
    assert all(row["operations"] > 0 for row in state["synapses"].values())
    assert {row["spiking"] for row in state["synapses"].values()} == {True, False}


@needs_native
@pytest.mark.parametrize("sparsity", [0.0, 0.6])
@pytest.mark.parametrize("name", NETS)
def test_native_counts_are_those_of_the_plain_network(name, sparsity):
    plain = network(name, sparsity).eval()
    expected = seen(plain, images())
    require_lively(expected[0])
    assert seen(ndsnn.accelerate(plain, backend="native"), images()) == expected
    assert seen(compress(copy.deepcopy(plain)), images()) == expected


@pytest.mark.parametrize("name", NETS)
def test_counts_of_the_engine_while_training(name):
    plain = network(name).double()
    accelerated = ndsnn.accelerate(plain, backend="reference")
    expected = seen(plain, images().double())
    require_lively(expected[0])
    assert seen(accelerated, images().double()) == expected


def test_event_input_that_spikes():
    plain = network("vgg").eval()
    events = (torch.rand(2, 3, 2, 16, 16, generator=torch.Generator().manual_seed(3)) < 0.3).float()
    expected = seen(plain, events)
    assert expected[0]["synapses"]["features.0"]["spiking"]
    assert seen(ndsnn.accelerate(plain, backend="reference"), events) == expected


def test_the_observer_is_gone_after_a_failure():
    accelerated = ndsnn.accelerate(network("vgg"), backend="reference")
    meter = ActivityMeter(accelerated)
    with pytest.raises(ndsnn.errors.ShapeError), meter.counting():
        accelerated(torch.zeros(1, 3, 8, 8))
    assert accelerated.observer is None
