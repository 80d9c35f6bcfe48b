"""The same run in both forms, side by side: one masked, one compressed, fed the same gradients."""

import copy

import torch
from small_nets import (
    NO_ROUNDS,
    START_DENSE,
    OneStep,
    add_neurons,
    given_step,
    named_net,
    optimizer_of,
    prepared,
    show_batch,
)
from torch import nn

from ndsnn.sparse import compress
from ndsnn.sparse.compressed import CompressedModule
from ndsnn.sparse.methods import methods
from ndsnn.sparse.sparsify import sparsify

SHAPES = {"a": (6, 5), "b": (8, 3, 3, 3), "c": (4, 7)}
CONSTANT = {"set", "rigl", "static", "dst-ee", "dense"}


def both(name, *, kind="momentum", initial=0.5, final=0.9, total=14, seed=0, shapes=SHAPES, **settings):
    """Return (net, optimizer, method) in the masked and in the compressed form."""
    torch.manual_seed(seed)
    net = named_net(shapes)
    add_neurons(name, net)
    final = 0.0 if name == "dense" else final
    if name not in START_DENSE:
        sparsify(net, final if name in CONSTANT else initial, generator=torch.Generator().manual_seed(seed))
    if name not in NO_ROUNDS:
        settings = {"update_every": 2} | settings
    runs = []
    for each in (net, compress(copy.deepcopy(net))):
        optimizer = optimizer_of(each, kind)
        runs.append((each, optimizer, prepared(methods[name](each, optimizer, final, total, **settings))))
    return runs


def gradients_of(step, seed=0, levels=None, shapes=SHAPES):
    """Gradients by layer; few levels make ties."""
    found = {}
    for number, (name, shape) in enumerate(shapes.items()):
        source = torch.Generator().manual_seed(10_000 * seed + 100 * step + number)
        drawn = torch.randn(shape, generator=source)
        found[name] = drawn if levels is None else (drawn * levels).round()
    return found


def feed(module, gradient, channels):
    """Give a compressed layer a dense gradient, `channels` output channels at a time (0: all at once)."""
    sink = module.dense_gradient_sink()
    step = channels or len(gradient)
    if sink is not None:
        for first in range(0, len(gradient), step):
            sink(first, gradient[first : first + step].clone())
    flat = gradient.flatten()
    module.weight.grad = flat.clone() if module.positions is None else flat[module.positions]


def streamed_step(net, optimizer, method, gradients, channels=0):
    """One step of a compressed net in which the gradient of each layer's dense weight is the given one."""
    optimizer.zero_grad()
    show_batch(net, method)
    modules = dict(net.named_modules())
    for name, gradient in gradients.items():
        feed(modules[name], gradient, channels)
    optimizer.step()
    return method.step()


def step_of_both(masked, compressed, gradients, channels=0):
    """The same step of both; returns what changed after comparing it."""
    one, other = given_step(*masked, gradients), streamed_step(*compressed, gradients, channels)
    assert one == other
    return one


def require_same(masked, compressed):
    """Masks, values, optimizer state and counters agree bit for bit."""
    (_, optimizer, method), (net, other_optimizer, other) = masked, compressed
    assert [layer.name for layer in method.layers] == [layer.name for layer in other.layers]
    assert method.steps_done == other.steps_done
    assert method.current_sparsity() == other.current_sparsity()
    for one, two in zip(method.layers, other.layers, strict=True):
        assert isinstance(two.module, CompressedModule)
        assert (one.shape, one.size, one.nnz) == (two.shape, two.size, two.nnz)
        assert torch.equal(one.mask, two.mask)
        assert torch.equal(one.packed_mask(), two.packed_mask())
        assert torch.equal(one.active_positions(), two.active_positions())
        assert torch.equal(one.active_values(), two.weight.detach())
        state, packed = optimizer.state.get(one.weight, {}), other_optimizer.state.get(two.weight, {})
        assert state.keys() == packed.keys()
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == one.weight.shape:
                assert torch.equal(value[one.mask], packed[key]), key
            else:
                assert value == packed[key], key
    assert all(p.ndim == 1 for p in net.parameters())
    for name, counts in getattr(method, "times_active", {}).items():
        assert torch.equal(counts, other.times_active[name])


def conv_net(seed=0, spiking=False):
    """A net of ndsnn layers with bias, norm, stride and a linear layer, small enough to train in milliseconds."""
    from ndsnn.models import layers

    torch.manual_seed(seed)
    return nn.Sequential(
        layers.Conv2d(2, 6, 3, padding=1, bias=False),
        layers.BatchNorm2d(6),
        OneStep() if spiking else nn.ReLU(),
        layers.Conv2d(6, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        layers.Flatten(),
        layers.Linear(72, 5),
    )
