"""A small LightningModule and the plain loop that does the same."""

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader

import ndsnn

BATCHES, SIZE = 6, 8


def batches():
    """The same batches in every epoch."""
    source = torch.Generator().manual_seed(1)
    images = torch.rand(BATCHES, SIZE, 1, 8, 8, generator=source)
    labels = torch.randint(0, 3, (BATCHES, SIZE), generator=source)
    return list(zip(images, labels, strict=True))


def loader():
    """The batches as Lightning and Accelerate take them."""
    return DataLoader(batches(), batch_size=None)


def network(form="masked", sparsity=0.5):
    """A spiking net of four sparse layers; `accelerated` on the reference back end."""
    torch.manual_seed(0)
    net = ndsnn.models.vgg([4, "M", 6, "M"], num_classes=3, time_steps=2, in_channels=1)
    if sparsity is not None:
        ndsnn.sparsify(net, sparsity, generator=torch.Generator().manual_seed(0))
    return ndsnn.accelerate(net, backend="reference") if form == "accelerated" else net


def optimizer_of(net, kind="sgd"):
    """An optimizer of two groups, with momentum."""
    parameters = list(net.parameters())
    groups = [{"params": parameters[:2], "weight_decay": 1e-3}, {"params": parameters[2:]}]
    return torch.optim.Adam(groups, 0.01) if kind == "adam" else torch.optim.SGD(groups, 0.1, momentum=0.9)


class Module(LightningModule):
    """The network as Lightning trains it."""

    def __init__(self, form="masked", kind="sgd", sparsity=0.5, skip=()):
        super().__init__()
        self.net, self.kind, self.skip = network(form, sparsity), kind, skip

    def training_step(self, batch, batch_idx):
        if batch_idx in self.skip:
            return None
        return ndsnn.losses.mean_step_cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        optimizer = optimizer_of(self.net, self.kind)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


class Names(nn.Module):
    """Gives the layers of a plain loop the names they have in a LightningModule."""

    def __init__(self, net):
        super().__init__()
        self.net = net


def plain_loop(
    name, epochs, *, form="masked", kind="sgd", sparsity=0.5, accumulate=1, clip=None, skip=(), **settings
):
    """Return network, optimizer and method after `epochs` of the loop that Lightning's is to equal."""
    net = network(form, sparsity)
    optimizer = optimizer_of(net, kind)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    method = ndsnn.methods[name](Names(net), optimizer, **settings)
    for _ in range(epochs):
        for number, (x, y) in enumerate(batches()):
            if number in skip:
                continue
            if number % accumulate == 0:
                optimizer.zero_grad()
            (ndsnn.losses.mean_step_cross_entropy(net(x), y) / accumulate).backward()
            if number % accumulate == accumulate - 1:
                if clip is not None:
                    nn.utils.clip_grad_norm_(net.parameters(), clip)
                optimizer.step()
                method.step()
        scheduler.step()
    return net, optimizer, method


def everything(net, optimizer, method):
    """Weights, buffers, optimizer state and masks, as one list."""
    state = [t for p in net.parameters() for t in optimizer.state[p].values() if isinstance(t, torch.Tensor)]
    return [*net.state_dict().values(), *state, *method.masks(), torch.tensor(method.steps_done)]


def same(one, other):
    """Whether two such lists agree bit for bit."""
    one, other = everything(*one), everything(*other)
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
