"""SNIP: what it scores, what it keeps, and that scoring leaves no trace."""

import copy
import math

import numpy as np
import pytest
import torch
from compressed_nets import conv_net as own_net
from small_nets import batch, conv_net, optimizer_of, through_file, train_step
from torch import nn

import ndsnn
from ndsnn.errors import ConfigError, NonFiniteError, SparsityError
from ndsnn.sparse import compress
from ndsnn.sparse.methods import SNIP, Static
from ndsnn.sparse.methods.pruning.snip import sensitivities
from ndsnn.sparse.sparsify import layer_report, recorded_distribution, set_masks, sparsify, sparsity

CLASSES = nn.functional.cross_entropy


class Given(nn.Module):
    """A network of which the gradient of each layer is the input: Σ w·x, summed with the loss `total`."""

    def __init__(self, weights):
        super().__init__()
        self.layers = nn.ModuleDict()
        for name, weight in weights.items():
            weight = torch.tensor(weight)
            self.layers[name] = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            with torch.no_grad():
                self.layers[name].weight.copy_(weight)

    def forward(self, gradients):
        pieces = gradients.split([layer.weight.numel() for layer in self.layers.values()], 1)
        weights = (layer.weight.flatten() for layer in self.layers.values())
        return sum((piece * weight).sum(1) for piece, weight in zip(pieces, weights, strict=True))


def total(outputs, labels):
    return outputs.mean()


def masks_of(net):
    return {name: layer.sparsity_mask for name, layer in net.layers.items()}


def test_by_hand():
    """|g·w| = 1, 6, 2 | 0, 20, 3: of six the three largest stay, over both layers."""
    net = Given({"a": [[1.0, -2.0, 0.5]], "b": [[9.0, 4.0, -1.0]]})
    x = torch.tensor([[1.0, 3.0, 4.0, 0.0, 5.0, 3.0]])
    scores = sensitivities(net, [(x, x)], total)
    assert scores["layers.a"].tolist() == [1, 6, 2]
    assert scores["layers.b"].tolist() == [0, 20, 3]
    assert ndsnn.snip(net, [(x, x)], total, 0.5) is net
    assert {name: mask.tolist() for name, mask in masks_of(net).items()} == {
        "a": [[False, True, False]],
        "b": [[False, True, True]],
    }
    assert net.layers["b"].weight.tolist() == [[0, 4, -1]]
    assert sparsity(net) == 0.5


def test_the_gradient_is_that_of_the_mean_over_all_samples():
    """Signs cancel before the magnitude is taken, and a sample counts as one in a batch of any size."""
    net = Given({"a": [[1.0, 1.0, 1.0]]})
    x = torch.tensor([[3.0, 1.0, 0.0], [-3.0, 1.0, 0.0], [0.0, 1.0, 6.0]])
    for batches in ([(x, x)], [(x[:2], x[:2]), (x[2:], x[2:])], ((x[i : i + 1], x[i : i + 1]) for i in range(3))):
        assert sensitivities(net, batches, total)["layers.a"].tolist() == pytest.approx([0, 1, 2])


def test_every_layer_keeps_a_weight_and_ties_go_by_name_and_place():
    net = Given({"b": [[1.0, 1.0, 1.0]], "a": [[1.0, 1.0, 1.0]], "silent": [[1.0, 1.0]]})
    x = torch.tensor([[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]])
    ndsnn.snip(net, [(x, x)], total, 0.5)
    assert {name: mask.int().flatten().tolist() for name, mask in masks_of(net).items()} == {
        "a": [0, 1, 1],
        "b": [0, 0, 1],
        "silent": [0, 1],
    }


@pytest.mark.parametrize("target", [0.5, 0.95])
def test_against_numpy(target):
    """Gradients by central differences in float64, the choice by a sort over all layers."""
    net = conv_net(dtype=torch.float64)
    net[2], net[4] = nn.Softplus(), nn.Softplus()  # smooth, for the differences
    batches = [batch(step, 6, torch.float64) for step in range(2)]

    def value():
        return float(sum(CLASSES(net(x), y) for x, y in batches) / 2)

    scores = {}
    with torch.no_grad():
        for name in ("0", "3", "6"):
            flat = net.get_submodule(name).weight.view(-1)
            found = np.empty(len(flat))
            for place in range(len(flat)):
                old = float(flat[place])
                flat[place] = old + 1e-5
                above = value()
                flat[place] = old - 1e-5
                found[place] = (above - value()) / 2e-5 * old
                flat[place] = old
            scores[name] = np.abs(found)
    for name, found in sensitivities(net, batches, CLASSES).items():
        np.testing.assert_allclose(found.numpy(), scores[name], rtol=1e-4, atol=1e-8)
    kept = round(900 * (1 - target))
    best = np.sort(np.concatenate(list(scores.values())))[-kept]
    ndsnn.snip(net, batches, CLASSES, target)
    for name, found in scores.items():
        assert found.max() >= best, "the guard is not at work here"
        np.testing.assert_array_equal(net.get_submodule(name).sparsity_mask.flatten().numpy(), found >= best)


