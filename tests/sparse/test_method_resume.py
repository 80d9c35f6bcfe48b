"""A run that is stopped and continued is the run that was never stopped; a state that does not fit is refused."""

import copy

import pytest
import torch
from small_nets import (
    ALL,
    NO_ROUNDS,
    SPIKING,
    START_DENSE,
    conv_net,
    masks_of,
    named_net,
    optimizer_of,
    same,
    snapshot,
    start,
    through_file,
    train_step,
)

from ndsnn.errors import CheckpointError
from ndsnn.sparse.methods import NDSNN, RigL, methods
from ndsnn.sparse.sparsify import recorded_distribution, set_masks, sparsify

TOTAL = 16
EVERY = 4  # rounds after steps 4, 8 and 12


def run(name, kind, until, seed=0):
    net, optimizer, method = start(name, kind=kind, total=TOTAL, seed=seed, **every(name))
    for step in range(until):
        train_step(net, optimizer, method, step)
    return net, optimizer, method


def every(name):
    return {} if name in NO_ROUNDS else {"update_every": EVERY}


@pytest.mark.parametrize("kind", ["momentum", "adamw"])
@pytest.mark.parametrize("stop", [0, 3, 4, 5, 8, 12, 14])
@pytest.mark.parametrize("name", ALL)
def test_stopped_and_continued(name, stop, kind):
    """Stopped before, at and after update steps; the new process starts from other weights and masks."""
    net, optimizer, method = run(name, kind, stop)
    saved = through_file({"net": net.state_dict(), "opt": optimizer.state_dict(), "method": method.state_dict()})
    net2, optimizer2, method2 = start(name, kind=kind, total=TOTAL, seed=77, **every(name))
    assert not torch.equal(net2[3].weight, net[3].weight)
    net2.load_state_dict(saved["net"])
    optimizer2.load_state_dict(saved["opt"])
    method2.load_state_dict(saved["method"])
    assert same(snapshot(net, optimizer, method), snapshot(net2, optimizer2, method2))
    for step in range(stop, TOTAL):
        one, other = train_step(net, optimizer, method, step), train_step(net2, optimizer2, method2, step)
        assert one == other
        assert same(snapshot(net, optimizer, method), snapshot(net2, optimizer2, method2))
    assert method2.finished


@pytest.mark.parametrize("name", ALL)
def test_the_state_is_a_snapshot_and_not_a_view(name):
    net, optimizer, method = run(name, "momentum", 3)
    state = method.state_dict()
    kept = copy.deepcopy(state)
    for step in range(3, 9):
        train_step(net, optimizer, method, step)
    require_equal(state, kept)


