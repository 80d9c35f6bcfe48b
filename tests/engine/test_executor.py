import copy
import gc
import weakref

import pytest
import torch
from arena_backend import ArenaBackend
from engine_nets import close, gradients, inputs, lively, on_arena, same_buffers, same_network, small, tiny
from torch import nn

from ndsnn.engine import executor as executor_module
from ndsnn.engine.executor import Executor
from ndsnn.engine.graph import Graph, Neuron, Readout, Source, Synapse, Term
from ndsnn.engine.lowering import lower
from ndsnn.engine.module import accelerate
from ndsnn.engine.ops import Role
from ndsnn.engine.reference import ReferenceBackend
from ndsnn.errors import ConfigError, ShapeError
from ndsnn.models.layers import (
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool2d,
    RepeatOverTime,
)
from ndsnn.neurons import LIF
from ndsnn.training.activity import ActivityMeter
from ndsnn.training.costs import operations


def block(channels: int = 4, **neuron) -> list[nn.Module]:
    return [Conv2d(4, channels, 3, padding=1, bias=False), BatchNorm2d(channels), LIF(**neuron)]


@pytest.fixture
def made():
    """All arenas made during the test."""
    ArenaBackend.made.clear()
    yield ArenaBackend.made
    ArenaBackend.made.clear()


