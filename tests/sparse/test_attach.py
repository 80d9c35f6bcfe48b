"""Methods that the optimizer calls, against the loop that calls `step` itself, bit by bit."""

import pytest
import torch
from compressed_nets import conv_net as layers_net
from small_nets import (
    BY_GRADIENT,
    CONSTANT,
    NO_ROUNDS,
    NoisySGD,
    batch,
    conv_net,
    optimizer_of,
    same,
    snapshot,
)
from torch import nn

import ndsnn
from ndsnn.errors import ConfigError, NonFiniteError, SparsityError
from ndsnn.sparse import compress
from ndsnn.sparse.methods import NDSNN, methods

STEPS = 12
METHODS = [name for name in methods if name not in ("lth", "snip", "stdp")]


def begin(name="ndsnn", form="masked", make=optimizer_of, **settings):
    """Return net, optimizer and method, as `start` does, in either form and with any optimizer."""
    net = layers_net()
    final = {"dense": 0.0}.get(name, 0.9)
    if name not in ("gmp", "granet", "dense", "admm", "online"):
        ndsnn.sparsify(net, 0.9 if name in CONSTANT else 0.5, generator=torch.Generator().manual_seed(0))
    if form == "compressed":
        if name in ("gmp", "granet", "dense", "admm", "online"):
            ndsnn.sparsify(net, 0.0)
        compress(net)
    optimizer = make(net)
    settings = {} if name in NO_ROUNDS else {"update_every": 2} | settings
    return net, optimizer, methods[name](net, optimizer, final, STEPS, **settings)


def backward(net, optimizer, number, scale=None):
    """The backward pass of a batch."""
    images, labels = batch(number)
    torch.manual_seed(number)  # for the optimizer that adds noise
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(net(images), labels)
    (loss if scale is None else scale(loss)).backward()
    return loss


def plain(name="ndsnn", form="masked", make=optimizer_of, numbers=range(STEPS)):
    """Snapshot of the loop that calls `step`."""
    net, optimizer, method = begin(name, form, make)
    for number in numbers:
        backward(net, optimizer, number)
        optimizer.step()
        method.step()
    return snapshot(net, optimizer, method)


@pytest.mark.parametrize("form", ["masked", "compressed"])
@pytest.mark.parametrize("name", METHODS)
def test_it_equals_the_plain_loop(name, form):
    net, optimizer, method = begin(name, form)
    updates = []
    method.attach(optimizer, updates.append)
    for number in range(STEPS):
        backward(net, optimizer, number)
        optimizer.step()
    assert tuple(update.step for update in updates) == method.rounds
    assert len(method.rounds) == (0 if name in NO_ROUNDS else 4)
    assert same(snapshot(net, optimizer, method), plain(name, form))


def groups(net):
    """Two groups of parameters and a schedule of the learning rate, which wraps `step`."""
    parameters = list(net.parameters())
    return torch.optim.Adam([{"params": parameters[:2]}, {"params": parameters[2:], "lr": 0.02}], 0.01)


def noisy(net):
    """Its `step` calls that of SGD, so that torch runs the hooks twice."""
    torch.optim.SGD(net.parameters(), 0.1)  # torch gives the class its hooks when the first one is made
    return NoisySGD(net.parameters(), 0.1, momentum=0.9)


@pytest.mark.parametrize("closure", [None, "argument", "keyword"])
@pytest.mark.parametrize("name", ["ndsnn", "set", "admm"])
@pytest.mark.parametrize("make", [optimizer_of, groups, noisy])
def test_closures_groups_schedules_and_subclasses(make, name, closure):
    net, optimizer, method = begin(name, make=make)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    method.attach()
    for number in range(STEPS):

        def run(number=number):
            return backward(net, optimizer, number)

        if closure is None:
            run()
            optimizer.step()
        else:
            optimizer.step(run) if closure == "argument" else optimizer.step(closure=run)
        schedule.step()
    other, other_optimizer, expected = begin(name, make=make)
    schedule = torch.optim.lr_scheduler.StepLR(other_optimizer, 3)
    for number in range(STEPS):
        backward(other, other_optimizer, number)
        other_optimizer.step()
        expected.step()
        schedule.step()
    assert method.steps_done == STEPS
    assert same(snapshot(net, optimizer, method), snapshot(other, other_optimizer, expected))


def test_the_penalty_of_admm_is_added_once_where_hooks_run_twice():
    """Against the equation: W ← W − lr·(0 + ρ·(W − Z)) − noise, the same noise."""
    net = nn.Sequential(nn.Linear(5, 4, bias=False))
    optimizer = noisy(net)
    method = ndsnn.ADMM(net, optimizer, 0.5, 8, rho=0.5, update_every=2)
    before = net[0].weight.detach().clone()
    z = method.records["z"]["0"].view_as(before)
    (net[0].weight.sum() * 0).backward()
    torch.manual_seed(3)
    optimizer.step()
    torch.manual_seed(3)
    expected = before - 0.1 * 0.5 * (before - z) + 0.01 * torch.randn(before.shape)
    assert torch.allclose(net[0].weight, expected, atol=1e-7)


