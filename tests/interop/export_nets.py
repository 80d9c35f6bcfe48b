"""Networks for the tests of exports: small, sparse, and alive in every layer."""

import torch
from torch import nn

import ndsnn


def awake(net, seed=0):
    """Give norms statistics and shifts other than those of the start, so that folding matters and neurons fire."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.02, 0.2),
                (module.weight.data, -0.5, 1.5),
                (module.bias.data, -0.2, 0.8),
            ):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
        elif isinstance(module, nn.Linear):
            fan = module.in_features
            nn.init.normal_(module.weight, 8 / fan, 6 / fan**0.5, generator=generator)
            if module.bias is not None:
                nn.init.normal_(module.bias, 0.2, 0.2, generator=generator)
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.weight, 0.1, 0.4, generator=generator)
            nn.init.normal_(module.bias, 0.2, 0.2, generator=generator)
    return net.eval()


def sparse(net, sparsity=0.6, seed=0):
    torch.manual_seed(seed)
    ndsnn.sparsify(net, sparsity, generator=torch.Generator().manual_seed(seed))
    net = awake(net, seed)
    for layer in ndsnn.sparse.topology.sparse_layers(net):
        layer.weight.data.masked_fill_(~layer.mask, 0)
    return net


def small_vgg(classes=10, channels=1, steps=4, **settings):
    return ndsnn.models.vgg([8, "M", 12, "M", 12], classes, steps, channels, **settings)


def residual(steps=3, **settings):
    return ndsnn.models.resnet19(5, steps, 3, 0.0625, **settings)


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