class Branching(nn.Module):
    """Everything a gradient can meet: fan-out, sums with and without synapses, pools that share their source."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), RepeatOverTime(3), LIF())
        self.left = nn.Sequential(Conv2d(4, 4, 3, padding=1), BatchNorm2d(4, momentum=None))
        self.right = nn.Sequential(Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False))
        self.sum = LIF(tau=2.0)
        self.plain = LIF(v_reset=None)
        self.maximum = MaxPool2d(2)
        self.average = nn.AvgPool2d(2)
        self.after = LIF(decay_input=False)
        self.flatten = Flatten()
        self.wide = Linear(4 * 3 * 3, 4 * 3 * 3)
        self.wide_norm = nn.BatchNorm1d(4 * 3 * 3)
        self.last = LIF(detach_reset=False, surrogate="sigmoid")
        self.readout = Linear(4 * 3 * 3, 5)

    def forward(self, x):
        a = self.first(x)
        b = self.sum(self.left(a) + self.right(a) + a)
        c = self.plain(a + b + a)
        d = self.after(self.maximum(c) + self.average(c) + self.maximum(b))
        e = self.flatten(d)
        return self.readout(self.last(self.norm(self.wide(e)) + e))

    def norm(self, x):
        return self.wide_norm(x)


class PerStep(nn.Module):
    """The same with a BatchNorm1d and an AvgPool2d that take [T, N, *], for torch itself to run."""

    def __init__(self, net: Branching) -> None:
        super().__init__()
        self.net = net

    def forward(self, x):
        net = self.net
        fold = lambda layer, v: layer(v.flatten(0, 1)).unflatten(0, v.shape[:2])  # noqa: E731
        current = net.first[1](net.first[0](x)) if x.ndim == 4 else fold(net.first[1], net.first[0](x))
        a = net.first[3](net.first[2](current))
        left = fold(net.left[1], net.left[0](a))
        b = net.sum(left + fold(net.right[1], net.right[0](a)) + a)
        c = net.plain(a + b + a)
        d = net.after(net.maximum(c) + fold(net.average, c) + net.maximum(b))
        e = net.flatten(d)
        return net.readout(net.last(fold(net.wide_norm, net.wide(e)) + e))


@pytest.mark.parametrize("memory", ["store", "recompute"])
@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(2, 2, 6, 7), (3, 2, 2, 6, 7)])
def test_every_kind_of_branch(memory, in_place, training, shape):
    torch.manual_seed(0)
    plain = lively(Branching()).train(training)
    accelerated = on_arena(plain, memory, in_place)
    for seed in range(2):
        x = inputs(*shape, seed=seed)
        logits, found = gradients(accelerated, x)
        expected_logits, expected = gradients(PerStep(plain), x)
        assert expected_logits.abs().max() > 0.1
        close(logits, expected_logits)
        for name, gradient in found.items():
            wanted = expected[name if name == "input" else f"net.{name}"]
            close(gradient, wanted.view_as(gradient), name)
    same_buffers(accelerated, plain)


def test_in_place_was_used():
    """Otherwise the test above says nothing about it."""
    written = []

    class Watching(ReferenceBackend):
        def synapse_backward(self, current, grad_x, affine, grad_source, accumulate, dense):
            written.append(grad_source is grad_x)
            return super().synapse_backward(current, grad_x, affine, grad_source, accumulate, dense)

    net = tiny(*block(), *block())
    runner = Executor(lower(net), Watching, torch.float32, "store")
    net.float()
    runner.run(net, inputs(2, 2, 5, 5).float()).sum().backward()
    assert written == [False, True, True, False]


@pytest.mark.parametrize("time_steps", [1, 2, 4])
def test_any_number_of_steps(time_steps):
    net = small("vgg", time_steps)
    same_network(on_arena(net), net, inputs(2, 3, 9, 8))
    same_network(on_arena(net), net, inputs(time_steps, 2, 3, 8, 9))


def test_repeated_image_and_neurons_without_a_synapse():
    torch.manual_seed(0)
    head = [AdaptiveAvgPool2d(1), Flatten(), Linear(4, 5)]
    net = lively(nn.Sequential(RepeatOverTime(3), Conv2d(2, 4, 3), BatchNorm2d(4), LIF(), LIF(), *head))
    same_network(on_arena(net), net, inputs(2, 2, 5, 5))
    net = lively(nn.Sequential(RepeatOverTime(3), LIF(v_threshold=0.3), Conv2d(2, 4, 3), LIF(), *head))
    same_network(on_arena(net), net, inputs(2, 2, 5, 5))


def test_conv_readout_gives_a_map():
    net = lively(nn.Sequential(*list(tiny())[:4], Conv2d(4, 3, 1)))
    same_network(on_arena(net), net, inputs(2, 2, 5, 4))
    assert on_arena(net)(inputs(2, 2, 5, 4)).shape == (3, 2, 3, 5, 4)


@pytest.mark.parametrize("memory", ["store", "recompute"])
def test_frozen_parameters_get_no_gradient(memory):
    for frozen in ("0.weight", "4.weight", "5.", "12."):
        plain = tiny(*block(), *block())
        for name, parameter in plain.named_parameters():
            parameter.requires_grad_(not name.startswith(frozen))
        same_network(on_arena(plain, memory), plain, inputs(2, 2, 5, 5))


def test_only_the_input_wants_a_gradient():
    plain = tiny(*block()).requires_grad_(False)
    same_network(on_arena(plain), plain, inputs(2, 2, 5, 5))


def test_only_the_readout_is_trained():
    plain = tiny(*block()).requires_grad_(False)
    plain[-1].requires_grad_()
    accelerated, x = on_arena(plain), inputs(2, 2, 5, 5)
    accelerated(x).square().sum().backward()
    plain(x).square().sum().backward()
    close(accelerated.get_submodule("9").weight.grad.view(5, 4), plain[-1].weight.grad)
    assert all(p.grad is None for name, p in accelerated.named_parameters() if name != "9.weight")


def test_norm_in_evaluation_while_the_rest_is_trained():
    plain = small("vgg")
    accelerated = on_arena(plain)
    for net in (plain, accelerated):
        net.train().get_submodule("features.6").eval()
    same_network(accelerated, plain, inputs(2, 3, 8, 8))


def test_two_forwards_before_a_backward():
    plain = small("vgg")
    accelerated = on_arena(plain)
    first, second = inputs(2, 3, 8, 8, seed=1), inputs(2, 3, 8, 8, seed=2)
    for order in ((0, 1), (1, 0)):
        found = []
        for net in (accelerated, plain):
            net.zero_grad()
            logits = [net(first), net(second)]
            for i in order:
                logits[i].square().sum().backward()
            found.append([p.grad for p in net.parameters()])
        for one, other, module in zip(*found, plain.parameters(), strict=True):
            if one.shape == module.shape:
                close(one, other)
        weight = accelerated.get_submodule("features.0")
        close(
            weight.weight.grad, plain.get_submodule("features.0").weight.grad.flatten()[weight.active_positions()]
        )


def test_sum_of_two_uses_in_one_backward():
    plain = small("vgg").eval()
    accelerated = on_arena(plain)
    x = inputs(2, 3, 8, 8)
    _, once = gradients(accelerated, x)
    accelerated.zero_grad()
    grad = inputs(3, 2, 7, seed=2)
    ((accelerated(x) + accelerated(x)) * grad).sum().backward()
    for name, parameter in accelerated.named_parameters():
        close(parameter.grad, 2 * once[name], name)


class TestArenas:
    def test_one_is_enough_for_step_after_step(self, made):
        accelerated = on_arena(small("vgg"))
        for _ in range(3):
            accelerated(inputs(2, 3, 8, 8)).sum().backward()
            with torch.no_grad():
                accelerated(inputs(2, 3, 8, 8))
        assert len(made) == 1

    def test_it_comes_back_when_the_graph_is_forgotten(self, made):
        accelerated = on_arena(small("vgg"))
        for _ in range(3):
            logits = accelerated(inputs(2, 3, 8, 8))
            del logits
            gc.collect()
        assert len(made) == 1

    def test_it_comes_back_after_an_error(self, made):
        accelerated = on_arena(small("vgg"))
        for _ in range(2):
            with pytest.raises(ShapeError, match="one value per channel"):
                accelerated(inputs(1, 3, 2, 2)[:, :, :1, :1])
            gc.collect()
        assert len(made) == 1

    def test_each_forward_under_way_has_its_own(self, made):
        accelerated = on_arena(small("vgg"))
        logits = [accelerated(inputs(2, 3, 8, 8)) for _ in range(3)]
        assert len(made) == 3
        for one in logits:
            one.sum().backward()
        accelerated(inputs(2, 3, 8, 8))
        assert len(made) == 3

    def test_idle_ones_of_another_batch_size_are_given_up(self, made):
        accelerated = on_arena(small("vgg")).eval()
        for samples in (2, 3, 2):
            with torch.no_grad():
                accelerated(inputs(samples, 3, 8, 8))
        assert [one.samples for one in made] == [2, 3, 2]

    def test_evaluation_takes_less(self, made):
        net = small("vgg")
        accelerated = on_arena(net)
        with torch.no_grad():
            accelerated.eval()(inputs(2, 3, 8, 8))
        less = made[0].arena.nbytes
        accelerated.train()(inputs(2, 3, 8, 8))
        assert made[0].arena.nbytes > 2 * less


def test_evaluation_holds_only_maps_that_are_still_to_be_read():
    """The reference's maps are tensors of their own; more than three at a time would be hoarding in a chain."""
    alive = []

    class Counting(ReferenceBackend):
        def floats(self, shape, offset=0, role=Role.VALUES):
            made = super().floats(shape, offset, role)
            alive.append(weakref.ref(made))
            assert sum(one() is not None for one in alive) <= 3
            return made

    net = small("vgg16").float().eval()
    with torch.no_grad():
        Executor(lower(net), Counting, torch.float32).run(net, inputs(2, 3, 16, 16).float())
    assert len(alive) > 13