# Steps that do not count -------------------------------------------------------------------------------------


def scaled(net, fused):
    return torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, fused=fused)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("form", ["masked", "compressed"])
@pytest.mark.parametrize("name", ["ndsnn", "set", "admm"])
def test_steps_that_a_gradient_scaler_skips(name, form, fused):
    """torch's own scaler; batches 1, 5 and 6 overflow, before an update step and at one."""
    net, optimizer, method = begin(name, form, lambda net: scaled(net, fused))
    method.attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for number in range(STEPS):
        backward(net, optimizer, number, scaler.scale)
        if number in (1, 5, 6):
            net[6].bias.grad[2] = torch.inf
        scaler.step(optimizer)
        scaler.update()
    assert method.steps_done == STEPS - 3
    assert scaler.get_scale() == 2.0**7
    rest = [number for number in range(STEPS) if number not in (1, 5, 6)]
    expected = plain(name, form, lambda net: scaled(net, fused), rest)
    assert same(snapshot(net, optimizer, method), expected)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("form", ["masked", "compressed"])
@pytest.mark.parametrize("name", BY_GRADIENT)
def test_a_scaler_sees_the_overflow_of_an_inactive_weight(name, form, value, fused):
    """At an update step the dense gradient counts, of which `grad` shows only the alive part otherwise."""
    net, optimizer, method = begin(name, form, lambda net: scaled(net, fused), death_ratio=0.4)
    method.attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    spoilt = 0
    for number in range(STEPS):
        loss = backward(net, optimizer, number, scaler.scale)
        layer = method.layers[1]
        if method.updates_next and layer.nnz < layer.size and not spoilt:
            place = int((~layer.mask).flatten().nonzero()[0])
            optimizer.zero_grad()
            dense = layer.module.dense_weight() if form == "compressed" else layer.weight
            images, labels = batch(number)
            spoil = torch.zeros(layer.size)
            spoil[place] = value
            loss = nn.functional.cross_entropy(net(images), labels) * 0
            if form == "masked":
                loss = loss + (dense.flatten() * spoil).sum()
                loss.backward()
            else:
                (dense.flatten() * spoil).sum().backward()
                others = [p for p in net.parameters() if p is not layer.weight]
                for p in others:
                    p.grad = torch.zeros_like(p)
            before = snapshot(net, optimizer, method)
            spoilt = method.steps_done + 1
        scaler.step(optimizer)
        scaler.update()
        if spoilt == method.steps_done + 1 and scaler.get_scale() == 2.0:
            assert same(before, snapshot(net, optimizer, method))
    assert spoilt in method.rounds
    assert scaler.get_scale() == 2.0
    assert method.steps_done == STEPS - 1
    assert all(bool(torch.isfinite(p).all()) for p in net.parameters())


def test_between_rounds_nothing_of_an_inactive_weight_is_shown():
    _, optimizer, method = begin()
    method.attach(optimizer)
    assert not method.updates_next
    layer = method.layers[1]
    (layer.weight * torch.where(layer.mask, 1.0, torch.inf)).sum().backward()
    assert bool(torch.isfinite(layer.weight.grad).all())


@pytest.mark.parametrize("closure", [False, True])
@pytest.mark.parametrize("form", ["masked", "compressed"])
def test_a_gradient_that_is_not_finite_stops_the_optimizer(form, closure):
    net, optimizer, method = begin("ndsnn", form)
    method.attach(optimizer)
    backward(net, optimizer, 0)
    optimizer.step()
    before = snapshot(net, optimizer, method)

    def spoilt():
        images, labels = batch(1)
        optimizer.zero_grad()
        (nn.functional.cross_entropy(net(images), labels) * torch.inf).backward()

    if not closure:
        spoilt()
    with pytest.raises(NonFiniteError, match="layer '0' is not finite"):
        optimizer.step(spoilt if closure else None)
    assert same(before, snapshot(net, optimizer, method))
    for number in range(1, STEPS):
        backward(net, optimizer, number)
        optimizer.step()
    assert same(snapshot(net, optimizer, method), plain("ndsnn", form))


@pytest.mark.parametrize("make", [optimizer_of, noisy])
def test_a_step_that_fails_does_not_count(make):
    net, optimizer, method = begin(make=make)
    method.attach(optimizer)

    def fails():
        raise ZeroDivisionError

    for number in range(STEPS):
        if number in (0, 1, 7):
            with pytest.raises(ZeroDivisionError):
                optimizer.step(fails)
        backward(net, optimizer, number)
        optimizer.step()
    assert same(snapshot(net, optimizer, method), plain(make=make))


