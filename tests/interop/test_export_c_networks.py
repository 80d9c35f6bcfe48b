"""The exported C against the network in torch: float32 within rounding, int8 to the bit with the Python model."""

import functools
import shutil
import subprocess

import numpy as np
import pytest
import torch
from c_programs import SANITIZERS, awake, build, observe

import ndsnn
from ndsnn.data.augment import normalise
from ndsnn.interop.export.c import floats, generate, plan_program, quantize, run_integers, write_c
from ndsnn.interop.export.c.source import PixelScale
from ndsnn.interop.export.folding import fold

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")

SOFT = {"v_reset": None, "tau": 2.0}
SHIFTED = {"v_reset": -0.3, "v_threshold": 0.8, "decay_input": False, "tau": 3.0}
LAYERS = [12, "M", 16, "M", 300, "M"]


def vgg(**kwargs):
    return ndsnn.models.vgg(LAYERS, num_classes=7, **kwargs)


NETWORKS = {
    "vgg": (lambda: vgg(time_steps=5), (3, 16, 16)),
    "vgg odd size, soft reset": (lambda: vgg(time_steps=3, neuron=SOFT), (3, 17, 13)),
    "vgg16": (lambda: ndsnn.models.vgg16(time_steps=1, width=0.06), (3, 32, 32)),
    "lenet5": (lambda: ndsnn.models.lenet5(time_steps=5, in_channels=1), (1, 28, 28)),
    "lenet5 large, soft reset": (lambda: ndsnn.models.lenet5(time_steps=2, neuron=SOFT, width=0.5), (3, 37, 33)),
    "resnet19": (lambda: ndsnn.models.resnet19(time_steps=5, width=0.05, neuron=SOFT), (3, 9, 9)),
    "resnet19 tdbn": (lambda: ndsnn.models.resnet19_tdbn(time_steps=2, width=0.04, neuron=SHIFTED), (3, 8, 8)),
}


@functools.cache
def network(name):
    make, shape = NETWORKS[name]
    torch.manual_seed(1)
    net = make()
    ndsnn.sparsify(net, 0.7)
    return awake(net, shape), shape


@pytest.mark.parametrize("name", NETWORKS)
def test_floats_are_those_of_torch(name, tmp_path):
    net, shape = network(name)
    x = torch.randn(3, *shape)
    logits, spikes = observe(net, x)
    ran = build(floats(plan_program(fold(net, shape))), tmp_path).run(x.numpy())
    np.testing.assert_array_equal(ran.spikes, spikes)
    np.testing.assert_allclose(ran.logits, logits, atol=1e-5, rtol=1e-4)
    assert (spikes.sum(0) > 0).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_integers_are_those_of_the_python_model(name, tmp_path):
    net, shape = network(name)
    x = torch.randn(3, *shape)
    program = quantize(plan_program(fold(net, shape)), 2.5)
    expected = run_integers(program, x)
    ran = build(program, tmp_path).run(x.numpy())
    np.testing.assert_array_equal(ran.spikes, np.stack(list(expected.spikes.values()), 1))
    np.testing.assert_array_equal(ran.logits, expected.logits)
    assert len(np.unique(ran.logits)) > 3


@pytest.mark.parametrize("name", ["vgg odd size, soft reset", "resnet19"])
@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_sanitizers_find_nothing(name, kind, tmp_path):
    net, shape = network(name)
    planned = plan_program(fold(net, shape))
    program = floats(planned) if kind == "fp32" else quantize(planned, 2.5)
    x = torch.randn(2, *shape)
    x[0, 0, 0, :4] = torch.tensor([float("inf"), -float("inf"), 1e30, -1e30])
    x[1, 0, 0, 0] = float("nan")
    plain = build(program, tmp_path / "plain").run(x.numpy())
    checked = build(program, tmp_path / "checked", flags=SANITIZERS).run(x.numpy())
    np.testing.assert_array_equal(plain.spikes, checked.spikes)
    np.testing.assert_array_equal(plain.logits, checked.logits)


@pytest.mark.parametrize("flags", [("-Os",), ("-O3", "-std=gnu11")])
def test_other_flags_give_the_same_integers(flags, tmp_path):
    net, shape = network("lenet5")
    program = quantize(plan_program(fold(net, shape)), 2.5)
    x = torch.randn(2, *shape)
    ran = build(program, tmp_path, flags=flags).run(x.numpy())
    np.testing.assert_array_equal(ran.logits, run_integers(program, x).logits)


@pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang")
@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_clang_has_nothing_to_say(kind, tmp_path):
    net, shape = network("resnet19")
    planned = plan_program(fold(net, shape))
    program = floats(planned) if kind == "fp32" else quantize(planned, 2.5)
    build(program, tmp_path, compiler="clang").run(np.zeros((1, *shape), np.float32))


@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_events_step_by_step(kind, tmp_path):
    net, shape = network("vgg")
    x = torch.randint(0, 3, (5, 1, *shape)).float()
    planned = plan_program(fold(net, shape, events=True))
    if kind == "fp32":
        program, (logits, spikes) = floats(planned), observe(net, x)
    else:
        program = quantize(planned, 4.0)
        expected = run_integers(program, x)
        logits, spikes = expected.logits, np.stack(list(expected.spikes.values()), 1)
    ran = build(program, tmp_path).run(x[:, 0].numpy(), "step")
    np.testing.assert_array_equal(ran.spikes, spikes)
    np.testing.assert_allclose(ran.logits, logits, atol=1e-5 if kind == "fp32" else 0, rtol=0)


def test_the_same_image_at_every_step_is_the_image(tmp_path):
    net, shape = network("lenet5")
    compiled = build(quantize(plan_program(fold(net, shape)), 2.5), tmp_path)
    x = torch.randn(1, *shape).numpy()
    once, stepwise = compiled.run(x), compiled.run(np.repeat(x, 5, 0), "step")
    np.testing.assert_array_equal(once.logits, stepwise.logits)
    np.testing.assert_array_equal(once.spikes, stepwise.spikes)


@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_pixels_are_normalised_as_in_training(kind, tmp_path):
    net, shape = network("vgg")
    pixels = PixelScale((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    planned = plan_program(fold(net, shape))
    program = floats(planned) if kind == "fp32" else quantize(planned, pixels.largest)
    images = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    x = normalise(images, pixels.mean, pixels.std)
    assert x.abs().max() <= pixels.largest
    compiled = build(program, tmp_path, pixels=pixels)
    from_pixels, from_floats = compiled.run(images.numpy(), "pixels"), compiled.run(x.numpy())
    np.testing.assert_array_equal(from_pixels.logits, from_floats.logits)
    np.testing.assert_array_equal(from_pixels.spikes, from_floats.spikes)


def test_operations_are_the_alive_weights_that_spikes_reach(tmp_path):
    net, shape = network("vgg16")
    x = torch.randn(2, *shape)
    sent = {}

    def count(module, inputs):
        alive = (module.weight != 0).float()
        x = inputs[0].flatten(0, 1) if inputs[0].ndim in (3, 5) else inputs[0]
        if alive.ndim == 4:
            reached = torch.nn.functional.conv2d((x != 0).float(), alive, None, module.stride, module.padding)
        else:
            reached = (x != 0).float() @ alive.T
        sent[module] = reached.flatten(1).sum(1).view(-1, 2).sum(0).to(torch.int64)

    hooks = [
        m.register_forward_pre_hook(count)
        for m in net.modules()
        if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)
    ]
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    ran = build(floats(plan_program(fold(net, shape))), tmp_path).run(x.numpy())
    np.testing.assert_array_equal(ran.operations, torch.stack(list(sent.values()), 1).numpy())


def test_no_symbols_of_an_operating_system(tmp_path):
    net, shape = network("resnet19")
    planned = plan_program(fold(net, shape))
    pixels = PixelScale((0.5,) * 3, (0.25,) * 3)
    # As for a board: at a fixed address, so that tables of pointers need no relocation either.
    command = ["gcc", "-std=c99", "-O2", "-fno-pie", "-ffreestanding", "-c"]
    for program in (floats(planned), quantize(planned, pixels.largest)):
        _, source = write_c(generate(program, "net", pixels), tmp_path, overwrite=True)
        subprocess.run([*command, source.name, "-o", "net.o"], cwd=tmp_path, check=True)
        listed = subprocess.run(["nm", "net.o"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
        symbols = [line.split()[-2:] for line in listed.splitlines()]
        assert {name for kind, name in symbols if kind == "U"} <= {"memset", "memcpy", "__stack_chk_fail"}
        assert not [name for kind, name in symbols if kind in "bBdDC"], "writable statics"
        public = {name for kind, name in symbols if kind == "T"}
        assert public == {f"net_{what}" for what in ("init", "step", "logits", "run", "normalise", "run_pixels")}