class TestAutograd:
    def test_second_backward_says_so(self):
        accelerated = on_arena(small("vgg"))
        loss = accelerated(inputs(2, 3, 8, 8)).sum()
        loss.backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            loss.backward()
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            loss.backward()

    def test_no_second_derivative(self):
        accelerated = on_arena(small("vgg"))
        x = inputs(2, 3, 8, 8).requires_grad_()
        with pytest.raises(RuntimeError, match="no second derivatives"):
            torch.autograd.grad(accelerated(x).sum(), x, create_graph=True)

    def test_parameter_changed_before_the_backward(self):
        accelerated = on_arena(small("vgg"))
        loss = accelerated(inputs(2, 3, 8, 8)).sum()
        with torch.no_grad():
            next(accelerated.parameters()).mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()

    def test_no_grad_gives_the_same_and_no_graph(self):
        plain = small("vgg")
        accelerated, x = on_arena(plain), inputs(2, 3, 8, 8)
        with torch.no_grad():
            logits = accelerated(x)
        assert not logits.requires_grad
        close(logits, plain(x).detach())
        same_buffers(accelerated, plain)

    def test_training_goes_on_after_inference_mode(self):
        plain = small("vgg")
        accelerated, x = accelerate(plain), inputs(2, 3, 8, 8)
        with torch.inference_mode():
            close(accelerated(x), plain(x))
        same_network(accelerated, plain, x)

    def test_new_values_are_seen_however_they_were_written(self):
        plain = small("vgg").eval()
        accelerated, x = on_arena(plain), inputs(2, 3, 8, 8)
        accelerated(x)
        for net in (plain, accelerated):
            net.get_submodule("classifier").weight.data.mul_(-1)
        close(accelerated(x).detach(), plain(x).detach())