def traces(net):
    """All that scoring might leave behind."""
    return (
        [t.clone() for t in net.state_dict().values()],
        [None if p.grad is None else p.grad.clone() for p in net.parameters()],
        [module.training for module in net.modules()],
        torch.get_rng_state(),
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()],
        [getattr(m, "v", None) for m in net.modules()],
    )


def require_same(one, other):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, (list, tuple)):
        for a, b in zip(one, other, strict=True):
            require_same(a, b)
    else:
        assert one == other


@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_scoring_leaves_no_trace(training, accelerated):
    net = ndsnn.models.vgg([4, "M", 6], num_classes=3, time_steps=2, in_channels=2)
    net = ndsnn.accelerate(net, backend="reference") if accelerated else nn.Sequential(nn.Dropout(0.2), net)
    x, y = torch.rand(5, 2, 6, 6), torch.tensor([0, 1, 2, 0, 1])
    ndsnn.losses.mean_step_cross_entropy(net(x), y).backward()
    net.train(training)
    before = traces(net)
    scores = sensitivities(net, [(x, y)], ndsnn.losses.mean_step_cross_entropy)
    require_same(before, traces(net))
    assert all(float(score.max()) > 0 for score in scores.values())
    again = sensitivities(net, [(x, y)], ndsnn.losses.mean_step_cross_entropy)
    require_same(list(scores.values()), list(again.values()))


def test_neurons_are_reset_before_every_batch():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.neuron = nn.Linear(3, 4), ndsnn.LIF(stateful=True)

        def forward(self, x_tn):
            return self.neuron(4 * self.layer(x_tn))

    torch.manual_seed(0)
    net = Net()
    x = torch.rand(2, 5, 3)
    net(torch.rand(2, 5, 3))
    kept = net.neuron.v.clone()
    one = sensitivities(net, [(x, x[0])], lambda out, _: out.mean())
    two = sensitivities(net, [(x, x[0]), (x, x[0])], lambda out, _: out.mean())
    assert torch.equal(net.neuron.v, kept)
    torch.testing.assert_close(one["layer"], two["layer"])


@pytest.mark.parametrize("start", ["plain", "masked", "sparse"])
def test_both_forms_choose_the_same(start):
    """From their own forward and backward passes, which are the same in torch."""
    net = own_net()
    if start != "plain":
        sparsify(net, 0.0 if start == "masked" else 0.4, dense_layers=["6"])
    twin = compress(copy.deepcopy(net))
    batches = [batch(step) for step in range(2)]
    ndsnn.snip(net, batches, CLASSES, 0.9 if start == "plain" else 0.55)
    ndsnn.snip(twin, batches, CLASSES, 0.9 if start == "plain" else 0.55)
    assert layer_report(net) == layer_report(twin)
    assert sum(row.alive for row in layer_report(net)) == (90 if start == "plain" else 405)
    for one, other in zip(ndsnn.sparse.sparse_layers(net), ndsnn.sparse.sparse_layers(twin), strict=True):
        assert torch.equal(one.mask, other.mask)
        assert torch.equal(one.active_values(), other.active_values())
    if start != "plain":
        assert net[6].sparsity_mask.all()


