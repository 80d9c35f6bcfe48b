"""Plain PyTorch on other devices and in other precisions, as far as a CPU can tell."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny_runs import elsewhere, quiet, require_same_run, rows
from torch import nn

import ndsnn
from ndsnn import neurons
from ndsnn.errors import ConfigError, NonFiniteError
from ndsnn.training.build import build
from ndsnn.training.device import MixedPrecision, resolve_device
from ndsnn.training.loop import Trainer
from ndsnn.training.run import train
from ndsnn.training.run_directory import RunDirectory


def parts(method="rigl"):
    torch.manual_seed(0)
    net = ndsnn.models.vgg([8, "M", 16, "M"], 10, 3, 1)
    ndsnn.sparsify(net, 0.6, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    return net, optimizer, ndsnn.methods[method](net, optimizer, 0.6, 8, update_every=2, stop_fraction=1)


@pytest.mark.parametrize("name", ["cuda", "cuda:7", "meta", "nonsense"])
def test_a_device_that_is_not_there(tiny, name):
    if name == "cuda" and torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ConfigError, match=f"device '{name}'"):
        train(replace(tiny, engine="auto", device=name), quiet())
    assert not Path(tiny.output).exists()


@pytest.mark.parametrize("changes", [{"amp": "bf16"}, {"amp": "fp16"}, {"channels_last": True}, {"compile": True}])
def test_what_the_native_engine_does_not_have(tiny, changes):
    with pytest.raises(ConfigError, match="engine native has no"):
        build(replace(tiny, engine="native", **changes))
    engine = build(replace(tiny, engine="auto", **changes)).engine
    assert (engine.name, engine.instruction_set) == ("reference", None)
    assert "was asked for" in engine.reason


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_runs_of_16_bits_learn_and_resume_bit_equal(tiny, run_until, amp):
    config = replace(tiny, amp=amp, epochs=3)
    run_until(config)
    wide = train(elsewhere(tiny, "wide", epochs=3), quiet())
    summary = json.loads((Path(config.output) / "summary.json").read_text())
    losses = [row["train_loss"] for row in rows(Path(config.output), "metrics.jsonl")]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == pytest.approx(
        rows(Path(wide["config"]["output"]), "metrics.jsonl")[-1]["train_loss"], abs=0.1
    )
    assert summary["final_sparsity"] == pytest.approx(0.8, abs=1e-3)
    stopped = elsewhere(config, "stopped")
    for step in (3, 9):
        run_until(replace(stopped, resume=step > 3), step)
    run_until(replace(stopped, resume=True))
    require_same_run(Path(config.output), Path(stopped.output))


def test_autocast_computes_convolutions_in_16_bits_and_potentials_in_32():
    net, *_ = parts()
    seen = {}
    for name, module in net.named_modules():
        if isinstance(module, (nn.Conv2d, ndsnn.LIF)):
            module.register_forward_hook(lambda m, x, y, name=name: seen.update({name: y.dtype}))
    with torch.autocast("cpu", torch.bfloat16):
        net(torch.rand(2, 1, 8, 8))
    kinds = {type(net.get_submodule(name)): dtype for name, dtype in seen.items()}
    assert {kinds[ndsnn.models.layers.Conv2d], kinds[ndsnn.LIF]} == {torch.bfloat16, torch.float32}


class TestScaledLoss:
    """A gradient scaler around rounds of growth."""

    def step(self, net, optimizer, rewire, precision, factor=1.0):
        source = torch.Generator().manual_seed(rewire.steps_done)
        x, y = torch.rand(4, 1, 8, 8, generator=source), torch.arange(4)
        optimizer.zero_grad()
        precision.backward(factor * ndsnn.losses.mean_step_cross_entropy(net(x), y))
        if precision.step():
            return rewire.step()
        for layer in rewire.layers:
            layer.release_gradient()
        return None

    def test_scores_go_without_the_scale(self):
        """DST-EE adds an exploration term to |∂L/∂w|, so a scale that stayed in would decide what grows."""
        masks = []
        for kind in ("off", "fp16"):
            net, optimizer, rewire = parts("dst-ee")
            precision = MixedPrecision(kind, torch.device("cpu"), optimizer, rewire)
            for _ in range(6):
                self.step(net, optimizer, rewire, precision)
            masks.append(torch.cat([mask.flatten() for mask in rewire.masks()]))
        assert torch.equal(*masks)

    def test_an_overflow_leaves_the_step_out(self):
        net, optimizer, rewire = parts()
        precision = MixedPrecision("fp16", torch.device("cpu"), optimizer, rewire)
        self.step(net, optimizer, rewire, precision)
        before = [p.detach().clone() for p in net.parameters()]
        masks = [mask.clone() for mask in rewire.masks()]
        assert self.step(net, optimizer, rewire, precision, 1e36) is None
        assert rewire.steps_done == 1
        assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
        assert all(torch.equal(a, b) for a, b in zip(masks, rewire.masks(), strict=True))
        assert precision.state_dict()["scale"] == 2.0**15
        assert self.step(net, optimizer, rewire, precision) is not None

    def test_an_overflow_at_inactive_places_alone_counts(self):
        net, optimizer, rewire = parts()
        precision = MixedPrecision("fp16", torch.device("cpu"), optimizer, rewire)
        self.step(net, optimizer, rewire, precision)
        layer = rewire.layers[1]
        dead = ~layer.mask
        layer.weight.register_hook(lambda gradient: gradient.masked_fill(dead, torch.inf))
        assert self.step(net, optimizer, rewire, precision) is None
        assert rewire.steps_done == 1

    def test_without_end_it_stops(self, tiny):
        config = replace(tiny, amp="fp16")
        run = RunDirectory(config.output)
        trainer = Trainer(config, build(config), run, quiet())
        run.create("{}")
        trainer.net.register_forward_hook(lambda m, x, y: y.register_hook(lambda g: g * torch.nan) and None)
        trainer.total_steps = trainer.steps_per_epoch = 10**6
        trainer.precision.load_state_dict(trainer.precision.state_dict() | {"scale": 2.0**-13})
        with pytest.raises(NonFiniteError, match="though the loss is scaled by"):
            trainer.train()


def test_channels_last_gives_the_same_step():
    """In float64, where no rounding tips a spike over: gradients, growth and the state dict."""
    states = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        net, optimizer, rewire = parts()
        net.double().to(memory_format=memory_format)
        source = torch.Generator().manual_seed(5)
        for _ in range(4):
            x = torch.rand(4, 1, 8, 8, generator=source, dtype=torch.float64)
            optimizer.zero_grad()
            ndsnn.losses.mean_step_cross_entropy(
                net(x.to(memory_format=memory_format)), torch.arange(4)
            ).backward()
            optimizer.step()
            rewire.step()
        states.append((net.state_dict(), rewire.masks()))
    (state, masks), (other, other_masks) = states
    assert all(torch.equal(a, b) for a, b in zip(masks, other_masks, strict=True))
    for key in state:
        torch.testing.assert_close(other[key], state[key], rtol=1e-9, atol=1e-12)


def test_a_run_in_channels_last(tiny):
    summary = train(replace(tiny, channels_last=True), quiet())
    assert summary["test_accuracy"] > 0.1


@pytest.mark.parametrize(("backend", "reset"), [("inductor", 0.0), ("aot_eager", 0.1), ("aot_eager", None)])
def test_fused_neurons_are_neurons(monkeypatch, backend, reset):
    """Spikes and gradients as without."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    neurons._fused.cache_clear()
    plain, fused = (nn.Sequential(ndsnn.LIF(v_reset=reset, detach_reset=False)).double() for _ in range(2))
    neurons.fuse_neurons(fused)
    drawn = torch.randn(4, 2, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    inputs = [drawn.clone().requires_grad_() for _ in range(2)]
    outputs = [net(x) for net, x in zip((plain, fused), inputs, strict=True)]
    assert torch.equal(*outputs)
    for y in outputs:
        (y * torch.arange(y.numel()).view(y.shape)).sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-12, atol=1e-12)
    neurons._fused.cache_clear()


def test_a_compiled_network_is_trained_and_rewired():
    """`torch.compile` of the whole masked network in a loop of one's own: the same topology as without."""
    masks = []
    for compiled in (False, True):
        net, optimizer, rewire = parts()
        net.double()
        call = torch.compile(net, backend="aot_eager") if compiled else net
        source = torch.Generator().manual_seed(5)
        for _ in range(6):
            x = torch.rand(4, 1, 8, 8, generator=source, dtype=torch.float64)
            optimizer.zero_grad()
            ndsnn.losses.mean_step_cross_entropy(call(x), torch.arange(4)).backward()
            optimizer.step()
            rewire.step()
        masks.append(rewire.masks())
    assert all(torch.equal(a, b) for a, b in zip(*masks, strict=True))


def test_cuda_names_the_device_of_this_process(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert resolve_device("cuda") == torch.device("cuda", 3)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
