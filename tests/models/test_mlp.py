import pytest
import torch
from torch.nn import functional

import ndsnn
from ndsnn.errors import ConfigError, ShapeError
from ndsnn.models.layers import Linear


def small(**changes):
    settings = {
        "hidden": [24, 16],
        "num_classes": 3,
        "time_steps": 4,
        "in_channels": 1,
        "image_size": (1, 20),
    } | changes
    torch.manual_seed(0)
    return ndsnn.models.mlp(**settings)


def test_is_what_it_says_by_hand():
    net = small()
    x = torch.rand(4, 2, 1, 1, 20) * 3
    spikes = x.flatten(2)
    first, second = (layer for layer in net.hidden if isinstance(layer, Linear))
    for layer in (first, second):
        current = functional.linear(spikes, layer.weight, layer.bias)
        v, out = torch.zeros_like(current[0]), []
        for step in current:
            h = v + (step - v) * 3 / 4
            fired = (h >= 1).float()
            v = h * (1 - fired)
            out.append(fired)
        spikes = torch.stack(out)
    assert spikes.any()
    expected = functional.linear(spikes, net.classifier.weight, net.classifier.bias)
    torch.testing.assert_close(net(x), expected)
    assert (first.weight.shape, second.weight.shape) == ((24, 20), (16, 24))


def test_image_is_shown_at_every_step():
    net = small()
    image = torch.rand(2, 1, 1, 20) * 3
    assert torch.equal(net(image), net(image.expand(4, 2, 1, 1, 20)))
    assert small(image_size=4, in_channels=2)(torch.rand(2, 2, 4, 4)).shape == (4, 2, 3)
    assert small(width=2)(image).shape == (4, 2, 3)
    assert small(width=2).hidden[0].out_features == 48


def test_engine_computes_the_same():
    net = small(hidden=[32, 32], neuron={"tau": 4.0, "decay_input": False})
    ndsnn.sparsify(net, 0.5, generator=torch.Generator().manual_seed(0))
    fast = ndsnn.accelerate(net, backend="reference")
    x = (torch.rand(4, 16, 1, 1, 20) < 0.3).float() * 2
    expected, found = net(x), fast(x)
    assert expected.std() > 0
    torch.testing.assert_close(found, expected)
    expected.square().sum().backward()
    found.square().sum().backward()
    bias = dict(net.named_parameters())["hidden.0.bias"]
    torch.testing.assert_close(dict(fast.named_parameters())["hidden.0.bias"].grad, bias.grad)
    assert bias.grad.any()


def test_is_built_again_from_its_description(tmp_path):
    net = small()
    ndsnn.sparsify(net, 0.5)
    ndsnn.save(net, tmp_path / "net.safetensors")
    x = torch.rand(4, 2, 1, 1, 20)
    assert torch.equal(ndsnn.load(tmp_path / "net.safetensors")(x), net(x))


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden": []},
        {"hidden": "MM"},
        {"hidden": [4, "M"]},
        {"image_size": (1, 2, 3)},
        {"image_size": 0},
        {"width": 0},
    ],
)
def test_settings_out_of_range(changes):
    with pytest.raises(ConfigError):
        small(**changes)


def test_other_inputs_are_refused():
    for shape in ((4, 2, 1, 1, 21), (3, 2, 1, 1, 20), (2, 20)):
        with pytest.raises(ShapeError):
            small()(torch.zeros(shape))
