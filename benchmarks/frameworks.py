"""A training step of SpikingJelly's own SpikingVGG-11, sparse, by SpikingJelly and on the engine.

    python benchmarks/frameworks.py [--sparsity .9 .98 --batch 32 --rounds 7]

The network is `spiking_vgg11_bn` unchanged, 32×32, T = 4. Both sides start from the same weights and connections.
Their outputs and gradients are compared first; then steps (forward, backward, reset) take turns in the same run,
and the median of the rounds counts. SpikingJelly runs on dense weights with zeros, once with maps as they are and
once with their channels innermost; the faster counts.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
from collections.abc import Callable

import torch
from spikingjelly.activation_based import functional, neuron, surrogate
from spikingjelly.activation_based.model import spiking_vgg
from torch import Tensor, nn

import ndsnn

TIME_STEPS = 4


class Net(nn.Module):
    """The network behind a repetition of the image over all steps, its logits averaged over them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = spiking_vgg.spiking_vgg11_bn(
            num_classes=10,
            spiking_neuron=neuron.LIFNode,
            surrogate_function=surrogate.ATan(),
            detach_reset=True,
        )
        functional.set_step_mode(self.body, "m")

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean logits [N, 10] of images [N, 3, 32, 32]."""
        return self.body(x.unsqueeze(0).repeat(TIME_STEPS, 1, 1, 1, 1)).mean(0)


def made(sparsity: float) -> Net:
    """Return a network of which about a tenth of the neurons fires at a step, as in a trained one."""
    torch.manual_seed(0)
    net = Net()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.constant_(module.weight, 1.6)
    ndsnn.sparsify(net, sparsity, generator=torch.Generator().manual_seed(0))
    for module in net.modules():
        if isinstance(module, nn.Linear):
            # Weights are uniform in ±1/√inputs, and about a tenth of the inputs are spikes.
            with torch.no_grad():
                module.weight.mul_(1.6 / math.sqrt((1 - ndsnn.sparsity(module)) * 0.1 / 3))
    return net


def step(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Forward, backward and reset; return the logits."""
    net.zero_grad()
    logits = net(x)
    nn.functional.cross_entropy(logits, y).backward()
    functional.reset_net(net)
    return logits.detach()


class SpikeCount:
    """How many spikes each neuron layer sent, counted by hooks, or told by the engine."""

    def __init__(self) -> None:
        self.spikes: dict[str, int] = {}

    def watch(self, net: nn.Module) -> None:
        """Count what the neurons of a network of SpikingJelly send."""
        for name, module in net.named_modules():
            if isinstance(module, neuron.BaseNode):
                module.register_forward_hook(
                    lambda m, x, y, name=name: self.on_neuron(name, int(y.detach().sum()), 0)
                )

    def on_neuron(self, path: str, spikes: int, chances: int) -> None:
        """Take note of a layer's spikes."""
        self.spikes[path] = spikes

    def on_input(self, layer: str, counts: Tensor, spiking: bool, samples: int) -> None:
        """Take no note of what a layer reads."""


def agreement(sparsity: float, x: Tensor, y: Tensor) -> str:
    """Return how far outputs, gradients and numbers of spikes of the two sides lie apart."""
    plain = made(sparsity)
    fast = ndsnn.accelerate(plain)
    counts = SpikeCount(), SpikeCount()
    counts[0].watch(plain)
    fast.observer = counts[1]
    outputs = []
    for net in (plain, fast):
        torch.manual_seed(1)  # of the masks of its dropouts
        outputs.append(step(net, x, y))
    masks = {name: mask for name, mask in plain.named_buffers() if name.endswith("sparsity_mask")}
    others = dict(fast.named_parameters())
    worst = largest = 0.0
    for name, parameter in plain.named_parameters():
        mask = masks.get(name.replace("weight", "sparsity_mask"))
        mine = parameter.grad if mask is None else parameter.grad[mask]
        worst = max(worst, float((mine - others[name].grad.view_as(mine)).abs().max()))
        largest = max(largest, float(mine.abs().max()))
    apart = float((outputs[0] - outputs[1]).abs().max() / outputs[0].abs().max())
    spikes = counts[0].spikes
    moved = sum(abs(spikes[name] - counts[1].spikes.get(name, spikes[name])) for name in spikes)
    return (
        f"outputs differ by {apart:.1e} of the largest, gradients by {worst / largest:.1e}, "
        f"the numbers of spikes of the layers by {moved} of {sum(spikes.values()):,}"
    )


def timed(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def main() -> None:
    """Read the command line, compare and time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.9, 0.98])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    x, y = torch.rand(options.batch, 3, 32, 32), torch.randint(0, 10, (options.batch,))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, spiking_vgg11_bn, batch {options.batch}")
    for sparsity in options.sparsity:
        plain = made(sparsity)
        fast = ndsnn.accelerate(plain)
        inner = copy.deepcopy(plain).to(memory_format=torch.channels_last)
        print(f"sparsity {sparsity:g}: {agreement(sparsity, x, y)}")
        sides = {"as they are": plain, "channels innermost": inner, "engine": fast}
        times: dict[str, list[float]] = {name: [] for name in sides}
        for round_number in range(options.rounds + 1):
            for name, net in sides.items():
                took = timed(lambda net=net: step(net, x, y))
                if round_number:
                    times[name].append(took)
        medians = {name: statistics.median(found) for name, found in times.items()}
        rival = min(medians["as they are"], medians["channels innermost"])
        print(
            f"  SpikingJelly {1e3 * rival:.0f} ms, engine {1e3 * medians['engine']:.0f} ms, "
            f"{rival / medians['engine']:.1f} times faster"
        )


if __name__ == "__main__":
    main()
