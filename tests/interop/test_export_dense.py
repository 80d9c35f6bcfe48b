"""The dense export is a state dict that the network's own framework loads; the example reads the sparse one."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from export_nets import small_vgg, sparse
from safetensors.torch import load_file
from torch import nn

import ndsnn
from ndsnn.errors import ExportError
from ndsnn.interop.export.dense import dense_state, write_dense

EXAMPLE = Path(__file__).parents[2] / "examples" / "read_safetensors.py"


def jelly():
    """A network of SpikingJelly's own modules."""
    from spikingjelly.activation_based import functional, layer, neuron

    net = nn.Sequential(
        layer.Conv2d(1, 6, 3, padding=1, bias=False),
        layer.BatchNorm2d(6),
        neuron.LIFNode(tau=2.0, detach_reset=True),
        layer.Flatten(),
        layer.Linear(6 * 64, 5),
    )
    functional.set_step_mode(net, "m")
    return net


@pytest.mark.parametrize("build", [small_vgg, jelly])
@pytest.mark.parametrize("form", ["masked", "accelerated"])
def test_the_keys_are_those_of_the_original(tmp_path, build, form):
    torch.manual_seed(0)
    net = build()
    plain = build()
    ndsnn.sparsify(net, 0.8)
    exported = ndsnn.accelerate(net, backend="reference") if form == "accelerated" else net
    size = write_dense(exported, tmp_path / "net.safetensors")
    assert size == (tmp_path / "net.safetensors").stat().st_size
    state = load_file(tmp_path / "net.safetensors")
    assert list(plain.state_dict()) == list(build().state_dict())
    plain.load_state_dict(state, strict=True)
    for (key, own), (other, value) in zip(net.state_dict().items(), plain.state_dict().items(), strict=True):
        assert key == other
        assert torch.equal(own, value), key


def test_true_zeros():
    net = sparse(small_vgg())
    net.features[5].weight.data.mul_(-1)
    assert torch.signbit(net.features[5].weight[net.features[5].weight == 0]).any()
    for value in dense_state(net).values():
        assert not torch.signbit(value[value == 0]).any()


def test_an_unwritable_place(tmp_path):
    with pytest.raises(ExportError, match="cannot write"):
        write_dense(small_vgg(), tmp_path / "nowhere" / "net.safetensors")


def example():
    scope = {"__name__": "example"}
    exec(compile(EXAMPLE.read_text(encoding="utf-8"), str(EXAMPLE), "exec"), scope)
    return scope["read"]


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.99])
def test_the_example_reads_what_is_saved(tmp_path, sparsity):
    net = ndsnn.models.vgg([48, "M", 64, "M"], 4, 2, 1)
    if sparsity:
        ndsnn.sparsify(net, sparsity)
    path = tmp_path / "net.safetensors"
    ndsnn.save(net, path)
    tensors, header = example()(path)
    state = net.state_dict()
    assert tensors.keys() == state.keys()
    for key, value in state.items():
        assert tensors[key].dtype == value.numpy().dtype
        assert np.array_equal(tensors[key], value.numpy()), key
    assert header["architecture"]["name"] == "vgg"
    parts = {key.rsplit(".", 1)[1] for key in load_file(path)}
    # The index that is there is the one this sparsity is meant to try.
    assert {0.0: set(), 0.5: {"bitmask"}, 0.99: {"positions"}}[sparsity] <= parts


def test_the_example_is_short_and_a_program(tmp_path):
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 60
    net = small_vgg()
    ndsnn.sparsify(net, 0.9)
    ndsnn.save(net, tmp_path / "net.safetensors")
    command = [sys.executable, str(EXAMPLE), str(tmp_path / "net.safetensors")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "features.0.weight" in printed
    assert "not 0" in printed


def test_the_example_refuses_a_flipped_bit(tmp_path):
    net = small_vgg()
    ndsnn.sparsify(net, 0.9)
    path = tmp_path / "net.safetensors"
    ndsnn.save(net, path)
    data = bytearray(path.read_bytes())
    data[-10] ^= 4
    path.write_bytes(data)
    with pytest.raises(ValueError, match="was altered after it was written"):
        example()(path)


@pytest.mark.parametrize("length", [0, 5, 200, -1])
def test_the_example_refuses_truncated_files(tmp_path, length):
    net = small_vgg()
    ndsnn.sparsify(net, 0.9)
    path = tmp_path / "net.safetensors"
    ndsnn.save(net, path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises((ValueError, json.JSONDecodeError)):
        example()(path)
