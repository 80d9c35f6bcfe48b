"""How an accelerated network of another framework is compared with the network itself."""

from collections.abc import Callable

import torch
from torch import nn

from ndsnn.engine import Accelerated

LOGITS, GRADIENTS = 1e-5, 2e-4
"""Largest errors, relative to the largest value: float32 sums in another order, over steps and layers."""


class Inputs:
    """Counts for each conv and linear layer how often each place of its input was not 0, in both kinds of net."""

    def __init__(self) -> None:
        self.counts: dict[str, torch.Tensor] = {}

    def on_neuron(self, path, spikes, chances):
        """Take no note: what fires is what the next layer reads."""

    def on_input(self, layer, counts, spiking, samples):
        self.counts[layer] = counts.flatten()

    def watch(self, net: nn.Module) -> list:
        """Count in a framework's own network, whose layers see [T, N, *], or one step [N, *] at a time."""
        handles = []
        for path, module in net.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                axes = 3 if isinstance(module, nn.Conv2d) else 1

                def count(module, inputs, path=path, axes=axes):
                    counted = (inputs[0] != 0).flatten(0, -axes - 1).sum(0).flatten()
                    self.counts[path] = self.counts.get(path, 0) + counted

                handles.append(module.register_forward_pre_hook(count))
        return handles


def lively(net: nn.Module, seed: int = 0) -> nn.Module:
    """Give norms and biases values with which all layers fire."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.weight.data.uniform_(1, 2, generator=generator)
            module.bias.data.uniform_(0.2, 1.2, generator=generator)
            module.running_mean.uniform_(-0.2, 0.2, generator=generator)
            module.running_var.uniform_(0.3, 1.3, generator=generator)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            module.weight.data.normal_(0, 2 / fan_in**0.5, generator=generator)
            if module.bias is not None:
                module.bias.data.uniform_(0.2, 0.6, generator=generator)
    return net


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float, what: str, least: float = 1e-3) -> None:
    """Compare relative to the largest value, or to `least` where all are smaller."""
    assert actual.shape == expected.shape, what
    error, largest = (actual - expected).abs().max().item(), expected.abs().max().item()
    assert error <= tolerance * max(largest, least), f"{what}: error {error:.3g} of {largest:.3g}"


def alive(net: nn.Module, name: str, gradient: torch.Tensor) -> torch.Tensor:
    """Return the part of a dense weight gradient that belongs to alive weights of an accelerated network."""
    layer = net.get_submodule(name.rpartition(".")[0])
    if name.endswith("weight") and hasattr(layer, "dense_shape"):
        return gradient.flatten()[layer.active_positions()]
    return gradient


def same_network(
    accelerated: Accelerated,
    net: nn.Module,
    x: torch.Tensor,
    reset: Callable[[nn.Module], None] = lambda net: None,
    flips: int = 0,
    once: tuple[str, int] = ("", 1),
) -> torch.Tensor:
    """Check that both give the same spikes, outputs, gradients and running statistics; return an output.

    Args:
        accelerated: The one.
        net: The other.
        x: What they are given.
        reset: Is called with each of them before.
        flips: How many spikes may differ, for the reason that a potential is within rounding of the threshold.
        once: A layer that the engine computes once for an input that is the same at so many steps.
    """
    found, expected, results = Inputs(), Inputs(), []
    for one in (accelerated, net):
        one.zero_grad()
        reset(one)
        handles = expected.watch(net) if one is net else []
        accelerated.observer = found if one is accelerated else None
        given = x.clone().requires_grad_()
        torch.manual_seed(1)
        outputs = one(given)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        weights = torch.Generator().manual_seed(2)
        sum((output * torch.randn(output.shape, generator=weights)).sum() for output in outputs).backward()
        for handle in handles:
            handle.remove()
        results.append((outputs, given.grad))
    (outputs, gradient), (expected_outputs, expected_gradient) = results
    if once[0]:
        found.counts[once[0]] = found.counts[once[0]] * once[1]
    different = sum(int((found.counts[path] - expected.counts[path]).abs().sum()) for path in found.counts)
    assert different <= flips, f"{different} spikes differ"
    assert set(found.counts) == set(expected.counts)
    assert all(counts.sum() > 0 for counts in found.counts.values()), "every layer reads spikes"
    for output, other in zip(outputs, expected_outputs, strict=True):
        close(output, other, LOGITS, "outputs")
    close(gradient, expected_gradient, GRADIENTS, "gradient of the input")
    own = dict(accelerated.named_parameters())
    # The gradient of a bias in front of a norm is 0 but for rounding.
    least = 0.01 * max(float(p.grad.abs().max()) for p in net.parameters() if p.grad is not None)
    for name, parameter in net.named_parameters():
        if parameter.grad is None:
            assert own[name].grad is None, name
        else:
            expected_part = alive(accelerated, name, parameter.grad).reshape(-1)
            close(own[name].grad.reshape(-1), expected_part, GRADIENTS, name, least)
    buffers = dict(accelerated.named_buffers())
    for name, buffer in net.named_buffers():
        if "running" in name or "tracked" in name:
            close(buffers[name].double(), buffer.double(), LOGITS, name)
    return expected_outputs[0].detach()
