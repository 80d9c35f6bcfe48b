"""Nets of SpikingJelly and snnTorch are sparsified and trained as they come."""

import pytest
import snntorch
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

from ndsnn.sparse.methods import methods
from ndsnn.sparse.sparsify import layer_report, sparsify, sparsity
from ndsnn.sparse.topology import sparse_layers

T = 3


class SnnTorchNet(nn.Module):
    """Linear layers and leaky neurons with the time loop written out."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(36, 40)
        self.lif1 = snntorch.Leaky(beta=0.8)
        self.fc2 = nn.Linear(40, 5)
        self.lif2 = snntorch.Leaky(beta=0.8)

    def forward(self, x_nchw):
        potential1, potential2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        outputs = []
        for _ in range(T):
            spikes, potential1 = self.lif1(self.fc1(x_nchw.flatten(1)), potential1)
            spikes, potential2 = self.lif2(self.fc2(spikes), potential2)
            outputs.append(potential2)
        return torch.stack(outputs).mean(0)


class SpikingJellyNet(nn.Module):
    """A multi-step convolutional net."""

    def __init__(self):
        super().__init__()

        def lif():
            return neuron.LIFNode(
                tau=4 / 3, v_threshold=0.2, surrogate_function=surrogate.ATan(), detach_reset=True
            )

        self.body = nn.Sequential(
            layer.Conv2d(1, 8, 3, padding=1, bias=False),
            layer.BatchNorm2d(8),
            lif(),
            layer.MaxPool2d(2),
            layer.Flatten(),
            layer.Linear(72, 20, bias=False),
            lif(),
            layer.Linear(20, 5, bias=False),
        )
        functional.set_step_mode(self, "m")

    def forward(self, x_nchw):
        functional.reset_net(self)
        return self.body(x_nchw.expand(T, *x_nchw.shape)).mean(0)


def train(net, optimizer, method, steps):
    source = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(steps):
        labels = torch.randint(0, 5, (16,), generator=source)
        images = torch.randn(16, 1, 6, 6, generator=source) * 0.3
        for image, label in zip(images, labels, strict=True):
            image[0, label] += 2
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        method.step()
        losses.append(loss.item())
        for handle in sparse_layers(net):
            assert not handle.weight[~handle.mask].any()
            assert handle.weight[handle.mask].isfinite().all()
    return losses


@pytest.mark.parametrize(
    ("make", "weights"), [(SnnTorchNet, 1640), (SpikingJellyNet, 1612)], ids=["snntorch", "spikingjelly"]
)
@pytest.mark.parametrize("name", ["ndsnn", "set"])
def test_training_a_foreign_net(make, weights, name):
    torch.manual_seed(0)
    net = make()
    keys = list(net.state_dict())
    sparsify(net, 0.6 if name == "ndsnn" else 0.9, generator=torch.Generator().manual_seed(1))
    assert list(net.state_dict()) == keys
    assert sum(row.weights for row in layer_report(net)) == weights
    before = [layer.mask.clone() for layer in sparse_layers(net)]
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    method = methods[name](net, optimizer, 0.9, 40, update_every=5)
    losses = train(net, optimizer, method, 40)
    assert round(weights * (1 - sparsity(net))) == round(weights * 0.1)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    moved = [(a & ~b).sum() for a, b in zip(method.masks(), before, strict=True)]
    assert sum(moved) > 0
