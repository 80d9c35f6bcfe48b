import copy
import json

import pytest
import torch
from spikingjelly.activation_based import layer as sj_layer
from spikingjelly.activation_based import neuron as sj_neuron
from spikingjelly.activation_based import surrogate as sj_surrogate
from torch import nn

from ndsnn import losses, models
from ndsnn.errors import ConfigError, ShapeError
from ndsnn.models.layers import LAYERS, BatchNorm2d, Conv2d, ThresholdBatchNorm2d
from ndsnn.neurons import LIF, LIFParameters

SMALL = {
    "vgg": {"layers": [8, "M", 12, 12, "M"], "width": 0.5},
    "vgg16": {"width": 0.06},
    "resnet19": {"width": 0.06},
    "resnet19_tdbn": {"width": 0.06},
    "lenet5": {"width": 0.5},
}


def small(name: str, **kwargs) -> nn.Module:
    torch.manual_seed(0)
    return models.MODELS[name](**{"time_steps": 3, "num_classes": 7} | SMALL[name] | kwargs)


def images(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=sorted(SMALL))
def name(request) -> str:
    return request.param


def weight_count(net: nn.Module) -> int:
    return sum(m.weight.numel() for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear))


def test_all_models_are_tested():
    # An mlp is made for one size of input; test_mlp.py is its own.
    assert set(models.MODELS) == {*SMALL, "mlp"}


def test_weight_counts():
    assert weight_count(models.vgg16()) == 14_715_584
    assert weight_count(models.resnet19()) == 12_619_968
    stage1 = 6 * 128 * 128 * 9
    stage2 = 128 * 256 * 9 + 5 * 256 * 256 * 9 + 128 * 256
    stage3 = 256 * 512 * 9 + 3 * 512 * 512 * 9 + 256 * 512
    head = 3 * 128 * 9 + 512 * 256 + 256 * 10
    assert weight_count(models.resnet19_tdbn()) == stage1 + stage2 + stage3 + head
    assert weight_count(models.lenet5()) == 3 * 6 * 25 + 6 * 16 * 25 + 400 * 120 + 120 * 84 + 84 * 10
    assert weight_count(models.vgg([32, 32, "M", 64, "M"])) == 9 * (3 * 32 + 32 * 32 + 32 * 64) + 64 * 10


def test_only_lenets_linear_layers_have_biases(name):
    biased = {type(m).__name__ for m in small(name).modules() if getattr(m, "bias", None) is not None}
    assert biased - {"BatchNorm2d", "ThresholdBatchNorm2d"} == ({"Linear"} if name == "lenet5" else set())


@pytest.mark.parametrize("size", [8, 28, 32, 33, 64])
def test_every_input_size(name, size):
    net = small(name, in_channels=2)
    logits = net(images(2, 2, size, size))
    assert logits.shape == (3, 2, 7)
    logits.square().sum().backward()
    assert net(images(1, 2, size, size + 5)).shape == (3, 1, 7)


@pytest.mark.parametrize(("time_steps", "batch", "classes", "channels"), [(1, 4, 1, 1), (6, 1, 2, 5)])
def test_every_number_of_steps_samples_classes_and_channels(name, time_steps, batch, classes, channels):
    net = small(name, time_steps=time_steps, num_classes=classes, in_channels=channels)
    assert net(images(batch, channels, 16, 16)).shape == (time_steps, batch, classes)


def test_first_conv_and_norm_see_each_image_once(name):
    net = small(name)
    seen = {}

    def note(module, inputs, output):
        seen[type(module)] = [*seen.get(type(module), []), tuple(inputs[0].shape)]

    for module in net.modules():
        if isinstance(module, Conv2d | BatchNorm2d | LIF):
            module.register_forward_hook(note)
    net(images(4, 3, 32, 32))
    for kind, shapes in seen.items():
        if kind is LIF:
            assert all(shape[:2] == (3, 4) for shape in shapes)
        else:
            assert len(shapes[0]) == 4
            assert shapes[0][0] == 4
            assert all(shape[:2] == (3, 4) for shape in shapes[1:])


def test_events_equal_the_image_they_repeat(name):
    net = small(name).eval()
    x = images(2, 3, 16, 16)
    torch.testing.assert_close(net(x.expand(3, *x.shape)), net(x))
    first, second = images(3, 2, 3, 16, 16), images(3, 2, 3, 16, 16, seed=2)
    mixed = torch.cat([first[:1], second[1:]])
    # Step 0 knows nothing of the later ones.
    torch.testing.assert_close(net(mixed)[0], net(first)[0])