class TestTopology:
    def test_connections_are_made_once_for_a_topology_and_size(self):
        asked = []

        class Asked(ArenaBackend):
            def connections(self, synapse, height, width, positions):
                asked.append(synapse.layer)
                return super().connections(synapse, height, width, positions)

        net = small("vgg")
        accelerated = on_arena(net)
        runner = Executor(accelerated.graph, Asked, torch.float64)
        for samples in (2, 2, 3):
            runner.run(accelerated, inputs(samples, 3, 8, 8))
        assert sorted(asked) == sorted(s.layer for s in accelerated.graph.synapses())
        layer = accelerated.get_submodule("features.5")
        layer.rearrange(layer.active_positions()[1:])
        asked.clear()
        runner.run(accelerated, inputs(2, 3, 8, 8))
        assert asked == ["features.5"]
        asked.clear()
        runner.run(accelerated, inputs(2, 3, 10, 10))
        assert len(asked) == len(accelerated.graph.synapses()) - 1

    def test_rewired_layer(self):
        plain = small("vgg")
        accelerated, x = on_arena(plain), inputs(2, 3, 8, 8)
        gradients(accelerated, x)
        gradients(plain, x)
        layer = accelerated.get_submodule("features.5")
        keep = layer.active_positions()[::2].clone()
        layer.rearrange(keep)
        mask = torch.zeros_like(plain.get_submodule("features.5").weight, dtype=torch.bool)
        mask.view(-1)[keep] = True
        plain.get_submodule("features.5").weight.data.masked_fill_(~mask, 0)
        same_network(accelerated, plain, x)

    def test_dense_gradient_goes_to_whoever_asks(self):
        plain = small("vgg")
        accelerated, x = on_arena(plain), inputs(2, 3, 8, 8)
        collected: dict[str, list] = {"features.5": [], "classifier": []}
        for name, pieces in collected.items():
            layer = accelerated.get_submodule(name)
            layer.watcher = lambda pieces=pieces: lambda first, piece: pieces.append((first, piece.clone()))
        gradients(accelerated, x)
        gradients(plain, x)
        for name, pieces in collected.items():
            dense = torch.cat([piece for _, piece in pieces])
            assert pieces[0][0] == 0
            assert dense.ndim == 4
            close(dense.view_as(plain.get_submodule(name).weight), plain.get_submodule(name).weight.grad)

    def test_nobody_asks_for_a_frozen_layer(self):
        accelerated = on_arena(small("vgg"))
        layer = accelerated.get_submodule("features.5")
        layer.weight.requires_grad_(False)
        layer.watcher = lambda: pytest.fail("asked")
        accelerated(inputs(2, 3, 8, 8)).sum().backward()


class TestMemoryModes:
    def test_programs_are_kept(self, monkeypatch):
        made = []
        real = executor_module.make_program
        monkeypatch.setattr(executor_module, "make_program", lambda *a: made.append(a) or real(*a))
        net = tiny(*block())
        accelerated = on_arena(net)
        for _ in range(3):
            accelerated(inputs(2, 2, 5, 5))
        assert len(made) == 1
        accelerated.eval()(inputs(2, 2, 5, 5))
        accelerated(inputs(3, 2, 5, 5))
        accelerated(inputs(2, 2, 5, 5).requires_grad_())
        with torch.no_grad():
            accelerated(inputs(2, 2, 5, 5))
        assert len(made) == 5
        for samples in range(1, 2 * executor_module.KEPT_PROGRAMS):
            accelerated(inputs(samples, 2, 5, 5))
        assert len(accelerated._executor._programs) == executor_module.KEPT_PROGRAMS

    @pytest.mark.parametrize(("available", "stored"), [(None, True), (2**40, True), (1000, False)])
    def test_auto_stores_what_fits(self, available, stored, monkeypatch, made):
        monkeypatch.setattr(executor_module, "available_memory", lambda: available)
        sizes = {}
        for memory in ("auto", "store", "recompute"):
            made.clear()
            on_arena(small("vgg"), memory)(inputs(2, 3, 8, 8))
            sizes[memory] = made[0].arena.nbytes
        assert sizes["recompute"] < sizes["store"]
        assert sizes["auto"] == sizes["store" if stored else "recompute"]

    def test_auto_asks_the_back_end(self, made):
        class Mixed(ArenaBackend):
            def prefers_stored(self, connections):
                return connections.synapse.layer == "features.0"

        net = small("vgg")
        sizes = []
        for memory in ("store", "auto", "recompute"):
            made.clear()
            Executor(lower(net), Mixed, torch.float64, memory).run(net, inputs(2, 3, 8, 8))
            sizes.append(made[0].arena.nbytes)
        assert sizes[0] > sizes[1] > sizes[2]

    def test_plans_do_not_change_what_is_computed(self):
        net, x = small("resnet19"), inputs(2, 3, 16, 16)
        results = [
            gradients(on_arena(net, memory, place), x) for memory in ("store", "recompute") for place in (0, 1)
        ]
        for logits, found in results[1:]:
            assert torch.equal(logits, results[0][0])
            assert all(torch.equal(found[name], gradient) for name, gradient in results[0][1].items())


