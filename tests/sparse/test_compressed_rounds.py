"""The compressed form takes the decisions of the masked one, in every method, at every round."""

import pytest
import torch
from compressed_nets import SHAPES, both, conv_net, gradients_of, require_same, step_of_both
from hypothesis import given, settings
from hypothesis import strategies as st
from small_nets import (
    ALL,
    BY_GRADIENT,
    DYNAMIC,
    NO_GROWTH,
    NO_ROUNDS,
    PRUNE_ONLY,
    SPIKING,
    START_DENSE,
    batch,
    optimizer_of,
    prepared,
)
from torch import nn

from ndsnn.errors import NonFiniteError, NotSparsifiedError, SparsityError
from ndsnn.sparse import compress, decompress
from ndsnn.sparse.methods import GMP, NDSNN, SET, GraNet, RigL, methods
from ndsnn.sparse.sparsify import sparsify, sparsity, to_dense


@pytest.mark.parametrize("kind", ["momentum", "adam"])
@pytest.mark.parametrize("regrow", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_every_step_of_a_schedule(name, regrow, kind):
    takes = regrow and name not in NO_GROWTH
    masked, compressed = both(name, kind=kind, **({"regrow_dropped": True} if takes else {}))
    updates = 0
    for step in range(14):
        updates += step_of_both(masked, compressed, gradients_of(step), channels=1) is not None
        require_same(masked, compressed)
    assert updates == len(masked[2].rounds) == (0 if name in NO_ROUNDS else 5)
    assert sparsity(compressed[0]) == pytest.approx(0.0 if name == "dense" else 0.9, abs=0.005)


@pytest.mark.parametrize("name", DYNAMIC)
@given(
    seed=st.integers(0, 10**6),
    initial=st.sampled_from([0.3, 0.5, 0.85]),
    death=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    regrow=st.booleans(),
    levels=st.sampled_from([None, 2, 1, 0]),
    channels=st.sampled_from([0, 1, 3]),
    kind=st.sampled_from(["sgd", "nesterov", "adamw"]),
)
@settings(max_examples=25, deadline=None)
def test_any_run(name, seed, initial, death, regrow, levels, channels, kind):
    """Ties, silent layers, all death ratios, pieces of any size."""
    choices = {}
    if name not in PRUNE_ONLY:
        choices = {"death_ratio": max(death), "min_death_ratio": min(death), "regrow_dropped": regrow}
    masked, compressed = both(name, seed=seed, initial=initial, kind=kind, total=8, **choices)
    for step in range(8):
        step_of_both(masked, compressed, gradients_of(step, seed % 1000, levels), channels)
        require_same(masked, compressed)


@pytest.mark.parametrize("name", ALL)
def test_training_through_forward(name):
    """Real losses: convolutions, norm, biases; the gradient comes from the compressed layers' own backward."""
    runs = []
    for form in ("masked", "compressed"):
        net = conv_net(spiking=name in SPIKING)
        if name not in START_DENSE:
            at = 0.5 if name == "ndsnn" else 0.8
            sparsify(net, at, generator=torch.Generator().manual_seed(0))
        if form == "compressed":
            compress(net)
        optimizer = optimizer_of(net)
        keywords = {} if name in NO_ROUNDS else {"update_every": 3}
        method = prepared(methods[name](net, optimizer, 0.0 if name == "dense" else 0.8, 16, **keywords))
        losses = []
        for step in range(16):
            images, labels = batch(step)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            method.step()
            losses.append(loss.item())
        runs.append((losses, method.masks(), net))
    assert runs[0][0] == pytest.approx(runs[1][0], rel=1e-6, abs=1e-6)
    assert all(torch.equal(one, other) for one, other in zip(runs[0][1], runs[1][1], strict=True))
    plain = decompress(runs[1][2])
    for one, other in zip(runs[0][2].parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_an_old_loss_does_not_disturb_a_rewired_weight():
    """As in a loop that keeps its `loss` until the next is computed: autograd's leaf nodes outlive the round."""
    net = compress(sparsify(conv_net(), 0.5))
    optimizer = optimizer_of(net)
    method = NDSNN(net, optimizer, 0.9, 8, update_every=1)
    kept = []
    for step in range(6):
        images, labels = batch(step)
        optimizer.zero_grad()
        kept.append(nn.functional.cross_entropy(net(images), labels))
        kept[-1].backward()
        optimizer.step()
        assert method.step() is not None
    assert sparsity(net) == pytest.approx(0.9, abs=1e-12)


def test_the_parameter_stays_the_same_object_and_the_version_counts_changes():
    net = compress(sparsify(conv_net(), 0.5))
    parameters = list(net.parameters())
    optimizer = optimizer_of(net)
    method = NDSNN(net, optimizer, 0.9, 8, update_every=2)
    versions = [net[3].version]
    for step in range(8):
        images, labels = batch(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
        changed = method.step() is not None
        versions.append(net[3].version)
        assert (versions[-1] > versions[-2]) == changed
        assert not changed or net[3].weight.grad is None
    assert all(one is other for one, other in zip(parameters, net.parameters(), strict=True))


def test_nothing_dropped_and_grown_changes_no_version():
    net = compress(sparsify(conv_net(), 0.5))
    optimizer = optimizer_of(net)
    handle = NDSNN(net, optimizer, 0.9, 8, update_every=2).layers[1]
    positions, none = handle.active_positions(), torch.empty(0, dtype=torch.int64)
    handle.weight.grad = torch.ones(handle.nnz)
    handle.rewire(none, none, optimizer)
    handle.set_mask(handle.mask, optimizer)
    assert handle.module.version == 0
    assert handle.weight.grad is not None
    handle.rewire(positions[3:5], positions[3:5], optimizer)  # they die and are reborn
    assert handle.module.version == 0
    assert not handle.weight[3:5].any()
    assert handle.weight[5:].all()
    assert torch.equal(handle.active_positions(), positions)


def test_a_layer_that_becomes_dense_again_has_no_positions():
    net = nn.Sequential(nn.Linear(6, 4))
    sparsify(net, 0.5)
    compress(net)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    handle = RigL(net, optimizer, 0.5, 4, update_every=1).layers[0]
    free = torch.nonzero(~handle.mask.flatten()).flatten()
    handle.rewire(free[:0], free, optimizer)
    assert net[0].positions is None
    assert handle.mask.all()
    assert handle.nnz == 24
    handle.rewire(torch.tensor([0, 23]), free[:0], optimizer)
    assert net[0].positions.tolist() == list(range(1, 23))
    assert net[0].positions.dtype == torch.int32


# Gradients ---------------------------------------------------------------------------------------------------


def at_the_first_round(name, **settings):
    masked, compressed = both(name, **settings)
    step_of_both(masked, compressed, gradients_of(0))
    return masked, compressed


def backward(net, gradients):
    """A real backward pass in which the dense gradients are the given ones."""
    sum((net[name].dense_weight() * c).sum() for name, c in gradients.items()).backward()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("alive", [False, True])
@pytest.mark.parametrize("name", BY_GRADIENT)
def test_a_gradient_that_is_not_finite_changes_nothing(name, value, alive):
    masked, compressed = at_the_first_round(name)
    net, optimizer, method = compressed
    spoilt = gradients_of(1)
    place = torch.nonzero(method.layers[1].mask if alive or name == "granet" else ~method.layers[1].mask)[0]
    spoilt["b"][tuple(place)] = value
    optimizer.zero_grad()
    backward(net, spoilt)
    for _ in range(2):
        with pytest.raises(NonFiniteError, match="gradient of layer 'b'"):
            method.require_finite_gradients()
        with pytest.raises(NonFiniteError, match="gradient of layer 'b'"):
            method.step()
    masked[1].zero_grad()
    optimizer.zero_grad()
    require_same(masked, compressed)
    backward(net, gradients_of(2))
    optimizer.step()
    sum((masked[0][n].weight * c).sum() for n, c in gradients_of(2).items()).backward()
    masked[1].step()
    masked_update = masked[2].step()
    assert method.step() == masked_update
    require_same(masked, compressed)


@pytest.mark.parametrize("name", BY_GRADIENT)
def test_a_missing_gradient_is_an_error_that_names_the_layer(name):
    masked, (net, optimizer, method) = at_the_first_round(name)
    optimizer.zero_grad()
    backward(net, {key: c for key, c in gradients_of(1).items() if key != "b"})
    for call in (method.require_finite_gradients, method.step):
        with pytest.raises(SparsityError, match="layer 'b' has no gradient at an update step"):
            call()
    require_same(masked, (net, optimizer, method))


def test_a_gradient_of_which_channels_are_missing_is_a_missing_gradient():
    _, (net, optimizer, method) = at_the_first_round("rigl")
    optimizer.zero_grad()
    backward(net, {"a": gradients_of(1)["a"], "c": gradients_of(1)["c"]})
    net["b"].dense_gradient_sink()(0, gradients_of(1)["b"][:7])
    with pytest.raises(SparsityError, match="layer 'b' has no gradient"):
        method.step()


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("name", BY_GRADIENT)
def test_a_batch_that_was_thrown_away_does_not_decide_growth(name, set_to_none):
    masked, (net, optimizer, method) = at_the_first_round(name)
    for thrown in (5, 6):
        optimizer.zero_grad(set_to_none)
        backward(net, gradients_of(thrown))
    optimizer.zero_grad(set_to_none)
    backward(net, gradients_of(1))
    optimizer.step()
    update = method.step()
    masked[1].zero_grad()
    sum((masked[0][n].weight * c).sum() for n, c in gradients_of(1).items()).backward()
    masked[1].step()
    assert update == masked[2].step()
    require_same(masked, (net, optimizer, method))


def test_accumulation_at_an_update_step_is_refused_and_elsewhere_it_is_not():
    _, (net, optimizer, method) = both("rigl")
    optimizer.zero_grad()
    for _ in range(3):
        backward(net, gradients_of(0))
    torch.testing.assert_close(net["a"].weight.grad, 3 * gradients_of(0)["a"].flatten()[net["a"].positions])
    optimizer.step()
    assert method.step() is None
    optimizer.zero_grad()
    backward(net, gradients_of(1))
    with pytest.raises(SparsityError, match=r"accumulated over several backward passes.*masked form"):
        backward(net, gradients_of(1))


def test_a_layer_used_twice_is_refused_at_an_update_step():
    _, (net, optimizer, _) = at_the_first_round("rigl")
    optimizer.zero_grad()
    x = torch.randn(3, 5)
    with pytest.raises(SparsityError, match="layer 'a' is used twice in one pass"):
        (net["a"](x).sum() + net["a"](x).square().sum()).backward()


def test_methods_without_gradient_want_none():
    for name in ("set", "gmp"):
        _, (net, _, method) = both(name)
        assert net["b"].dense_gradient_sink() is None
        assert [method.step() is None for _ in range(2)] == [True, False]


def test_the_sink_is_there_at_update_steps_only_and_belongs_to_the_newest_method():
    _, (net, optimizer, first) = both("ndsnn")
    assert net["a"].dense_gradient_sink() is None
    first.step()
    assert net["a"].dense_gradient_sink() is not None
    second = NDSNN(net, optimizer, 0.9, 14, update_every=2)
    assert net["a"].dense_gradient_sink() is None
    second.step()
    backward(net, gradients_of(1))
    optimizer.step()
    assert second.step() is not None
    with pytest.raises(SparsityError, match="no gradient"):
        first.step()


def test_a_frozen_layer_is_refused():
    net = sparsify(conv_net(), 0.5)
    net[3].weight.requires_grad_(False)
    compress(net)
    with pytest.raises(SparsityError, match="layer '3' is frozen"):
        NDSNN(net, torch.optim.SGD(net[0].parameters(), 0.1), 0.9, 20)


def test_a_method_after_to_dense_says_what_is_wrong():
    _, (net, _, method) = both("ndsnn")
    to_dense(net)
    with pytest.raises(NotSparsifiedError, match="to_dense"):
        method.current_sparsity()
    with pytest.raises(NotSparsifiedError, match="create the method"):
        method.masks()


def test_a_method_of_a_masked_net_that_was_compressed_says_what_is_wrong():
    (net, _, method), _ = both("ndsnn")
    compress(net)
    with pytest.raises(NotSparsifiedError, match="compressed"):
        method.step()


def test_spoilt_weights_change_nothing():
    masked, (net, optimizer, method) = at_the_first_round("ndsnn")
    optimizer.zero_grad()
    backward(net, gradients_of(1))
    kept = net["b"].weight.detach().clone()
    with torch.no_grad():
        net["b"].weight.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match="layer 'b'"):
        method.step()
    assert method.steps_done == 1
    with torch.no_grad():
        net["b"].weight.copy_(kept)
    require_same(masked, (net, optimizer, method))


# Methods of one's own ----------------------------------------------------------------------------------------


class Curious(NDSNN):
    """Grows by what a hook can see: the gradient, the step and the round."""

    def grow_scores(self, layer, positions, gradient):
        assert self.current_round is not None
        return gradient.abs() * (1 + (positions * 7919 * self.steps_done + self.current_round) % 5)


def test_hooks_see_the_round_in_the_backward_pass_too():
    methods.register("curious")(Curious)
    try:
        masked, compressed = both("curious", initial=0.5)
        for step in range(14):
            step_of_both(masked, compressed, gradients_of(step), channels=3)
            require_same(masked, compressed)
    finally:
        del methods._entries["curious"]


def test_scores_that_are_not_finite_are_refused_at_the_step():
    class Broken(RigL):
        def grow_scores(self, layer, positions, gradient):
            return gradient / 0.0

    _, (net, optimizer, _) = both("rigl")
    method = Broken(net, optimizer, 0.9, 14, update_every=1)
    before = method.masks()
    backward(net, gradients_of(0))
    optimizer.step()
    with pytest.raises(NonFiniteError, match="score of layer 'a'"):
        method.step()
    assert method.steps_done == 0
    assert all(torch.equal(one, other) for one, other in zip(before, method.masks(), strict=True))


def test_growth_beyond_what_was_announced_names_the_hook():
    class Modest(RigL):
        def max_growth(self, layer, q):
            return 1

    _, (net, optimizer, _) = both("rigl", final=0.5)
    method = Modest(net, optimizer, 0.5, 14, update_every=1)
    before = method.masks()
    backward(net, gradients_of(0))
    optimizer.step()
    with pytest.raises(SparsityError, match=r"only the 1 best candidates.*override max_growth"):
        method.step()
    assert all(torch.equal(one, other) for one, other in zip(before, method.masks(), strict=True))


def test_layers_may_grow_above_their_present_count():
    """Targets above what is alive: the bound comes from `target_counts`."""

    class Breathing(NDSNN):
        def target_counts(self, q):
            return {name: count + (5 if q % 2 else -5) for name, count in self.initial_counts.items()}

    methods.register("breathing")(Breathing)
    try:
        masked, compressed = both("breathing", death_ratio=0.0, min_death_ratio=0.0)
        grown = 0
        for step in range(10):
            if update := step_of_both(masked, compressed, gradients_of(step), channels=1):
                grown += sum(row.grown for row in update.layers)
            require_same(masked, compressed)
        assert grown > 0
    finally:
        del methods._entries["breathing"]


@pytest.mark.parametrize("method", [GMP, GraNet])
def test_a_compressed_dense_net_is_taken_by_the_methods_that_start_dense(method):
    net = compress(conv_net())
    assert sparsity(net) == 0
    started = method(net, optimizer_of(net), 0.9, 20)
    assert [layer.nnz for layer in started.layers] == [108, 432, 360]
    assert all(module.positions is None for module in (net[0], net[3], net[6]))


def test_a_compressed_dense_net_is_refused_by_the_others():
    net = compress(conv_net())
    with pytest.raises(NotSparsifiedError):
        SET(net, optimizer_of(net), 0.9, 20)


def test_shapes_of_the_side_by_side_runs_have_inactive_places():
    assert sum(torch.Size(shape).numel() for shape in SHAPES.values()) == 30 + 216 + 28
