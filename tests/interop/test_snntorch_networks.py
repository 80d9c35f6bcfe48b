"""Networks of snnTorch with their loops over time compute on the engine what they compute themselves."""

import re

import numpy as np
import pytest
import snntorch as snn
import torch
from framework_parity import lively, same_network
from snntorch import surrogate, utils
from torch import nn

import ndsnn
from ndsnn.errors import ShapeError, StateError, UnsupportedLayerError
from ndsnn.interop import OverTime
from ndsnn.sparse.topology import sparse_layers

T, N = 5, 6


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def leaky(**settings):
    return snn.Leaky(**{"beta": 0.8, "reset_mechanism": "zero"} | settings)


class Net(nn.Module):
    """Two hidden layers and an output layer with any reset; `forward` is given as a function of (self, x)."""

    def __init__(self, forward, hidden=None, **last):
        super().__init__()
        self._call = forward
        self.fc1, self.lif1 = nn.Linear(8, 20), leaky(**hidden or {})
        self.fc2, self.lif2 = nn.Linear(20, 20), leaky(**hidden or {})
        self.fc3, self.lif3 = nn.Linear(20, 4), snn.Leaky(**{"beta": 0.9, "threshold": 0.5} | last)
        lively(self)

    def forward(self, x):
        return self._call(self, x)

    def step(self, x, membranes):
        one, two, three = membranes
        spikes, one = self.lif1(self.fc1(x), one)
        spikes, two = self.lif2(self.fc2(spikes), two)
        spikes, three = self.lif3(self.fc3(spikes), three)
        return spikes, (one, two, three)

    def begin(self):
        return self.lif1.init_leaky(), self.lif2.reset_mem(), self.lif3.init_leaky()


def all_steps(net, x):
    membranes, spikes, potentials = net.begin(), [], []
    for t in range(T):
        fired, membranes = net.step(x[t], membranes)
        spikes.append(fired)
        potentials.append(membranes[-1])
    return torch.stack(spikes, dim=0), torch.stack(potentials)


def same_input(net, x):
    membranes, spikes = net.begin(), []
    x = x.view(x.size(0), -1)
    for _ in range(T):
        fired, membranes = net.step(x, membranes)
        spikes.append(fired)
    return torch.stack(spikes), membranes[-1]


def unflattened_input(net, x):
    membranes, spikes = net.begin(), []
    for _ in range(T):
        fired, membranes = net.step(x, membranes)
        spikes.append(fired)
    return torch.stack(spikes)


def running_sum(net, x):
    membranes, total = net.begin(), 0
    for t in range(T):
        fired, membranes = net.step(x[:, t].flatten(1), membranes)
        total = total + fired
    return total / T


def in_place_sum(net, x):
    membranes = net.begin()
    total, membranes = net.step(x[0], membranes)
    for t in range(1, T):
        fired, membranes = net.step(x[t], membranes)
        total += fired
    return total


def steps_behind_samples(net, x):
    membranes, spikes = net.begin(), []
    for t in range(T):
        fired, membranes = net.step(x[t], membranes)
        spikes.append(fired)
    return torch.stack(spikes, dim=1)


