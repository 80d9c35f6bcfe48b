"""Networks of Norse are sparsified and trained as they come; the engine says why it does not take them."""

import norse.torch as norse
import pytest
import torch
from torch import nn

import ndsnn
from ndsnn.errors import UnsupportedLayerError
from ndsnn.sparse.topology import sparse_layers

T = 6


class CellNet(nn.Module):
    """Cells, with the loop over time written out."""

    def __init__(self):
        super().__init__()
        self.fc1, self.cell = nn.Linear(10, 30), norse.LIFCell()
        self.fc2, self.readout = nn.Linear(30, 4), norse.LICell()

    def forward(self, x):
        state = readout = None
        record = []
        for t in range(T):
            spikes, state = self.cell(self.fc1(x[t]), state)
            potential, readout = self.readout(self.fc2(spikes), readout)
            record.append(potential)
        return torch.stack(record).amax(0)


class SequentialNet(nn.Module):
    """A `SequentialState`, which hands all states on."""

    def __init__(self):
        super().__init__()
        self.body = norse.SequentialState(
            nn.Conv2d(1, 6, 3), norse.LIFCell(), nn.Flatten(), nn.Linear(54, 4), norse.LICell()
        )

    def forward(self, x):
        state, record = None, []
        for t in range(T):
            potential, state = self.body(x[t].view(-1, 1, 5, 5), state)
            record.append(potential)
        return torch.stack(record).amax(0)


@pytest.mark.parametrize("name", ["ndsnn", "set", "rigl"])
@pytest.mark.parametrize(("make", "places"), [(CellNet, 10), (SequentialNet, 25)], ids=["cells", "sequential"])
def test_training(make, places, name):
    torch.manual_seed(0)
    net = make()
    keys = list(net.state_dict())
    ndsnn.sparsify(net, 0.5, generator=torch.Generator().manual_seed(1))
    assert list(net.state_dict()) == keys
    before = [handle.mask.clone() for handle in sparse_layers(net)]
    optimizer = torch.optim.Adam(net.parameters(), 2e-2)
    method = ndsnn.methods[name](net, optimizer, 0.8 if name == "ndsnn" else 0.5, 40, update_every=4)
    losses = []
    for _ in range(40):
        y = torch.randint(0, 4, (16,))
        x = torch.zeros(T, 16, places)
        x[:, torch.arange(16), y] = 20.0
        loss = nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.step()
        losses.append(loss.item())
        assert all(not handle.weight[~handle.mask].any() for handle in sparse_layers(net))
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert any(not torch.equal(a, b) for a, b in zip(before, method.masks(), strict=True))
    assert ndsnn.sparsity(net) == pytest.approx(0.8 if name == "ndsnn" else 0.5, abs=1e-2)
    assert list(ndsnn.to_dense(net).state_dict()) == keys


@pytest.mark.parametrize("make", [CellNet, SequentialNet])
def test_the_engine_says_why_it_does_not_take_them(make):
    with pytest.raises(
        UnsupportedLayerError, match=r"no equal of Norse's neurons.*; sparsify and all training methods work"
    ):
        ndsnn.accelerate(make())