def test_a_step_without_any_gradient_does_not_count():
    net, optimizer, method = begin()
    method.attach(optimizer)
    for number in range(STEPS):
        if number in (1, 5):
            optimizer.zero_grad()
            optimizer.step()
        backward(net, optimizer, number)
        optimizer.step()
    assert same(snapshot(net, optimizer, method), plain())


def test_a_gradient_that_is_missing_in_one_layer_is_an_error():
    net, optimizer, method = begin(update_every=1)
    method.attach(optimizer)
    net[0].weight.sum().backward()
    before = snapshot(net, optimizer, method)
    with pytest.raises(SparsityError, match="layer '3' has no gradient"):
        optimizer.step()
    assert same(before, snapshot(net, optimizer, method))


# Attaching and detaching -------------------------------------------------------------------------------------


def test_not_twice_and_not_by_hand():
    net, optimizer, method = begin()
    assert not method.attached
    method.attach(optimizer)
    assert method.attached
    with pytest.raises(ConfigError, match=r"NDSNN is attached .* call its detach\(\) first"):
        method.attach(optimizer)
    with pytest.raises(ConfigError, match="is attached to the optimizer already"):
        NDSNN(net, optimizer, 0.9, STEPS).attach(optimizer)


def test_the_loop_cannot_count_what_the_optimizer_counts():
    net, optimizer, method = begin()
    method.attach(optimizer)
    backward(net, optimizer, 0)
    optimizer.step()
    with pytest.raises(ConfigError, match=r"leave this call of step\(\) out"):
        method.step()
    assert method.steps_done == 1


def test_detached_the_loop_goes_on():
    net, optimizer, method = begin()
    for number in range(STEPS):
        if number % 4 == 0:
            method.attach(optimizer)
        if number % 4 == 2:
            method.detach()
            method.detach()
            assert not method.attached
        backward(net, optimizer, number)
        optimizer.step()
        if not method.attached:
            method.step()
    assert same(snapshot(net, optimizer, method), plain())


def test_a_new_method_after_the_old_one_is_detached():
    net, optimizer, method = begin()
    method.attach(optimizer)
    method.detach()
    second = NDSNN(net, optimizer, 0.9, STEPS, update_every=2)
    second.attach(optimizer)
    backward(net, optimizer, 0)
    optimizer.step()
    assert (method.steps_done, second.steps_done) == (0, 1)


def test_two_networks_with_one_optimizer():
    nets = [ndsnn.sparsify(conv_net(seed), 0.5) for seed in (0, 1)]
    optimizer = torch.optim.SGD([p for net in nets for p in net.parameters()], 0.1)
    both = [NDSNN(net, optimizer, 0.9, 8, update_every=2) for net in nets]
    for method in both:
        method.attach(optimizer)
    for number in range(8):
        images, labels = batch(number)
        optimizer.zero_grad()
        sum(nn.functional.cross_entropy(net(images), labels) for net in nets).backward()
        optimizer.step()
    assert [method.steps_done for method in both] == [8, 8]
    assert [method.at_final_sparsity for method in both] == [True, True]


def test_other_optimizers_are_refused():
    net, _, method = begin()
    with pytest.raises(ConfigError, match="SGD that it was made with; the Adam given"):
        method.attach(torch.optim.Adam(net.parameters()))
    early = torch.optim.SGD(net.parameters(), 0.1)
    accelerated = compress(net)
    with pytest.raises(SparsityError, match=r"doesn't hold the weight of layer '0'; create it after ndsnn\.accel"):
        NDSNN(accelerated, early, 0.9, STEPS).attach(early)
    assert not method.attached


class Front(torch.optim.Optimizer):
    """What Accelerate and Lightning put around an optimizer."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    state = property(lambda self: self.optimizer.state)
    param_groups = property(lambda self: self.optimizer.param_groups)

    def step(self, closure=None):
        return self.optimizer.step(closure)

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)


@pytest.mark.parametrize("name", ["ndsnn", "admm"])
@pytest.mark.parametrize("made_with", ["inner", "front"])
@pytest.mark.parametrize("attached_to", ["inner", "front", None])
def test_wrapped_optimizers(name, made_with, attached_to):
    fronts = []

    def make(net):
        fronts.append(Front(Front(optimizer_of(net))))
        return fronts[-1] if made_with == "front" else fronts[-1].optimizer.optimizer

    net, _, method = begin(name, make=make)
    front = fronts[0]
    inner = front.optimizer.optimizer
    assert method.optimizer is inner
    method.attach({"inner": inner, "front": front, None: None}[attached_to])
    for number in range(STEPS):
        backward(net, front, number)
        front.step()
    assert same(snapshot(net, inner, method), plain(name))
