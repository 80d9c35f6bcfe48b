"""Networks whose neurons fire and whose gradients flow, and how two of them are compared."""

import copy
import functools

import torch
from arena_backend import ArenaBackend
from torch import nn

import ndsnn
from ndsnn import models
from ndsnn.engine.backends import BackendChoice
from ndsnn.engine.lowering import lower
from ndsnn.engine.module import Accelerated
from ndsnn.models.layers import AdaptiveAvgPool2d, BatchNorm2d, Conv2d, Flatten, Linear, RepeatOverTime
from ndsnn.neurons import LIF
from ndsnn.sparse.conversion import compress

SMALL = {
    "vgg": {"layers": [8, "M", 12, 12, "M"], "width": 0.5},
    "vgg16": {"width": 0.06},
    "resnet19": {"width": 0.06},
    "resnet19_tdbn": {"width": 0.06},
    "lenet5": {"width": 0.5},
}
"""Settings with which each of the models is small."""


def lively(net: nn.Module, seed: int = 0) -> nn.Module:
    """Make `net` float64 and give norms and biases values with which all layers fire."""
    generator = torch.Generator().manual_seed(seed)
    net.double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            tensors = {
                "weight": (1.0, 1.0),
                "bias": (0.2, 1.2),
                "running_mean": (-0.2, 0.4),
                "running_var": (0.3, 1),
            }
        elif isinstance(module, nn.Conv2d | nn.Linear):
            tensors = {"bias": (0.3, 0.4)}
        else:
            continue
        for name, (low, width) in tensors.items():
            if getattr(module, name) is not None:
                drawn = torch.rand(getattr(module, name).shape, generator=generator, dtype=torch.float64)
                getattr(module, name).data.copy_(low + width * drawn)
    return net


def small(name: str, time_steps: int = 3, sparsity: float = 0.5, **settings) -> nn.Module:
    """Build a small model by name; sparse unless `sparsity` is 0."""
    torch.manual_seed(0)
    net = lively(models.MODELS[name](time_steps=time_steps, num_classes=7, **SMALL[name] | settings))
    net.classifier.weight.data.mul_(100)
    return ndsnn.sparsify(net, sparsity, generator=torch.Generator().manual_seed(1)) if sparsity else net


def tiny(*layers: nn.Module, channels: int = 4) -> nn.Sequential:
    """Stem, `layers`, pool and readout, of 2 input channels, T = 3 and 5 classes."""
    torch.manual_seed(0)
    stem = [Conv2d(2, 4, 3, padding=1, bias=False), BatchNorm2d(4), RepeatOverTime(3), LIF()]
    return lively(nn.Sequential(*stem, *layers, AdaptiveAvgPool2d(1), Flatten(), Linear(channels, 5, bias=False)))


def on_arena(net: nn.Module, memory: str = "store", in_place: bool = True) -> Accelerated:
    """Accelerate a copy of `net` on `ArenaBackend`."""
    make = functools.partial(ArenaBackend, in_place=in_place)
    choice = BackendChoice("reference", "this is a test", make, torch.float64)
    return Accelerated(compress(copy.deepcopy(net)), lower(net), choice, memory)


def inputs(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(actual: torch.Tensor, expected: torch.Tensor, what: str = "") -> None:
    """Compare with a tolerance of 1e-9 of the largest value."""
    assert actual.shape == expected.shape, what
    difference = (actual - expected).abs().max().item() if actual.numel() else 0.0
    assert difference <= 1e-9 * max(expected.abs().max().item() if expected.numel() else 0.0, 1e-3), what


Gradients = dict[str, torch.Tensor | None]


def gradients(net: nn.Module, x: torch.Tensor, seed: int = 2) -> tuple[torch.Tensor, Gradients]:
    """Run both passes with a random gradient of the logits; return these and all gradients, the input's too."""
    net.zero_grad()
    x = x.clone().requires_grad_()
    logits = net(x)
    logits.backward(inputs(*logits.shape, seed=seed).to(logits.dtype))
    found = {name: None if p.grad is None else p.grad.clone() for name, p in net.named_parameters()}
    return logits.detach(), found | {"input": x.grad}


def same_network(accelerated: Accelerated, plain: nn.Module, x: torch.Tensor) -> None:
    """Check that both give the same logits, gradients and running statistics, in their present modes."""
    logits, found = gradients(accelerated, x)
    expected_logits, expected = gradients(plain, x)
    assert expected_logits.abs().max() > 0.1
    close(logits, expected_logits, "logits")
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        layer = accelerated.get_submodule(name.rpartition(".")[0])
        if name.endswith("weight") and hasattr(layer, "dense_shape") and gradient is not None:
            gradient = gradient.flatten()[layer.active_positions()]
        if gradient is None:
            assert found[name] is None, name
        else:
            close(found[name], gradient, name)
    same_buffers(accelerated, plain)


def same_buffers(accelerated: nn.Module, plain: nn.Module) -> None:
    buffers = dict(accelerated.named_buffers())
    for name, buffer in plain.named_buffers():
        if "running" in name or "tracked" in name:
            close(buffers[name].double(), buffer.double(), name)
