"""How the spikes before and behind each connection go together, measured while a plain network runs.

With s_i[t] what a connection reads, o_j[t] the spikes of the neuron it feeds, and traces that decay by λ a step,

    x_i[t] = λ·x_i[t−1] + s_i[t]            what was read up to now
    y_j[t] = λ·(y_j[t−1] + o_j[t−1])        what was fired before now
    c_ij = mean over samples of Σ_t ( x_i[t]·o_j[t] − A·y_j[t]·s_i[t] )

is pair-based STDP: the pre-trace at post spikes minus A times the post-trace at pre spikes. A weight that stands
at many places of a map, as in a convolution, has the sum over them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn

from ndsnn.neurons import LIF
from ndsnn.sparse.topology import maskable_modules, weight_of

PIECE = 2**22
"""Numbers of a map that are correlated at a time."""

Take = Callable[[str, Tensor], Tensor]
"""Returns what is to be kept of the dense correlations of a layer: (name, c of the weight's shape)."""


@torch.no_grad()
def spike_correlations(
    net: nn.Module, x: Tensor, layers: Collection[str], take: Take, decay: float, depression: float
) -> dict[str, Tensor]:
    """Run a plain network and return the correlations c of its connections.

    A layer feeds the `LIF` that is called next after it, if its output has the shape of the spikes, [T, N, *],
    that of one step, [N, *], as before `RepeatOverTime`, or that of steps folded into the batch, [T·N, *]. Others,
    and those that no `LIF` follows, such as a classifier, are left out. Only the correlations of one layer at a
    time are there in dense form.

    Args:
        net: Plain modules and `LIF`; what it reads, its neurons' state and its statistics may be changed.
        x: Its input.
        layers: Names of the layers to be measured.
        take: Says what is kept.
        decay: λ in [0, 1).
        depression: A ≥ 0.

    Returns:
        What `take` returned, summed over all uses of a layer.
    """
    found: dict[str, Tensor] = {}
    waiting: list[tuple[str, nn.Module, Tensor, torch.Size]] = []

    def on_layer(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            waiting.append((name, module, inputs[0], output.shape))

        return note

    def on_neuron(module: nn.Module, inputs: tuple[Tensor, ...], spikes: Tensor) -> None:
        for name, layer, read, shape in waiting:
            read_tn = _by_step(read, shape, spikes.shape)
            if read_tn is not None:
                folded = shape != spikes.shape
                kept = take(name, correlate(layer, read_tn, spikes, decay, depression, folded))
                found[name] = found[name] + kept if name in found else kept
        waiting.clear()

    modules = maskable_modules(net)
    handles = [modules[name].register_forward_hook(on_layer(name)) for name in layers]
    handles += [m.register_forward_hook(on_neuron) for m in net.modules() if isinstance(m, LIF)]
    try:
        net(x)
    finally:
        for handle in handles:
            handle.remove()
    return found


def correlate(
    layer: nn.Module, read_tn: Tensor, spikes_tn: Tensor, decay: float, depression: float, folded: bool = False
) -> Tensor:
    """Return c of one layer in the shape of its weight.

    A conv or linear layer is linear in its weight, so that Σ x·o over the places where a weight stands is the
    gradient of ⟨layer(x), o⟩ by the weight. Both terms are taken in one go.

    Args:
        layer: A conv or linear layer; its hooks are not called.
        read_tn: What it reads, [T, N, *].
        spikes_tn: Spikes of the neurons that it feeds, [T, N, *].
        decay: λ.
        depression: A.
        folded: Whether the layer takes steps folded into the batch, [T·N, *].
    """
    samples = spikes_tn.shape[1]
    weight = weight_of(layer)
    most = 2 * max(read_tn[:, :1].numel(), spikes_tn[:, :1].numel())
    size = max(1, PIECE // most)
    total = torch.zeros_like(weight, requires_grad=False)
    for read, spikes in zip(read_tn.split(size, 1), spikes_tn.split(size, 1), strict=True):
        read, spikes = read.to(weight.dtype), spikes.to(weight.dtype)
        inputs = torch.cat([trace(read, decay), read])
        targets = torch.cat([spikes, -depression * earlier_trace(spikes, decay)])
        if folded:
            inputs, targets = inputs.flatten(0, 1), targets.flatten(0, 1)
        with torch.enable_grad():
            output = layer.forward(inputs)
        total += torch.autograd.grad(output, weight, targets)[0]
    return total / samples


def trace(s_tn: Tensor, decay: float) -> Tensor:
    """Return x[t] = λ·x[t−1] + s[t], [T, N, *]."""
    found = s_tn.clone(memory_format=torch.contiguous_format)
    for step in range(1, len(found)):
        found[step] += decay * found[step - 1]
    return found


def earlier_trace(o_tn: Tensor, decay: float) -> Tensor:
    """Return y[t] = λ·(y[t−1] + o[t−1]), which is 0 at the first step, [T, N, *]."""
    found = torch.zeros_like(o_tn, memory_format=torch.contiguous_format)
    found[1:] = decay * trace(o_tn, decay)[:-1]
    return found


def _by_step(read: Tensor, shape: torch.Size, spikes: torch.Size) -> Tensor | None:
    """Return what a layer with an output of `shape` has read as [T, N, *], or None where it does not fit."""
    if shape == spikes:
        return read
    if shape == spikes[1:]:
        return read.expand(spikes[0], *read.shape)
    if shape == (spikes[0] * spikes[1], *spikes[2:]):
        return read.unflatten(0, spikes[:2])
    return None