class Recorder:
    def __init__(self) -> None:
        self.neurons, self.inputs = {}, {}

    def on_neuron(self, path, spikes, chances):
        assert path not in self.neurons
        self.neurons[path] = (spikes, chances)

    def on_input(self, layer, counts, spiking, samples):
        assert layer not in self.inputs
        self.inputs[layer] = (counts, spiking, samples)


@pytest.mark.parametrize("name", ["vgg", "resnet19", "lenet5"])
@pytest.mark.parametrize("events", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_observer_is_told_what_the_meter_sees(name, events, grad):
    plain = small(name).eval()
    accelerated = on_arena(plain)
    x = inputs(3, 2, 3, 16, 16).gt(0.5).double() if events else inputs(2, 3, 16, 16)
    accelerated.observer = recorder = Recorder()
    meter = ActivityMeter(plain)
    with torch.set_grad_enabled(grad), meter.counting():
        accelerated(x)
        plain(x)
    meter.flush()
    assert {path: (n.spikes, n.chances) for path, n in meter.neurons.items()} == recorder.neurons
    assert any(spikes for spikes, _ in recorder.neurons.values())
    assert set(meter.synapses) == set(recorder.inputs)
    first = accelerated.graph.synapses()[0].layer
    for layer, (counts, spiking, samples) in recorder.inputs.items():
        module = plain.get_submodule(layer)
        seen = meter.synapses[layer]
        assert samples == (2 if layer == first and not events else 6)
        assert counts.dtype == torch.int64
        assert spiking == seen.spiking, layer
        assert operations(module, counts.flatten() if isinstance(module, nn.Linear) else counts) == seen.operations


def test_spikes_are_counted_before_the_pool():
    net = tiny(*block(), MaxPool2d(4))
    accelerated = on_arena(net)
    accelerated.observer = recorder = Recorder()
    accelerated(inputs(2, 2, 8, 8))
    spikes, chances = recorder.neurons["6"]
    assert chances == 3 * 2 * 4 * 8 * 8
    assert spikes > chances // 16


class TestChecks:
    def test_dtype_and_device(self):
        net = small("vgg")
        accelerated = on_arena(net)
        with pytest.raises(ConfigError, match=r"the input is torch\.float32"):
            accelerated(inputs(2, 3, 8, 8).float())
        with pytest.raises(ConfigError, match=r"the input is .* on meta"):
            accelerated(torch.empty(2, 3, 8, 8, dtype=torch.float64, device="meta"))
        accelerated.get_submodule("features.5").float()
        with pytest.raises(ConfigError, match=r"layer 'features\.5' or its norm is torch\.float32"):
            accelerated(inputs(2, 3, 8, 8))

    @pytest.mark.parametrize("shape", [(2, 4, 8, 8), (2, 2, 3, 8, 8)])
    def test_shapes(self, shape):
        with pytest.raises(ShapeError):
            on_arena(small("vgg"))(inputs(*shape))


def test_plan_made_by_hand_runs_on_a_plain_network():
    """The executor needs no compressed layers: a weight without positions is dense."""
    net = nn.ModuleDict(
        {"conv": nn.Conv2d(1, 2, 3, padding=1), "neuron": LIF(), "out": nn.Conv2d(2, 1, 1)}
    ).double()
    graph = Graph(
        (
            Source(),
            Neuron("neuron", LIF().config, (Term(0, Synapse("conv", 2, 1, (3, 3), padding=(1, 1))),)),
            Readout(Term(1, Synapse("out", 1, 2))),
        ),
        time_steps=2,
    )
    net["conv"].weight.data.mul_(5)
    x = inputs(2, 1, 4, 4)
    logits = Executor(graph, ArenaBackend, torch.float64).run(net, x)
    spikes = net["neuron"](net["conv"](x).expand(2, 2, 2, 4, 4))
    close(logits.detach(), net["out"](spikes.flatten(0, 1)).unflatten(0, (2, 2)).detach())
    logits.sum().backward()
    assert net["conv"].weight.grad.shape == (2, 1, 3, 3)


def test_copies_start_afresh():
    runner = Executor(lower(small("vgg")), ArenaBackend, torch.float64)
    net = small("vgg")
    runner.run(net, inputs(2, 3, 8, 8))
    other = copy.deepcopy(runner)
    assert other.graph == runner.graph
    assert not other._programs
    close(other.run(net.eval(), inputs(2, 3, 8, 8)).detach(), runner.run(net, inputs(2, 3, 8, 8)).detach())