def test_an_accelerated_network_by_its_own_gradients():
    net = ndsnn.models.vgg([4, "M", 6], num_classes=3, time_steps=2, in_channels=2)
    twin = ndsnn.accelerate(net.double(), backend="reference")
    x, y = torch.rand(6, 2, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    for each in (net, twin):
        ndsnn.snip(each, [(x, y)], ndsnn.losses.mean_step_cross_entropy, 0.8)
    assert layer_report(net) == layer_report(twin)
    for one, other in zip(ndsnn.sparse.sparse_layers(net), ndsnn.sparse.sparse_layers(twin), strict=True):
        assert torch.equal(one.mask, other.mask)
    torch.testing.assert_close(net(x), twin(x))


def test_dense_layers_and_the_record_for_methods():
    net = ndsnn.snip(conv_net(), [batch(0)], CLASSES, 0.8, dense_layers="0")
    assert layer_report(net)[0].alive == 108
    assert recorded_distribution(net).dense_layers == ("0",)
    assert Static(net, optimizer_of(net), 0.8, 10).current_sparsity() == pytest.approx(0.8)
    with pytest.raises(SparsityError, match="pattern 'x' matches no layer"):
        ndsnn.snip(net, [batch(0)], CLASSES, 0.9, dense_layers=["x"])


def test_layers_without_mask_are_left_alone_by_the_method():
    mask = torch.ones(8, 6, 3, 3, dtype=torch.bool)
    net = set_masks(conv_net(), {"3": mask}, ndsnn.sparse.Distribution())
    method = SNIP(net, optimizer_of(net), 0.75, 10)
    update = method.prepare([batch(0)], CLASSES)
    assert [(row.layer, row.dropped, row.nnz) for row in update.layers] == [("3", 324, 108)]
    assert net[0].weight.all()


# Refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [1.0, -0.1, 95])
def test_a_sparsity_out_of_range(target):
    with pytest.raises(SparsityError, match="must be a fraction"):
        ndsnn.snip(conv_net(), [batch(0)], CLASSES, target)


def test_what_cannot_be_scored_is_refused_and_changes_nothing():
    net = conv_net()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(SparsityError, match="no batch"):
        ndsnn.snip(net, [], CLASSES, 0.9)
    with pytest.raises(NonFiniteError, match=r"layer '0' is not finite.*nan"):
        ndsnn.snip(net, [(torch.full((2, 2, 6, 6), math.nan), torch.tensor([0, 1]))], CLASSES, 0.9)
    net[3].weight.requires_grad_(False)
    with pytest.raises(SparsityError, match="layer '3' is frozen"):
        ndsnn.snip(net, [batch(0)], CLASSES, 0.9)
    with pytest.raises(SparsityError, match="Identity has no conv or linear"):
        ndsnn.snip(nn.Identity(), [batch(0)], CLASSES, 0.9)
    assert not hasattr(net[0], "sparsity_mask")
    require_same(list(before.values()), list(net.state_dict().values()))


def test_more_than_is_alive_cannot_stay():
    net = sparsify(conv_net(), 0.9)
    with pytest.raises(SparsityError, match="180 weights are to stay, but only 90 are alive"):
        ndsnn.snip(net, [batch(0)], CLASSES, 0.8)
    with pytest.raises(SparsityError, match=r"more than final_sparsity 0\.8"):
        SNIP(net, optimizer_of(net), 0.8, 10)


@pytest.mark.parametrize("number", [0, -1, 1.5, True])
def test_samples_per_class_is_checked(number):
    with pytest.raises(ConfigError, match="samples_per_class"):
        SNIP(conv_net(), None, 0.9, 10, samples_per_class=number)


# The method --------------------------------------------------------------------------------------------------


def test_the_method_wants_to_be_prepared_once():
    net = conv_net()
    method = SNIP(net, optimizer_of(net), 0.9, 10, samples_per_class=7)
    assert (method.images_per_class, method.finished, method.at_final_sparsity) == (7, False, False)
    with pytest.raises(SparsityError, match="call prepare"):
        train_step(net, method.optimizer, method, 0)
    twin = copy.deepcopy(net)
    update = method.prepare([batch(0)], CLASSES)
    assert (method.images_per_class, method.finished, method.at_final_sparsity) == (0, True, True)
    assert (update.step, update.round) == (0, 0)
    counts = {row.layer: row.nnz for row in update.layers}
    assert counts == method.initial_counts == method.final_counts
    assert sum(counts.values()) == 90
    assert [row.dropped + row.nnz for row in update.layers] == [108, 432, 360]
    with pytest.raises(SparsityError, match="already"):
        method.prepare([batch(0)], CLASSES)
    ndsnn.snip(twin, [batch(0)], CLASSES, 0.9)
    assert all(
        torch.equal(a, b.mask) for a, b in zip(method.masks(), ndsnn.sparse.sparse_layers(twin), strict=True)
    )
    assert train_step(net, method.optimizer, method, 0) is None


def test_a_state_saved_before_the_choice_is_prepared_afterwards():
    net = conv_net()
    method = SNIP(net, optimizer_of(net), 0.9, 10)
    state = through_file(method.state_dict())
    method.prepare([batch(0)], CLASSES)
    chosen = method.masks()
    other = conv_net()
    again = SNIP(other, optimizer_of(other), 0.9, 10)
    again.load_state_dict(state)
    assert again.images_per_class == 10
    again.prepare([batch(0)], CLASSES)
    assert all(torch.equal(a, b) for a, b in zip(chosen, again.masks(), strict=True))
    again.load_state_dict(through_file(method.state_dict()))
    assert again.scored
    assert again.final_counts == method.final_counts


@pytest.mark.parametrize("accelerated", [False, True])
def test_the_ten_lines(accelerated):
    torch.manual_seed(0)
    net = ndsnn.models.vgg([4, "M", 6], num_classes=3, time_steps=2, in_channels=2)
    if accelerated:
        net = ndsnn.accelerate(net, backend="reference")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    x, y = torch.rand(6, 2, 6, 6), torch.tensor([0, 1, 2, 0, 1, 2])
    method = ndsnn.SNIP(net, optimizer, final_sparsity=0.8, total_steps=4)
    method.prepare([(x, y)], ndsnn.losses.mean_step_cross_entropy)
    for _ in range(4):
        loss = ndsnn.losses.mean_step_cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.step()
    assert ndsnn.sparsity(net) == pytest.approx(0.8, abs=2e-3)
    assert method.current_sparsity() == ndsnn.sparsity(net)
