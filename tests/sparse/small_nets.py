"""Small networks and one-line training steps for the tests of sparse training."""

import io

import torch
from torch import nn

from ndsnn.neurons import LIF
from ndsnn.sparse.methods import methods
from ndsnn.sparse.sparsify import sparsify
from ndsnn.sparse.topology import weight_shape

START_DENSE = {"gmp", "granet", "dense", "admm", "snip", "online", "stdp"}
CONSTANT = {"set", "rigl", "static", "dst-ee", "dense"}
NO_ROUNDS = {"static", "dense", "snip"}
PRUNE_ONLY = {"gmp", "admm", "online", "stdp"}
SPIKING = {"stdp"}
NO_GROWTH = {*PRUNE_ONLY, *NO_ROUNDS}
OWN_DENSITIES = {"granet", "ndsnn-lamp"}
BY_GRADIENT = ("ndsnn", "ndsnn-lamp", "rigl", "granet", "dst-ee")
ALL = tuple(name for name in methods if name != "lth")  # whose rounds the loop calls: see test_lth.py
DYNAMIC = tuple(name for name in ALL if name not in NO_ROUNDS)


class OneStep(nn.Module):
    """Neurons that see one step, [N, *]."""

    def __init__(self):
        super().__init__()
        self.neuron = LIF(v_threshold=0.3)

    def forward(self, x):
        return self.neuron(x[None])[0]


class Layers(nn.ModuleDict):
    """Layers side by side, for given gradients; a `neuron` beside them is none of the items."""

    def items(self):
        return {name: layer for name, layer in super().items() if name != "neuron"}.items()

    def forward(self, x, steps=3, samples=4):
        """Feed each layer spikes of its own, drawn by its name and the first number of `x`."""
        found = []
        for name, layer in self.items():
            source = torch.Generator().manual_seed(int(1e4 * x.flatten()[0].abs()) + sum(name.encode()))
            _, inputs, *kernel = weight_shape(layer)
            spikes = torch.rand(steps * samples, inputs, *(5 for _ in kernel), generator=source) < 0.4
            out = layer(spikes.to(x)).unflatten(0, (steps, samples))
            found.append((self["neuron"](4 * out) if "neuron" in self else out).flatten())
        return torch.cat(found)


def conv_net(seed=0, dtype=torch.float32, spiking=False):
    """Two convolutions (108 and 432 weights) and a linear layer (360), with a batch norm and a bias between."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        OneStep() if spiking else nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(72, 5),
    )
    return net.to(dtype)


def named_net(shapes):
    """Layers of the given weight shapes by name, for given gradients; all start at standard normal values."""
    layers = {}
    for name, shape in shapes.items():
        if len(shape) == 2:
            layers[name] = nn.Linear(shape[1], shape[0], bias=False, device="meta")
        else:
            layers[name] = nn.Conv2d(shape[1], shape[0], shape[2], bias=False, device="meta")
    net = Layers(layers).to_empty(device="cpu")
    for weight in net.parameters():
        nn.init.normal_(weight)
    return net


def batch(step, size=8, dtype=torch.float32):
    """The batch of a step."""
    source = torch.Generator().manual_seed(1000 + step)
    images = torch.randn(size, 2, 6, 6, generator=source, dtype=dtype)
    return images, torch.randint(0, 5, (size,), generator=source)


def optimizer_of(net, kind="momentum"):
    """An optimizer that would move inactive weights if it were let."""
    return {
        "sgd": lambda p: torch.optim.SGD(p, 0.1),
        "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=5e-4),
        "nesterov": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
        "adam": lambda p: torch.optim.Adam(p, 0.01, weight_decay=1e-3, amsgrad=True),
        "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
        "noisy": lambda p: NoisySGD(p, 0.1, momentum=0.9),
        "frozen": lambda p: torch.optim.SGD(p, 0.0, momentum=0.9),
    }[kind](net.parameters())


class NoisySGD(torch.optim.SGD):
    """SGD that adds noise to every weight and every momentum, inactive ones too."""

    @torch.no_grad()
    def step(self, closure=None):
        result = super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                p.add_(torch.randn_like(p), alpha=0.01)
                self.state[p]["momentum_buffer"].add_(torch.randn_like(p), alpha=0.01)
        return result


def start(name, *, net=None, kind="momentum", initial=0.5, final=0.9, total=24, seed=0, **settings):
    """Return net, optimizer and method; the constant methods are sparsified at `final`."""
    net = conv_net(seed, spiking=name in SPIKING) if net is None else net
    add_neurons(name, net)
    final = 0.0 if name == "dense" else final
    if name not in START_DENSE:
        sparsify(net, final if name in CONSTANT else initial, generator=torch.Generator().manual_seed(seed))
    optimizer = optimizer_of(net, kind)
    if name not in NO_ROUNDS:
        settings = {"update_every": 3} | settings
    return net, optimizer, prepared(methods[name](net, optimizer, final, total, **settings))


def add_neurons(name, net):
    """Put neurons behind the layers of a `Layers` for the methods that look at spikes."""
    if name in SPIKING and isinstance(net, Layers):
        net["neuron"] = LIF()


def prepared(method):
    """Let a method choose its connections, if it does so before the first step; returns it."""
    if method.images_per_class:
        method.prepare([batch(0, dtype=method.layers[0].weight.dtype)], lambda outputs, _: outputs.square().mean())
    return method


def show_batch(net, method):
    """Call the network, whose output does not matter, for the methods that look at what it reads."""
    if hasattr(method, "see"):
        net(batch(method.steps_done)[0])


def train_step(net, optimizer, method, step):
    """One ordinary training step on the batch of `step`."""
    images, labels = batch(step, dtype=next(net.parameters()).dtype)
    optimizer.zero_grad()
    nn.functional.cross_entropy(net(images), labels).backward()
    optimizer.step()
    return method.step()


def given_step(net, optimizer, method, gradients):
    """One step in which the gradient of each layer's weight is the given one (the loss is Σ w·c)."""
    optimizer.zero_grad()
    show_batch(net, method)
    modules = dict(net.named_modules())
    sum((modules[name].weight * c).sum() for name, c in gradients.items()).backward()
    optimizer.step()
    return method.step()


def masks_of(method):
    """Copies of the masks by layer name."""
    return {layer.name: layer.mask.clone() for layer in method.layers}


def snapshot(net, optimizer, method):
    """Everything a failed call must leave as it was, as one flat list of tensors and numbers."""
    momenta = [
        value.clone()
        for p in net.parameters()
        for value in optimizer.state.get(p, {}).values()
        if isinstance(value, torch.Tensor)
    ]
    counters = [c.clone() for c in getattr(method, "times_active", {}).values()]
    counters += [v for by_layer in method.records.state_dict().values() for v in by_layer.values()]
    return [
        *(p.detach().clone() for p in net.parameters()),
        *momenta,
        *counters,
        *masks_of(method).values(),
        method.steps_done,
        dict(method.initial_counts),
    ]


def same(one, other):
    """Whether two snapshots agree bit for bit."""
    return len(one) == len(other) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(one, other, strict=True)
    )


def through_file(state):
    """What torch.load(weights_only=True) returns of a saved state."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