def require_equal(one, two):
    """The same nested dicts and lists of tensors and plain values."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two)
    elif isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            require_equal(one[key], two[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            require_equal(a, b)
    else:
        assert one == two


def test_masks_are_packed_eight_to_a_byte():
    _, _, method = run("ndsnn", "sgd", 0)
    assert {name: (bits.dtype, bits.numel()) for name, bits in method.state_dict()["masks"].items()} == {
        "0": (torch.uint8, 14),
        "3": (torch.uint8, 54),
        "6": (torch.uint8, 45),
    }


def test_alive_weights_of_value_zero_stay_alive():
    """The newborn are 0 until the next step: a mask guessed from w ≠ 0 would lose them."""
    net, optimizer, method = start("ndsnn", initial=0.85, total=TOTAL, update_every=EVERY)
    for step in range(EVERY):
        train_step(net, optimizer, method, step)
    born = sum(int((layer.mask & (layer.weight == 0)).sum()) for layer in method.layers)
    assert born > 0
    net2, _, method2 = start("ndsnn", initial=0.85, total=TOTAL, seed=77, update_every=EVERY)
    net2.load_state_dict(net.state_dict())
    method2.load_state_dict(through_file(method.state_dict()))
    assert all(torch.equal(mask, masks_of(method2)[name]) for name, mask in masks_of(method).items())


@pytest.mark.parametrize("name", ["ndsnn", "gmp", "online", "granet", "set", "dst-ee"])
def test_a_network_with_the_masks_of_mid_run_continues_from_the_counts_of_the_start(name):
    """As a sparse file gives it back: without the state the ramp would start anew from what is alive now."""
    net, optimizer, method = run(name, "momentum", 9)
    saved = through_file({"opt": optimizer.state_dict(), "method": method.state_dict()})
    twin = conv_net(seed=5)
    twin.load_state_dict(net.state_dict())
    set_masks(twin, masks_of(method), recorded_distribution(net))
    optimizer2 = optimizer_of(twin)
    method2 = methods[name](twin, optimizer2, 0.9, TOTAL, update_every=EVERY)
    optimizer2.load_state_dict(saved["opt"])
    method2.load_state_dict(saved["method"])
    for step in range(9, TOTAL):
        assert train_step(net, optimizer, method, step) == train_step(twin, optimizer2, method2, step)
    assert same(snapshot(net, optimizer, method), snapshot(twin, optimizer2, method2))


def refuse(net, optimizer, method, state, words=None):
    before = snapshot(net, optimizer, method)
    with pytest.raises(CheckpointError, match=words):
        method.load_state_dict(state)
    assert same(before, snapshot(net, optimizer, method))


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("ndsnn", {"final": 0.95}),
        ("ndsnn", {"total": TOTAL + 1}),
        ("ndsnn", {"update_every": 3}),
        ("ndsnn", {"start": 1}),
        ("ndsnn", {"stop_fraction": 0.5}),
        ("ndsnn", {"death_ratio": 0.4}),
        ("ndsnn", {"min_death_ratio": 0.1}),
        ("ndsnn", {"regrow_dropped": True}),
        ("set", {"seed": 5}),
        ("gmp", {"update_every": 3}),
        ("snip", {"samples_per_class": 5}),
        ("online", {"threshold": 0.5}),
        ("online", {"shrink": 0.4}),
        ("stdp", {"decay": 0.4}),
        ("stdp", {"depression": 0.4}),
        ("stdp", {"smoothing": 0.4}),
        ("stdp", {"samples": 4}),
        ("granet", {"death_ratio": 0.4}),
        ("dst-ee", {"exploration": 0.5}),
        ("dst-ee", {"epsilon": 0.5}),
        ("static", {"final": 0.8}),
    ],
)
def test_other_settings_are_refused(name, other):
    _, _, source = run(name, "momentum", 5)
    other = dict(other)
    seed = other.pop("seed", None)
    net = conv_net(seed=3, spiking=name in SPIKING)
    final, total = other.pop("final", 0.9), other.pop("total", TOTAL)
    if name not in START_DENSE:
        sparsify(net, 0.5 if name == "ndsnn" else final)
    optimizer = optimizer_of(net)
    keywords = every(name) | other | ({} if seed is None else {"seed": seed})
    method = methods[name](net, optimizer, final, total, **keywords)
    refuse(net, optimizer, method, through_file(source.state_dict()), "saved settings")


@pytest.mark.parametrize(
    ("saved", "loaded"),
    [
        ("set", "rigl"),
        ("rigl", "dst-ee"),
        ("static", "set"),
        ("gmp", "granet"),
        ("gmp", "online"),
        ("snip", "static"),
    ],
)
def test_another_method_is_refused(saved, loaded):
    _, _, source = run(saved, "momentum", 5)
    net, optimizer, method = run(loaded, "momentum", 2, seed=4)
    refuse(net, optimizer, method, source.state_dict(), "saved method")


def constant_run(net, seed=0):
    sparsify(net, 0.5, generator=torch.Generator().manual_seed(seed))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    return net, optimizer, NDSNN(net, optimizer, 0.8, TOTAL, update_every=EVERY)


@pytest.mark.parametrize(
    "other",
    [
        {"a": (5, 6), "c": (5, 5)},
        {"a": (5, 6), "b": (5, 5), "c": (5, 5)},
        {"a": (5, 6)},
        {"a": (5, 6), "b": (40, 6)},
        {"a": (5, 6), "b": (2, 13)},
        {"a": (6, 5), "b": (5, 5)},
    ],
    ids=["name", "more", "fewer", "larger", "as many bytes", "transposed"],
)
def test_another_network_is_refused(other):
    _, _, source = constant_run(named_net(other))
    net, optimizer, method = constant_run(named_net({"a": (5, 6), "b": (5, 5)}))
    refuse(net, optimizer, method, source.state_dict())


@pytest.mark.parametrize("name", ["ndsnn", "set"])
def test_another_distribution_is_refused(name):
    """Its layers would go to other counts than those the run was on its way to."""
    runs = []
    for distribution in ("erk", "uniform"):
        net = sparsify(conv_net(), 0.9 if name == "set" else 0.5, distribution)
        optimizer = optimizer_of(net)
        runs.append((net, optimizer, methods[name](net, optimizer, 0.9, TOTAL, update_every=EVERY)))
    refuse(*runs[0], runs[1][2].state_dict())


@pytest.mark.parametrize("key", ["method", "settings", "steps_done", "initial_counts", "masks", "times_active"])
def test_a_state_without_one_of_its_parts_is_refused(key):
    _, _, source = run("dst-ee", "momentum", 5)
    state = source.state_dict()
    del state[key]
    refuse(*run("dst-ee", "momentum", 2, seed=4), state, key)


@pytest.mark.parametrize(
    ("key", "spoil"),
    [
        ("masks", lambda masks: masks | {"6": masks["6"][:-1]}),
        ("masks", lambda masks: masks | {"6": masks["6"].to(torch.int16)}),
        ("masks", lambda masks: {name: bits for name, bits in masks.items() if name != "6"}),
        ("times_active", lambda counts: counts | {"6": counts["6"][:-1]}),
        ("times_active", lambda counts: {name: count for name, count in counts.items() if name != "6"}),
        ("initial_counts", lambda counts: {name: count for name, count in counts.items() if name != "6"}),
    ],
    ids=["short mask", "mask type", "mask missing", "short counter", "counter missing", "count missing"],
)
def test_a_damaged_state_is_refused(key, spoil):
    _, _, source = run("dst-ee", "momentum", 5)
    state = source.state_dict()
    state[key] = spoil(state[key])
    refuse(*run("dst-ee", "momentum", 2, seed=4), state)


def test_loading_puts_dead_weights_and_momenta_to_zero():
    """Weights loaded from elsewhere may be alive where the saved mask is not."""
    _, _, source = run("rigl", "momentum", 5)
    net, optimizer, method = run("rigl", "momentum", 5, seed=9)
    with torch.no_grad():
        net[3].weight.fill_(1.0)
        optimizer.state[net[3].weight]["momentum_buffer"].fill_(1.0)
    method.load_state_dict(source.state_dict())
    mask = source.layers[1].mask
    assert torch.equal(net[3].weight, mask.float())
    assert torch.equal(optimizer.state[net[3].weight]["momentum_buffer"], mask.float())
    assert isinstance(method, RigL)
