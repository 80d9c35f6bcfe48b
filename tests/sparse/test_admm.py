"""ADMM against the equations, written out in numpy."""

import numpy as np
import pytest
import torch
from small_nets import named_net, optimizer_of
from torch import nn

from ndsnn import ADMM
from ndsnn.errors import ConfigError
from ndsnn.sparse import compress
from ndsnn.sparse.sparsify import sparsify


def projection(values, count):
    """All but the `count` largest magnitudes 0; ties to the lower place."""
    order = np.argsort(-np.abs(values), kind="stable")
    out = np.zeros_like(values)
    out[order[:count]] = values[order[:count]]
    return out


@pytest.mark.parametrize("form", ["masked", "compressed"])
def test_equations(form):
    """SGD without momentum: W ← W − lr·(g + ρ(W − Z + U)); Z and U every 2 steps; hard pruning at step 6."""
    torch.manual_seed(0)
    net = sparsify(named_net({"a": (4, 5), "b": (3, 4)}), 0.0)
    if form == "compressed":
        compress(net)
    optimizer = optimizer_of(net, "sgd")
    method = ADMM(net, optimizer, 0.75, 8, rho=0.3, update_every=2, stop_fraction=0.75)
    assert method.rounds == (2, 4, 6)
    counts = [method.final_counts[layer.name] for layer in method.layers]
    assert sum(counts) == 8
    w = [layer.active_values().double().numpy().copy() for layer in method.layers]
    z, u = [projection(v, k) for v, k in zip(w, counts, strict=True)], [np.zeros_like(v) for v in w]
    alive = [np.ones(len(v), dtype=bool) for v in w]
    source = np.random.default_rng(0)
    for number in range(1, 9):
        gradients = [source.normal(size=layer.shape) for layer in method.layers]
        for layer, g in zip(method.layers, gradients, strict=True):
            given = torch.tensor(g, dtype=torch.float32)[layer.mask]
            layer.weight.grad = layer.per_weight(given)
        optimizer.step()
        update = method.step()
        assert (update is not None) == (number in (2, 4, 6))
        for i, g in enumerate(gradients):
            penalty = 0.3 * (w[i] - z[i] + u[i]) if number <= 6 else 0
            w[i] = np.where(alive[i], w[i] - 0.1 * (g.reshape(-1) + penalty), 0)
            if number in (2, 4):
                z[i] = projection(w[i] + u[i], counts[i])
                u[i] = u[i] + w[i] - z[i]
            if number == 6:
                alive[i] = projection(w[i] + u[i], counts[i]) != 0
                w[i] = np.where(alive[i], w[i], 0)
        for i, layer in enumerate(method.layers):
            mask = layer.mask.flatten().numpy()
            assert (mask == alive[i]).all()
            assert layer.active_values().numpy() == pytest.approx(w[i][mask], abs=1e-5)


def test_the_newest_method_adds_the_penalty_alone():
    net = named_net({"a": (4, 5)})
    optimizer = optimizer_of(net, "sgd")
    first = ADMM(net, optimizer, 0.5, 8, rho=0.5, update_every=2)
    second = ADMM(net, optimizer, 0.5, 8, rho=0.25, update_every=2)
    weight = net["a"].weight
    before = weight.detach().clone()
    (weight.sum() * 0).backward()
    optimizer.step()
    z = second.records["z"]["a"].view_as(before)
    assert torch.allclose(weight, before - 0.1 * 0.25 * (before - z))
    assert first.rho == 0.5


def test_it_works_with_a_plain_loop_and_a_lenet():
    from ndsnn import losses, models

    torch.manual_seed(0)
    net = models.lenet5(10, 1, in_channels=1)
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    method = ADMM(net, optimizer, 0.6, 4, update_every=1)
    x, y = torch.randn(4, 1, 32, 32), torch.randint(0, 10, (4,))
    for _ in range(4):
        loss = losses.mean_step_cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.step()
    assert method.current_sparsity() == pytest.approx(0.6, abs=1e-4)
    assert "u" not in method.records


def test_a_layer_that_stays_dense_is_not_pulled():
    net = named_net({"a": (4, 5), "b": (3, 4)})
    sparsify(net, 0.0, dense_layers=["b"])
    optimizer = optimizer_of(net, "sgd")
    ADMM(net, optimizer, 0.5, 8, rho=0.5, update_every=2)
    before = net["b"].weight.detach().clone()
    for _ in range(2):
        optimizer.zero_grad()
        (net["a"].weight.sum() + net["b"].weight.sum()).backward()
        optimizer.step()
    assert torch.allclose(net["b"].weight, before - 0.2)


@pytest.mark.parametrize("rho", [-1.0, float("nan"), float("inf"), True])
def test_rho_is_checked(rho):
    net = nn.Linear(4, 4)
    with pytest.raises(ConfigError, match="rho"):
        ADMM(net, optimizer_of(net, "sgd"), 0.5, 8, rho=rho)