def test_spikes_are_binary_and_no_neuron_follows_the_readout(name):
    net = small(name, neuron=LIF(v_threshold=0.5))
    kinds = [type(m) for m in net.modules()]
    values = []
    for module in net.modules():
        if isinstance(module, LIF):
            module.register_forward_hook(lambda _m, _i, spikes: values.append(set(spikes.unique().tolist())))
    net(images(4, 3, 32, 32))
    assert len(values) == kinds.count(LIF)
    assert all(v <= {0.0, 1.0} for v in values)
    assert {0.0, 1.0} in values
    assert net.classifier.out_features == 7


def test_no_layer_is_silent_at_the_start(name):
    # ResNet-19's pooled firing rates are weak currents: at threshold 1 its hidden layer starts close to silence.
    net = small(
        name, width=0.25 if "net19" in name else 1.0, neuron=LIF(v_threshold=0.5) if "resnet" in name else None
    )
    rates = []
    for module in net.modules():
        if isinstance(module, LIF):
            module.register_forward_hook(lambda _m, _i, spikes: rates.append(spikes.mean().item()))
    assert net(images(4, 3, 16, 16)).abs().sum() > 0
    assert min(rates) > 0


@pytest.mark.parametrize("size", [8, 28, 32])
def test_lenet_pads_small_images_so_that_its_average_pool_changes_nothing(size):
    net = small("lenet5").eval()
    x = images(2, 3, size, size)
    features = net.features(x)
    assert features.shape[-2:] == (5, 5)
    assert torch.equal(net.pool(features), features)
    margin = (32 - size) // 2
    assert torch.equal(net(nn.functional.pad(x, [margin] * 4)), net(x))


class LeafTracer(torch.fx.Tracer):
    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, (*LAYERS, LIF))


def test_traces_with_layers_as_leaves(name):
    net = small(name).eval()
    graph = LeafTracer().trace(net)
    traced = torch.fx.GraphModule(net, graph)
    called = {node.target for node in graph.nodes if node.op == "call_module"}
    assert called == {path for path, module in net.named_modules() if isinstance(module, (*LAYERS, LIF))}
    others = {node.op for node in graph.nodes} - {"call_module", "placeholder", "output"}
    assert others == ({"call_function"} if "resnet" in name else set())
    for shape in [(2, 3, 16, 16), (3, 1, 3, 40, 8)]:
        assert torch.equal(traced(images(*shape)), net(images(*shape)))


def test_deepcopy_and_state_dict_round_trip(name):
    net = small(name)
    x = images(4, 3, 16, 16)
    net(x)
    clone = copy.deepcopy(net).eval()
    torch.manual_seed(5)
    other = models.build(json.loads(json.dumps(net.build_config)))
    net.eval(), other.eval()
    assert not torch.equal(other.classifier.weight, net.classifier.weight)
    other.load_state_dict(net.state_dict())
    assert torch.equal(clone(x), net(x))
    assert torch.equal(other(x), net(x))
    assert clone.build_config == net.build_config
    assert clone.build_config is not net.build_config


def test_same_seed_same_weights(name):
    first, second = small(name).state_dict(), small(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_initial_weights():
    torch.manual_seed(0)
    net = models.resnet19()
    conv = net.stages[1][1].conv1.weight
    assert conv.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)
    assert net.hidden.weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.01)
    assert net.classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert abs(net.classifier.weight.mean().item()) < 1e-3
    assert models.lenet5().classifier.bias.abs().sum() == 0


def test_build_config_holds_every_argument():
    net = models.vgg((4, "M", 6), 3, 2, neuron=LIF(2.0, surrogate="sigmoid"), norm="tdbn")
    lif = LIFParameters(2.0, surrogate="sigmoid")
    assert net.build_config == {
        "name": "vgg",
        "kwargs": {
            "layers": [4, "M", 6],
            "num_classes": 3,
            "time_steps": 2,
            "in_channels": 3,
            "width": 1.0,
            "neuron": {
                "tau": 2.0,
                "v_threshold": 1.0,
                "v_reset": 0.0,
                "decay_input": True,
                "detach_reset": True,
                "surrogate": "sigmoid",
                "alpha": None,
                "subtract": None,
            },
            "norm": "tdbn",
        },
    }
    again = models.build(net.build_config)
    assert {m.config for m in again.modules() if isinstance(m, LIF)} == {lif}
    assert again.build_config == net.build_config
    assert models.vgg16(width=0.1).build_config["name"] == "vgg16"
    assert models.vgg16(width=0.1).build_config["kwargs"]["neuron"] is None