def inputs(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


LOOPS = {
    "all steps": (all_steps, (T, N, 8)),
    "more steps than are read": (all_steps, (T + 2, N, 8)),
    "same input": (same_input, (N, 2, 4)),
    "running sum": (running_sum, (N, T, 2, 4)),
    "in-place sum": (in_place_sum, (T, N, 8)),
    "steps behind samples": (steps_behind_samples, (T, N, 8)),
    "mean": (lambda net, x: all_steps(net, x)[1].mean(0), (T, N, 8)),
}


@pytest.mark.parametrize("case", sorted(LOOPS))
def test_loops(case):
    forward, shape = LOOPS[case]
    net = ndsnn.sparsify(Net(forward), 0.4, generator=torch.Generator().manual_seed(1))
    fast = ndsnn.accelerate(net)
    for _ in range(2):
        output = same_network(fast, net, inputs(*shape), once=("fc1", T) if forward is same_input else ("", 1))
    assert output.abs().max() > 0


HIDDEN = {
    "gradient through the reset": {"reset_delay": False},
    "sigmoid": {"spike_grad": surrogate.sigmoid(slope=5)},
    "atan": {"spike_grad": surrogate.atan(alpha=1.5), "threshold": 0.6},
    "no leak": {"beta": 1.0},
    "subtracting": {"reset_mechanism": "subtract"},
    "subtracting, other threshold": {"reset_mechanism": "subtract", "beta": 0.8, "threshold": 0.6},
    "no leak, subtracting": {"beta": 1.0, "reset_mechanism": "subtract"},
    "clamped tensor": {"beta": torch.tensor([0.3])},
}


@pytest.mark.parametrize("case", sorted(HIDDEN))
def test_hidden_neurons(case):
    net = Net(all_steps, HIDDEN[case])
    same_network(ndsnn.accelerate(net), net, inputs(T, N, 8))


@pytest.mark.parametrize("reset", ["subtract", "zero", "none"])
def test_output_neurons_are_snntorchs_own(reset):
    net = Net(all_steps, reset_mechanism=reset, learn_beta=True, spike_grad=surrogate.fast_sigmoid())
    fast = ndsnn.accelerate(net)
    same_network(fast, net, inputs(T, N, 8))
    assert fast.get_submodule("lif3").beta.grad is not None


def test_a_potential_on_the_threshold_does_not_fire():
    """`Leaky` fires above the threshold, ndsnn.LIF from it on."""

    class OneNeuron(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.lif, self.two = nn.Linear(1, 1, bias=False), leaky(beta=0.5), nn.Linear(1, 1)
            nn.init.ones_(self.one.weight)
            nn.init.ones_(self.two.weight)
            nn.init.zeros_(self.two.bias)

        def forward(self, x):
            membrane, record = self.lif.reset_mem(), []
            for t in range(3):
                spikes, membrane = self.lif(self.one(x[t]), membrane)
                record.append(self.two(spikes))
            return torch.stack(record)

    net = OneNeuron()
    above = float(np.nextafter(np.float32(1), np.float32(2)))
    x = torch.tensor([[1.0, 0.5, 0.75], [0.5, above - 0.25, 0.0], [0.0, 0.0, 0.0]]).t()[..., None]
    assert net(x).flatten(1).tolist() == ndsnn.accelerate(net)(x).flatten(1).tolist()
    assert net(torch.full((3, 1, 1), 1.0)).flatten().tolist() == [0, 1, 0]


def one_step(norm=True):
    hidden = {"init_hidden": True, "beta": 0.5}
    layers = [nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6) if norm else nn.Identity(), leaky(**hidden)]
    layers += [nn.MaxPool2d(2), nn.Conv2d(6, 6, 3, padding=1), leaky(**hidden), nn.Flatten(), nn.Linear(54, 3)]
    return lively(nn.Sequential(*layers, snn.Leaky(0.5, init_hidden=True, output=True)))


@pytest.mark.parametrize("steps", [None, 4])
def test_a_loop_outside_of_the_network(steps):
    body = one_step(norm=False)
    net = OverTime(body, steps)
    x = inputs(3, 2, 6, 6) if steps else inputs(4, 3, 2, 6, 6)
    same_network(ndsnn.accelerate(net), net, x, once=("net.0", steps) if steps else ("", 1))
    utils.reset(body)
    by_hand = [body(step) for step in (x if steps is None else [x] * steps)]
    spikes, potentials = net(x)
    assert torch.equal(spikes, torch.stack([pair[0] for pair in by_hand]))
    assert torch.equal(potentials, torch.stack([pair[1] for pair in by_hand]))


def test_a_norm_step_by_step_in_evaluation_only():
    net = OverTime(one_step()).eval()
    fast, x = ndsnn.accelerate(net), inputs(4, 3, 2, 6, 6)
    same_network(fast, net, x)
    with pytest.raises(UnsupportedLayerError, match=r"layer 'net.1' \(BatchNorm2d\): in training it takes the"):
        fast.train()(x)


class Hidden(nn.Module):
    """States inside, with or without a reset in forward."""

    def __init__(self, resets):
        super().__init__()
        self.resets = resets
        self.fc1, self.lif1 = nn.Linear(8, 20), leaky(init_hidden=True)
        self.fc2, self.lif2 = nn.Linear(20, 4), leaky(init_hidden=True, threshold=0.3)
        lively(self)

    def forward(self, x):
        if self.resets:
            utils.reset(self)
        return torch.stack([self.lif2(self.fc2(self.lif1(self.fc1(x[t])))) for t in range(T)])


def test_states_inside_that_forward_resets():
    net = Hidden(resets=True)
    net(inputs(T, N, 8))
    kept = net.lif1.mem
    fast = ndsnn.accelerate(net)
    assert net.lif1.mem is kept, "tracing touches no state"
    for _ in range(2):
        same_network(fast, net, inputs(T, N, 8))


def test_states_inside_that_the_script_resets():
    net = Hidden(resets=False)
    fast, x = ndsnn.accelerate(net), inputs(T, N, 8)
    same_network(fast, net, x)
    with pytest.raises(StateError, match=r"layer 'lif1' \(Leaky\) .* call snntorch.utils.reset\(net\)"):
        fast(x)
    same_network(fast, net, x, utils.reset)
    plain = ndsnn.to_dense(fast)
    assert type(plain) is Hidden
    assert list(plain.state_dict()) == list(net.state_dict())
    utils.reset(net)
    assert torch.equal(plain(x), net(x))


def from_none(net, x):
    one, two = net.lif1.reset_mem(), net.lif2.reset_mem()
    three, record = None, []
    for t in range(T):
        fired, (one, two, three) = net.step(x[t], (one, two, three))
        record.append(fired)
    return torch.stack(record), three


def test_an_output_neuron_that_is_given_no_state_goes_on_from_its_own():
    net = Net(from_none, beta=0.99, threshold=5.0)
    fast, x = ndsnn.accelerate(net), inputs(T, N, 8)
    with torch.no_grad():
        membranes = [(net(x)[1], fast(x)[1]) for _ in range(2)]
    for expected, found in membranes:
        torch.testing.assert_close(found, expected)
    assert not torch.equal(membranes[0][0], membranes[1][0])


def test_a_hidden_neuron_that_is_given_no_state_has_to_be_reset():
    def forward(net, x):
        states, record = (None, None, None), []
        for t in range(T):
            fired, states = net.step(x[t], states)
            record.append(fired)
        return torch.stack(record)

    net = Net(forward)
    fast = ndsnn.accelerate(net)
    same_network(fast, net, inputs(T, N, 8))
    with pytest.raises(StateError, match="layer 'lif1'"):
        fast(inputs(T, N, 8))
    same_network(fast, net, inputs(T, N, 8), utils.reset)


def test_a_norm_behind_the_readout_is_torchs_own():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.lif1 = nn.Linear(8, 20), leaky()
            self.fc2, self.norm = nn.Linear(20, 4), nn.BatchNorm1d(4)
            lively(self)

        def forward(self, x):
            membrane, record = self.lif1.reset_mem(), []
            for t in range(T):
                spikes, membrane = self.lif1(self.fc1(x[t]), membrane)
                record.append(self.norm(self.fc2(spikes)))
            return torch.stack(record)

    net = Net()
    same_network(ndsnn.accelerate(net), net, inputs(T, N, 8))


def test_too_few_steps():
    with pytest.raises(ShapeError, match="the network reads 5 steps of its input"):
        ndsnn.accelerate(Net(all_steps))(inputs(T - 1, N, 8))


def test_an_input_that_is_the_same_at_every_step_has_no_steps():
    fast = ndsnn.accelerate(Net(unflattened_input))
    assert fast(inputs(N, 8)).shape == (T, N, 4)
    with pytest.raises(ShapeError, match=r"expects \[N, F\] with at least one sample, got \[5, 6, 8\]"):
        fast(inputs(T, N, 8))


def delayed(net, x):
    membranes, before, record = net.begin(), None, []
    for t in range(T):
        spikes, one = net.lif1(net.fc1(x[t]), membranes[0])
        spikes = spikes if before is None else spikes + before
        before = spikes
        record.append(net.fc3(spikes))
        membranes = (one, *membranes[1:])
    return torch.stack(record)


def hidden_potentials(net, x):
    membranes, record = net.begin(), []
    for t in range(T):
        fired, membranes = net.step(x[t], membranes)
        record.append(membranes[0])
    return torch.stack(record), fired


def one_state_for_all(net, x):
    membranes = net.begin()
    return torch.stack([net.step(x[t], membranes)[0] for t in range(T)])


def some_of_the_steps(net, x):
    membranes, first = net.begin(), None
    for t in range(T):
        fired, membranes = net.step(x[t], membranes)
        first = fired if first is None else first
    return torch.stack([first, fired])


def steps_of_the_input(net, x):
    membranes, record = net.begin(), []
    for t in range(x.size(0)):
        fired, membranes = net.step(x[t], membranes)
        record.append(fired)
    return torch.stack(record)


UNSUPPORTED = {
    "subtract at once": ({"reset_mechanism": "subtract", "reset_delay": False}, "above twice the threshold"),
    "none": ({"reset_mechanism": "none"}, 'no neuron without a reset; use reset_mechanism="zero"'),
    "fast sigmoid": (
        {"spike_grad": surrogate.fast_sigmoid()},
        "no surrogate fast_sigmoid; use snntorch.surrogate",
    ),
    "own surrogate": ({"spike_grad": lambda x: (x > 0).float()}, "no surrogate"),
    "learned beta": ({"learn_beta": True}, "a trained beta"),
    "learned threshold": ({"learn_threshold": True}, "a trained threshold"),
    "beta of each neuron": ({"beta": torch.full((20,), 0.5)}, "a beta for each neuron"),
    "beta 0": ({"beta": 0.0}, "beta=0"),
    "beta above 1": ({"beta": 1.5}, "beta=1.5"),
    "graded spikes": ({"graded_spikes_factor": 2.0}, "graded_spikes_factor=2"),
    "quantised": ({"state_quant": lambda x: x}, "state_quant"),
}


@pytest.mark.parametrize("case", sorted(UNSUPPORTED))
def test_unsupported_neurons(case):
    settings, fragment = UNSUPPORTED[case]
    with pytest.raises(UnsupportedLayerError, match=re.escape(fragment)) as caught:
        ndsnn.accelerate(Net(all_steps, settings))
    assert str(caught.value).startswith("layer 'lif1' (Leaky): ")


LOOPS_REFUSED = {
    "recurrent": (delayed, "reads values of different steps"),
    "hidden potentials": (hidden_potentials, "its membrane potentials are used"),
    "one state for all": (one_state_for_all, "the state that it is given at step 1"),
    "unknown number of steps": (steps_of_the_input, "cannot trace its forward"),
    "one step": (lambda net, x: net.step(x, net.begin())[0], "wrap the network: ndsnn.interop.OverTime(net)"),
    "some of the steps": (some_of_the_steps, "reads values of different steps"),
}


@pytest.mark.parametrize("case", sorted(LOOPS_REFUSED))
def test_unsupported_loops(case):
    forward, fragment = LOOPS_REFUSED[case]
    with pytest.raises(UnsupportedLayerError, match=re.escape(fragment)):
        ndsnn.accelerate(Net(forward))


def test_training_takes_the_same_decisions():
    torch.manual_seed(0)
    net = ndsnn.sparsify(Net(all_steps), 0.3, generator=torch.Generator().manual_seed(1))
    masks, before = [], [handle.mask.clone() for handle in sparse_layers(net)]
    for one in (ndsnn.accelerate(net), net):
        optimizer = torch.optim.SGD(one.parameters(), 0.05, momentum=0.9)
        method = ndsnn.NDSNN(one, optimizer, 0.7, 12, update_every=3)
        source = torch.Generator().manual_seed(7)
        for _ in range(12):
            x, y = torch.randn(T, 8, 8, generator=source), torch.randint(0, 4, (8,), generator=source)
            loss = nn.functional.cross_entropy(one(x)[1].mean(0), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            method.step()
        masks.append([handle.mask for handle in sparse_layers(one)])
    assert all(torch.equal(a, b) for a, b in zip(*masks, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(masks[0], before, strict=True))
