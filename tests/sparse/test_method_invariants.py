"""What must hold at every step of every method, whatever the net, the optimizer and the gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_nets import (
    ALL,
    BY_GRADIENT,
    CONSTANT,
    DYNAMIC,
    NO_GROWTH,
    OWN_DENSITIES,
    PRUNE_ONLY,
    SPIKING,
    START_DENSE,
    batch,
    conv_net,
    given_step,
    masks_of,
    named_net,
    optimizer_of,
    same,
    show_batch,
    snapshot,
    start,
    train_step,
)
from torch import nn

from ndsnn.errors import ConfigError, NonFiniteError, NotSparsifiedError, ScheduleError, SparsityError
from ndsnn.sparse.methods import NDSNN, SET, RigL, accepted_settings, methods
from ndsnn.sparse.sparsify import layer_report, sparsify, sparsity, to_dense

SHAPES = {"a": (5, 6), "b": (4, 3, 3, 3), "c": (3, 7)}
OPTIMIZERS = ["sgd", "momentum", "nesterov", "adam", "adamw", "noisy"]


def per_weight_state(optimizer, weight):
    return [v for v in optimizer.state[weight].values() if isinstance(v, torch.Tensor) and v.shape == weight.shape]


def random_gradients(step, seed=0, levels=None):
    """Gradients by layer; `levels` makes ties, 0 levels makes them all zero."""
    found = {}
    for name, shape in SHAPES.items():
        source = torch.Generator().manual_seed(hash((seed, step, ord(name))) % 2**40)
        drawn = torch.randn(shape, generator=source)
        found[name] = drawn if levels is None else (drawn * levels).round()
    return found


# Counts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DYNAMIC)
@given(
    seed=st.integers(0, 10**6),
    initial=st.sampled_from([0.3, 0.5, 0.75, 0.85]),
    final=st.sampled_from([0.85, 0.9, 0.93]),
    death=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    every=st.integers(1, 4),
    regrow=st.booleans(),
    levels=st.sampled_from([None, 1, 0]),
    kind=st.sampled_from(OPTIMIZERS),
)
@settings(max_examples=25, deadline=None)
def test_every_round(name, seed, initial, final, death, every, regrow, levels, kind):
    choices = {"update_every": every, "start": seed % 3}
    if name not in PRUNE_ONLY:
        choices |= {"death_ratio": max(death), "min_death_ratio": min(death), "regrow_dropped": regrow}
    torch.manual_seed(seed)
    net, optimizer, method = start(
        name, net=named_net(SHAPES), kind=kind, initial=initial, final=final, total=14, seed=seed, **choices
    )
    first = {layer.name: layer.nnz for layer in method.layers}
    for number in range(1, 15):
        before = masks_of(method)
        update = given_step(net, optimizer, method, random_gradients(number, seed, levels))
        after = masks_of(method)
        assert (update is None) == (number not in method.rounds)
        if update is None:
            assert all(torch.equal(after[layer], before[layer]) for layer in after)
        else:
            check_round(method, optimizer, update, before, after)
        for layer in method.layers:
            for tensor in (layer.weight, *per_weight_state(optimizer, layer.weight)):
                assert not tensor[~layer.mask].any()
                assert not torch.signbit(tensor[~layer.mask]).any()
    alive = sum(int(mask.sum()) for mask in after.values())
    assert alive == round((30 + 108 + 21) * (1 - final))
    assert sparsity(net) == method.current_sparsity() == 1 - alive / 159
    if name not in OWN_DENSITIES:
        assert {layer.name: layer.nnz for layer in method.layers} == method.final_counts
    if name in CONSTANT:
        assert method.final_counts == first


def check_round(method, optimizer, update, before, after):
    targets = {row.layer: row.nnz for row in update.layers}
    assert list(targets) == [layer.name for layer in method.layers]
    if not isinstance(method, tuple(methods[name] for name in OWN_DENSITIES)):
        assert targets == method.target_counts(update.round)
    for layer, row in zip(method.layers, update.layers, strict=True):
        old, new = before[row.layer], after[row.layer]
        assert layer.nnz == int(new.sum()) == row.nnz
        assert int(old.sum()) - row.dropped + row.grown == row.nnz
        died, born = old & ~new, new & ~old
        if method.regrow_dropped:
            assert int(died.sum()) <= row.dropped
            assert int(born.sum()) <= row.grown
        else:
            assert (int(died.sum()), int(born.sum())) == (row.dropped, row.grown)
        for tensor in (layer.weight, *per_weight_state(optimizer, layer.weight)):
            assert not tensor[died | born].any()


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("name", ALL)
def test_a_round_leaves_kept_weights_and_their_optimizer_state_alone(name, kind):
    """And everything that is born starts at 0, in weight and state; an ordinary run on real gradients."""
    net, optimizer, method = start(name, kind=kind)
    for step in range(24):
        images, labels = batch(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
        before = [
            [t.clone() for t in (h.weight.detach(), *per_weight_state(optimizer, h.weight))] for h in method.layers
        ]
        old = masks_of(method)
        method.step()
        for handle, tensors in zip(method.layers, before, strict=True):
            kept = old[handle.name] & handle.mask
            assert kept.any()
            now = (handle.weight.detach(), *per_weight_state(optimizer, handle.weight))
            assert len(now) == len(tensors) == {"sgd": 1, "adam": 4, "adamw": 3}.get(kind, 2)
            for a, b in zip(now, tensors, strict=True):
                assert torch.equal(a[kept], b[kept])
                assert not a[~kept].any()
    assert sparsity(net) == pytest.approx(method.final_sparsity, abs=1e-12)


@pytest.mark.parametrize("name", [name for name in ALL if name not in NO_GROWTH])
def test_growing_methods_do_grow(name):
    net, optimizer, method = start(name)
    updates = [update for step in range(24) if (update := train_step(net, optimizer, method, step))]
    assert len(updates) == 6
    assert sum(row.grown for update in updates for row in update.layers) > 0


@pytest.mark.parametrize("name", BY_GRADIENT)
def test_silent_neurons_do_not_stop_growth(name):
    """All gradients are exactly 0: the lowest free places are taken."""
    settings = {"death_ratio": 0.4, "min_death_ratio": 0.4, "update_every": 1}
    net, optimizer, method = start(name, net=named_net(SHAPES), total=8, initial=0.8, **settings)
    for number in range(1, 7):
        before = masks_of(method)
        update = given_step(net, optimizer, method, random_gradients(number, levels=0))
        for layer, row in zip(method.layers, update.layers, strict=True):
            free = torch.nonzero(~before[row.layer].flatten()).flatten()
            born = torch.nonzero((layer.mask & ~before[row.layer]).flatten()).flatten()
            assert len(born) == row.grown
            if name != "dst-ee":
                assert born.tolist() == free[: row.grown].tolist()
    assert sum(row.grown for row in update.layers) > 0


# Nothing else may matter -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DYNAMIC)
@pytest.mark.parametrize("levels", [None, 1])
def test_the_order_of_layers_and_parameters_does_not_matter(name, levels):
    runs = []
    for order in ("abc", "cab"):
        net = named_net({layer: SHAPES[layer] for layer in order})
        with torch.no_grad():
            for layer, values in random_gradients(99, levels=levels).items():
                net[layer].weight.copy_(values)
        net, optimizer, method = start(name, net=net, kind="momentum", total=12, final=0.85, update_every=2)
        optimizer = torch.optim.SGD(list(net.parameters())[::-1], 0.1, momentum=0.9)
        method.optimizer = optimizer
        trajectory = []
        for step in range(12):
            given_step(net, optimizer, method, random_gradients(step, levels=levels))
            trajectory.append((masks_of(method), {n: m.weight.detach().clone() for n, m in net.items()}))
        runs.append(trajectory)
    for one, other in zip(*runs, strict=True):
        for layer in SHAPES:
            assert torch.equal(one[0][layer], other[0][layer])
            assert torch.equal(one[1][layer], other[1][layer])


def born_at_random(seed, *, torch_seed=0, rounds=1, order="abc", jump=False, extra=()):
    shapes = {layer: SHAPES[layer] for layer in order} | dict.fromkeys(extra, (4, 4))
    net = named_net(shapes)
    with torch.no_grad():
        for layer in shapes:
            source = torch.Generator().manual_seed(ord(layer[0]))
            net[layer].weight.copy_(torch.randn(shapes[layer], generator=source))
    sparsify(net, 0.8, "uniform", generator=torch.Generator().manual_seed(5))
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    method = SET(net, optimizer, 0.8, 10, update_every=1, death_ratio=0.5, min_death_ratio=0.5, seed=seed)
    torch.manual_seed(torch_seed)
    if jump:
        method.steps_done = rounds - 1
    for number in range(1 if jump else rounds):
        before = masks_of(method)
        given_step(net, optimizer, method, {name: torch.zeros(shape) for name, shape in shapes.items()})
        torch.rand(number + 1)
    return {name: mask & ~before[name] for name, mask in masks_of(method).items() if name in SHAPES}


def test_random_growth_depends_on_seed_round_and_layer_only():
    def equal(one, other):
        return all(torch.equal(one[name], other[name]) for name in SHAPES)

    usual = born_at_random(0)
    assert equal(usual, born_at_random(0, torch_seed=9))
    assert equal(usual, born_at_random(0, order="cba"))
    assert equal(usual, born_at_random(0, extra=["more"]))
    assert not equal(usual, born_at_random(1))
    assert not equal(usual, born_at_random(0, rounds=4, jump=True))


def test_layers_of_the_same_shape_grow_differently():
    net = named_net({"one": (20, 20), "two": (20, 20)})
    mask = torch.zeros(20, 20, dtype=torch.bool)
    mask[:4] = True
    sparsify(net, 0.8)
    for layer in net.values():
        layer.sparsity_mask.copy_(mask)
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    method = SET(net, optimizer, 0.8, 4, update_every=1, death_ratio=0.5, min_death_ratio=0.5)
    with torch.no_grad():
        for layer in net.values():
            layer.weight.copy_(mask)
    method.step()
    assert not torch.equal(net["one"].sparsity_mask, net["two"].sparsity_mask)


# Gradients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_zero_at_inactive_places(name):
    """So that clipping by norm sees alive weights only; at update steps too."""
    net, optimizer, method = start(name)
    twin = conv_net(spiking=name in SPIKING)
    for step in range(24):
        images, labels = batch(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        twin.load_state_dict(net.state_dict())
        twin.zero_grad()
        nn.functional.cross_entropy(twin(images), labels).backward()
        alive_gradients = []
        for parameter, unmasked in zip(net.parameters(), twin.parameters(), strict=True):
            mask = next(
                (h.mask for h in method.layers if h.weight is parameter), torch.ones_like(parameter).bool()
            )
            assert not parameter.grad[~mask].any()
            assert torch.equal(parameter.grad[mask], unmasked.grad[mask])
            alive_gradients.append(unmasked.grad[mask])
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 1e9)
        assert norm == pytest.approx(torch.cat(alive_gradients).norm().item(), rel=1e-5)
        optimizer.step()
        method.step()


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("pieces", [1, 2, 4])
@pytest.mark.parametrize("name", BY_GRADIENT)
def test_micro_batches_equal_one_big_batch(name, pieces, set_to_none):
    """In float64; without the batch norm, whose statistics would differ."""
    runs = []
    for parts in (1, pieces):
        net = conv_net(dtype=torch.float64)
        net[1] = nn.Identity()
        net, optimizer, method = start(name, net=net, total=16)
        trajectory = []
        for step in range(16):
            images, labels = batch(step, dtype=torch.float64)
            optimizer.zero_grad(set_to_none)
            for x, y in zip(images.chunk(parts), labels.chunk(parts), strict=True):
                (nn.functional.cross_entropy(net(x), y) / parts).backward()
            gradients = [p.grad.clone() for p in net.parameters()]
            optimizer.step()
            method.step()
            trajectory.append((gradients, masks_of(method)))
        runs.append(trajectory)
    for (gradients, masks), (other_gradients, other_masks) in zip(*runs, strict=True):
        for one, other in zip(gradients, other_gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
        assert all(torch.equal(masks[layer], other_masks[layer]) for layer in masks)


def test_growth_takes_the_sum_over_micro_batches():
    """|−3 + 3.1| = 0.1 is less than |0.2 + 0.2| = 0.4, though its parts are larger, alone and in the last one."""
    net = nn.ModuleDict({"layer": nn.Linear(4, 1, bias=False)})
    sparsify(net, 0.5)
    net["layer"].sparsity_mask.copy_(torch.tensor([[True, True, False, False]]))
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    method = RigL(net, optimizer, 0.5, 1, update_every=1, stop_fraction=1.0, death_ratio=0.5, min_death_ratio=0.5)
    for c in ([0.0, 0.0, -3.0, 0.2], [0.0, 0.0, 3.1, 0.2]):
        (net["layer"].weight * torch.tensor([c])).sum().backward()
    optimizer.step()
    method.step()
    assert net["layer"].sparsity_mask.tolist()[0][2:] == [False, True]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", BY_GRADIENT)
def test_a_gradient_that_is_not_finite_changes_nothing(name, value):
    net, optimizer, method = start(name)
    for step in range(method.rounds[0] - 1):
        train_step(net, optimizer, method, step)
    before = snapshot(net, optimizer, method)
    optimizer.zero_grad()
    inactive = int((~method.layers[1].mask).flatten().nonzero()[0]) if name not in START_DENSE else 0
    spoil = torch.zeros(432)
    spoil[inactive] = value
    (net[3].weight.flatten() * spoil).sum().backward()
    images, labels = batch(0)
    nn.functional.cross_entropy(net(images), labels).backward()
    with pytest.raises(NonFiniteError, match="'3'"):
        method.step()
    assert same(before, snapshot(net, optimizer, method))


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("name", BY_GRADIENT)
def test_training_goes_on_after_a_gradient_that_was_not_finite(name, set_to_none):
    net, optimizer, method = start(name)
    undisturbed = start(name)
    for step in range(method.rounds[0] - 1):
        train_step(net, optimizer, method, step)
        train_step(*undisturbed, step)
    optimizer.zero_grad(set_to_none)
    (net[3].weight * torch.nan).sum().backward()
    (net[0].weight.sum() + net[6].weight.sum()).backward()
    with pytest.raises(NonFiniteError):
        method.step()
    images, labels = batch(7)
    optimizer.zero_grad(set_to_none)
    nn.functional.cross_entropy(net(images), labels).backward()
    optimizer.step()
    assert method.step().round == 1
    train_step(*undisturbed, 7)
    assert all(torch.equal(a, b) for a, b in zip(method.masks(), undisturbed[2].masks(), strict=True))


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("name", BY_GRADIENT)
def test_a_batch_that_was_thrown_away_does_not_decide_growth(name, set_to_none):
    """backward, then zero_grad instead of a step: only the second batch counts."""
    runs = []
    for disturbed in (False, True):
        net, optimizer, method = start(name)
        for step in range(method.rounds[1] - 1):
            train_step(net, optimizer, method, step)
        if disturbed:
            optimizer.zero_grad(set_to_none)
            (1e3 * sum((layer.weight * batch(3)[0].flatten()[0]).sum() for layer in method.layers)).backward()
            torch.manual_seed(0)
            sum((layer.weight * torch.randn(layer.shape) * 1e3).sum() for layer in method.layers).backward()
        images, labels = batch(50)
        optimizer.zero_grad(set_to_none)
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
        assert method.step() is not None
        runs.append(method.masks())
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("name", DYNAMIC)
def test_weights_that_are_not_finite_never_break_the_count(name):
    """A run that diverged: the round is refused, and nothing changes."""
    net, optimizer, method = start(name)
    for step in range(method.rounds[0] - 1):
        train_step(net, optimizer, method, step)
    optimizer.zero_grad()
    show_batch(net, method)
    sum(layer.weight.sum() for layer in method.layers).backward()
    with torch.no_grad():
        for layer in method.layers:
            layer.weight[layer.mask] = torch.nan
    before = masks_of(method)
    with pytest.raises(NonFiniteError):
        method.step()
    assert all(torch.equal(mask, before[name]) for name, mask in masks_of(method).items())
    assert method.steps_done == method.rounds[0] - 1


@pytest.mark.parametrize("name", BY_GRADIENT)
def test_a_missing_gradient_is_an_error_that_names_the_layer(name):
    net, optimizer, method = start(name)
    for step in range(method.rounds[0] - 1):
        train_step(net, optimizer, method, step)
    optimizer.zero_grad()
    before = snapshot(net, optimizer, method)
    (net[0].weight.sum() + net[6].weight.sum()).backward()
    with pytest.raises(SparsityError, match="layer '3' has no gradient"):
        method.step()
    assert same(before, snapshot(net, optimizer, method))


def test_methods_without_gradient_need_no_backward():
    for name in ("set", "gmp", "admm", "online"):
        _, _, method = start(name)
        assert [method.step() is None for _ in range(3)] == [True, True, False]


def test_a_second_method_takes_over_the_gradient():
    net, optimizer, first = start("ndsnn", initial=0.5, final=0.9, update_every=2)
    second = NDSNN(net, optimizer, 0.9, 24, update_every=2)
    for step in range(1, 5):
        images, labels = batch(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        assert all(not h.weight.grad[~h.mask].any() for h in second.layers)
        optimizer.step()
        assert (second.step() is None) == (step % 2 == 1)
    first.step()
    with pytest.raises(SparsityError, match="no gradient"):
        first.step()


@pytest.mark.parametrize("name", BY_GRADIENT)
def test_a_second_method_grows_as_if_it_were_the_only_one(name):
    """A hook of the first one would have set the gradients of inactive places to 0 before the second sees them."""
    runs = []
    for others in (0, 2):
        net, optimizer, method = start(name)
        for _ in range(others):
            method = type(method)(net, optimizer, 0.9, 24, update_every=3)
        for step in range(24):
            train_step(net, optimizer, method, step)
        runs.append(method.masks())
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_to_dense_takes_the_gradient_hook_away():
    net, _, _ = start("rigl")
    to_dense(net)
    (2 * net[3].weight).sum().backward()
    assert torch.equal(net[3].weight.grad, torch.full_like(net[3].weight, 2))


@pytest.mark.parametrize("name", ALL)
def test_nan_and_minus_zero_in_inactive_places_are_wiped_at_every_step(name):
    net, optimizer, method = start(name)
    for step in range(8):
        images, labels = batch(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
        with torch.no_grad():
            for layer in method.layers:
                for tensor in (layer.weight, *per_weight_state(optimizer, layer.weight)):
                    tensor[~layer.mask] = -0.0 if step % 2 else torch.nan
        method.step()
        for layer in method.layers:
            for tensor in (layer.weight, *per_weight_state(optimizer, layer.weight)):
                assert torch.equal(tensor[~layer.mask], torch.zeros(int((~layer.mask).sum())))
                assert not torch.signbit(tensor[~layer.mask]).any()


# Layers that are to stay as they are -------------------------------------------------------------------------


@pytest.mark.parametrize("name", DYNAMIC)
def test_dense_layers_stay_dense(name):
    """Where the exchange may bring back the dead, too."""
    net = conv_net(spiking=name in SPIKING)
    optimizer = optimizer_of(net)
    start_at = {"granet": 0.3, "ndsnn": 0.3}.get(name, 0.0 if name in PRUNE_ONLY else 0.8)
    sparsify(net, start_at, dense_layers=["0"])
    extra = {} if name in PRUNE_ONLY else {"regrow_dropped": True}
    method = methods[name](net, optimizer, 0.8, 12, update_every=2, **extra)
    for step in range(12):
        if update := train_step(net, optimizer, method, step):
            assert update.layers[0] == ("0", 0, 0, 108)
        assert net[0].sparsity_mask.all()
    assert sum(row.alive for row in layer_report(net)) == 180


# Settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"final": 1.0}, SparsityError, "final_sparsity is 1.0"),
        ({"final": 90}, SparsityError, "final_sparsity is 90"),
        ({"final": 0.4}, SparsityError, "sparsity 0.5, more than final_sparsity 0.4"),
        ({"total": 0}, ScheduleError, "total_steps is 0"),
        ({"update_every": 100}, ScheduleError, "update_every 100"),
        ({"death_ratio": 0.1, "min_death_ratio": 0.2}, ConfigError, "0.2 and 0.1"),
        ({"death_ratio": 1.5}, ConfigError, "1.5"),
        ({"min_death_ratio": -0.1}, ConfigError, "-0.1"),
    ],
)
def test_settings_out_of_range(settings, error, words):
    with pytest.raises(error, match=words):
        start("ndsnn", **settings)


@pytest.mark.parametrize("name", [*sorted(CONSTANT - {"dense"})])
def test_constant_methods_want_the_final_sparsity_from_the_start(name):
    net = sparsify(conv_net(), 0.5)
    with pytest.raises(SparsityError, match=r"call ndsnn.sparsify\(net, 0.9\)"):
        methods[name](net, optimizer_of(net), 0.9, 24)


@pytest.mark.parametrize("name", [name for name in ALL if name not in START_DENSE])
def test_a_dense_network_is_refused_where_it_makes_no_sense(name):
    net = conv_net()
    with pytest.raises(NotSparsifiedError):
        methods[name](net, optimizer_of(net), 0.9, 24)


@pytest.mark.parametrize(("setting", "value"), [("exploration", -1.0), ("epsilon", 0.0)])
def test_dst_ee_settings(setting, value):
    with pytest.raises(ConfigError, match=setting):
        start("dst-ee", **{setting: value})


def test_defaults_and_accepted_settings():
    shared = {"update_every", "start", "stop_fraction"}
    exchange = {"death_ratio", "min_death_ratio", "regrow_dropped", "seed"}
    assert accepted_settings(NDSNN) == accepted_settings(RigL) == shared | exchange
    assert accepted_settings(methods["dst-ee"]) == shared | exchange | {"exploration", "epsilon"}
    assert accepted_settings(methods["gmp"]) == shared
    assert accepted_settings(methods["online"]) == shared | {"threshold", "shrink"}
    assert accepted_settings(methods["stdp"]) == shared | {"decay", "depression", "smoothing", "samples"}
    assert accepted_settings(methods["snip"]) == {"samples_per_class"}
    assert accepted_settings(methods["static"]) == accepted_settings(methods["dense"]) == frozenset()
    net = sparsify(conv_net(), 0.5)
    method = NDSNN(net, optimizer_of(net), 0.9, 40_000)
    assert (method.schedule.start, method.schedule.interval, method.schedule.rounds) == (0, 500, 60)
    assert method.death_ratio(0) == 0.5
    assert method.death_ratio(60) == 0.05
    assert method.regrow_dropped is False


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'ndsnn'"):
        methods["nsdnn"]
    with pytest.raises(ConfigError, match="registered already"):
        methods.register("ndsnn")(NDSNN)


@pytest.mark.parametrize("name", BY_GRADIENT)
def test_the_gradient_can_be_checked_before_the_optimizer_steps(name):
    """So that the weights stay as they were, too."""
    net, optimizer, method = start(name)
    for step in range(method.rounds[0] - 1):
        assert method.updates_next is False
        method.require_finite_gradients()
        train_step(net, optimizer, method, step)
    assert method.updates_next is True
    with pytest.raises(SparsityError, match="'0' has no gradient"):
        method.require_finite_gradients()
    optimizer.zero_grad()
    before = snapshot(net, optimizer, method)
    sum((layer.weight * torch.inf).sum() for layer in method.layers).backward()
    with pytest.raises(NonFiniteError, match="'0'"):
        method.require_finite_gradients()
    assert same(before, snapshot(net, optimizer, method))


@pytest.mark.parametrize("name", ALL)
def test_the_final_sparsity_is_announced_with_the_last_round(name):
    net, optimizer, method = start(name)
    last = method.rounds[-1] if method.rounds else 0
    for step in range(24):
        reached = method.finished if name not in CONSTANT else True
        assert method.at_final_sparsity == reached == (method.steps_done >= last or name in CONSTANT)
        train_step(net, optimizer, method, step)
    assert method.at_final_sparsity
    assert method.finished