@pytest.mark.parametrize("neuron", [LIF(1.5), LIFParameters(1.5), {"tau": 1.5}, lambda: LIF(1.5)])
def test_neuron_is_new_in_every_place(neuron):
    net = models.vgg([4, 4], neuron=neuron)
    neurons = [m for m in net.modules() if isinstance(m, LIF)]
    assert len({id(m) for m in neurons}) == 2
    assert all(m is not neuron and m.config.tau == 1.5 for m in neurons)
    assert (net.build_config is None) == (type(neuron).__name__ == "function")


def test_stateful_neuron_survives_the_build_config():
    neuron = LIF(stateful=True)
    neuron(torch.ones(2, 3))
    net = models.build(models.vgg([4], neuron=neuron).build_config)
    layer = next(m for m in net.modules() if isinstance(m, LIF))
    assert layer.stateful
    assert next(m for m in models.vgg([4], neuron=neuron).modules() if isinstance(m, LIF)).v is None


def test_foreign_neuron_module():
    node = sj_neuron.LIFNode(tau=2.0, v_threshold=0.5, step_mode="m")
    net = models.vgg([4, 4], neuron=node, norm="tdbn")
    assert sum(isinstance(m, sj_neuron.LIFNode) for m in net.modules()) == 2
    assert {m.v_threshold for m in net.modules() if isinstance(m, ThresholdBatchNorm2d)} == {0.5}
    assert net.build_config is None
    assert net(images(2, 3, 8, 8)).shape == (5, 2, 10)


def test_norms():
    added = {"norm2", "1"}
    net = small("resnet19_tdbn", neuron=LIF(v_threshold=0.5))
    norms = {path: m for path, m in net.named_modules() if isinstance(m, ThresholdBatchNorm2d)}
    assert len(norms) == 1 + 2 * 8 + 2
    for path, norm in norms.items():
        in_branch = path.split(".")[-1] in added and path != "stem.1"
        assert norm.alpha == pytest.approx(0.5**0.5 if in_branch else 1.0), path
        assert norm.v_threshold == 0.5
    assert not any(isinstance(m, ThresholdBatchNorm2d) for m in small("resnet19").modules())
    assert not any(isinstance(m, ThresholdBatchNorm2d) for m in small("resnet19_tdbn", norm="bn").modules())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"time_steps": 0}, "time_steps must be an integer of at least 1, got 0"),
        ({"time_steps": 2.0}, "time_steps must be an integer"),
        ({"num_classes": 0}, "num_classes must be an integer of at least 1"),
        ({"in_channels": True}, "in_channels must be an integer"),
        ({"width": 0}, "width must be a finite number above 0, got 0"),
        ({"width": float("inf")}, "width must be a finite number"),
        ({"width": "1"}, "width must be a finite number"),
        ({"norm": "tbdn"}, "unknown norm 'tbdn'; did you mean 'tdbn'"),
        ({"neuron": 3}, "neuron must be an LIF, LIFParameters"),
        ({"neuron": lambda: 3}, "callable must return a module, got 3"),
        ({"neuron": {"taau": 2.0}}, "unknown neuron setting 'taau'; did you mean 'tau'"),
        ({"neuron": nn.ReLU(), "norm": "tdbn"}, "needs a neuron with a v_threshold; ReLU has none"),
    ],
)
def test_bad_arguments(name, arguments, message):
    with pytest.raises(ConfigError, match=message):
        small(name, **arguments)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "at least one convolution"),
        (["M"], "at least one convolution"),
        ("M", "layers must be a list"),
        (8, "layers must be a list"),
        ([8, "m"], "other than \"M\" must be an integer of at least 1, got 'm'"),
        ([8, 0], "at least 1, got 0"),
    ],
)
def test_bad_layers(layers, message):
    with pytest.raises(ConfigError, match=message):
        models.vgg(layers)


@pytest.mark.parametrize(
    ("build_config", "message"),
    [
        ({"name": "vgg61", "kwargs": {}}, "unknown model 'vgg61'; did you mean 'vgg16'"),
        (
            {"name": "vgg16", "kwargs": {"time_step": 3}},
            "unknown vgg16 argument 'time_step'; did you mean 'time_steps'",
        ),
        ({"name": "vgg", "kwargs": {}}, "model 'vgg' needs the argument 'layers'"),
        ({"name": "vgg16"}, 'has the keys "name" and "kwargs"'),
        ({"name": 3, "kwargs": {}}, "a model's name"),
        (None, 'has the keys "name" and "kwargs"'),
    ],
)
def test_bad_build_config(build_config, message):
    with pytest.raises(ConfigError, match=message):
        models.build(build_config)


def test_wrong_inputs(name):
    net = small(name)
    with pytest.raises(ShapeError, match=r"expects \[N, (3|C), H, W\] or \[T, N, (3|C).*got \[3, 16, 16\]"):
        net(images(3, 16, 16))
    with pytest.raises(ShapeError, match=r"Conv2d expects \[N, 3, H, W\].*got \[2, 1, 32, 32\]"):
        net(images(2, 1, 32, 32))
    with pytest.raises(ShapeError, match=r"time_steps=3, but the input .* has 4 steps"):
        net(images(4, 2, 3, 16, 16))


class SJBlock(nn.Module):
    """A basic block out of SpikingJelly's layers."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = sj_conv(inputs, channels, 3, stride), sj_norm(channels)
        self.neuron1, self.neuron2 = sj_lif(), sj_lif()
        self.conv2, self.norm2 = sj_conv(channels, channels, 3, 1), sj_norm(channels)
        self.shortcut = None
        if stride != 1 or inputs != channels:
            self.shortcut = nn.Sequential(sj_conv(inputs, channels, 1, stride), sj_norm(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(self.neuron1(self.norm1(self.conv1(x)))))
        return self.neuron2(y + (self.shortcut(x) if self.shortcut else x))


def sj_conv(inputs: int, channels: int, kernel: int, stride: int) -> nn.Module:
    return sj_layer.Conv2d(inputs, channels, kernel, stride, kernel // 2, bias=False, step_mode="m")


def sj_norm(channels: int) -> nn.Module:
    return sj_layer.BatchNorm2d(channels, step_mode="m")


def sj_lif() -> nn.Module:
    surrogate = sj_surrogate.ATan(alpha=2.0)
    return sj_neuron.LIFNode(4 / 3, surrogate_function=surrogate, detach_reset=True, step_mode="m")


def sj_head(*linears: nn.Module) -> list[nn.Module]:
    return [sj_layer.AdaptiveAvgPool2d(1, step_mode="m"), sj_layer.Flatten(step_mode="m"), *linears]


def sj_vgg(layers: list[int | str], classes: int) -> nn.Module:
    modules, channels = [], 3
    for entry in layers:
        if entry == "M":
            modules.append(sj_layer.MaxPool2d(2, step_mode="m"))
        else:
            modules += [sj_conv(channels, entry, 3, 1), sj_norm(entry), sj_lif()]
            channels = entry
    return nn.Sequential(*modules, *sj_head(nn.Linear(channels, classes, bias=False)))


def sj_resnet19(base: int, classes: int) -> nn.Module:
    modules, channels = [sj_conv(3, base, 3, 1), sj_norm(base), sj_lif()], base
    for out, blocks in [(2 * base, 3), (4 * base, 3), (8 * base, 2)]:
        for index in range(blocks):
            modules.append(SJBlock(channels, out, 2 if index == 0 else 1))
            channels = out
    hidden = nn.Linear(channels, 4 * base, bias=False)
    return nn.Sequential(*modules, *sj_head(hidden, sj_lif(), nn.Linear(4 * base, classes, bias=False)))


def parameters_in_order_of_use(net: nn.Module) -> list[nn.Parameter]:
    """Weights and biases sorted by kind, in the order the modules were registered, which both nets share."""
    return [p for m in net.modules() for p in m.parameters(recurse=False)]


VGG_LAYERS = [8, 8, "M", 12, "M", 16]
PAIRS = {
    "vgg": (lambda: models.vgg(VGG_LAYERS, 7, 4), lambda: sj_vgg(VGG_LAYERS, 7)),
    "resnet19": (lambda: models.resnet19(7, 4, width=0.125), lambda: sj_resnet19(8, 7)),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_loss_and_all_gradients_equal_the_same_network_of_spikingjelly(pair):
    torch.manual_seed(0)
    ours, theirs = (make().double() for make in PAIRS[pair])
    with torch.no_grad():
        # Neurons of all rates, and logits that matter.
        for parameter in ours.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter) if parameter.ndim == 1 else 0.0)
        ours.classifier.weight.mul_(30)
    mine, other = parameters_in_order_of_use(ours), parameters_in_order_of_use(theirs)
    assert [p.shape for p in mine] == [p.shape for p in other]
    with torch.no_grad():
        for p, q in zip(mine, other, strict=True):
            q.copy_(p)
    x, y = images(6, 3, 16, 16).double(), torch.arange(6)
    our_loss = losses.mean_step_cross_entropy(ours(x), y)
    logits = theirs(x.expand(4, *x.shape).contiguous())
    their_loss = sum(nn.functional.cross_entropy(step, y) for step in logits) / 4
    torch.testing.assert_close(our_loss, their_loss, rtol=1e-10, atol=0)
    our_loss.backward()
    their_loss.backward()
    for p, q in zip(mine, other, strict=True):
        assert q.grad.norm() > 0
        assert (p.grad - q.grad).norm() <= 1e-4 * q.grad.norm()
