import copy
import io

import pytest
import torch
from engine_nets import SMALL, close, gradients, inputs, lively, on_arena, same_network, small, tiny
from torch import nn

import ndsnn
from ndsnn import models
from ndsnn.engine import backends
from ndsnn.engine.module import Accelerated, accelerate
from ndsnn.engine.reference import ReferenceBackend
from ndsnn.errors import ConfigError, MissingDependencyError, NdsnnError, ShapeError, UnsupportedLayerError
from ndsnn.models.layers import AdaptiveAvgPool2d, Conv2d, Flatten, Linear, RepeatOverTime
from ndsnn.neurons import LIF
from ndsnn.sparse import compress
from ndsnn.sparse.sparsify import recorded_distribution, to_dense
from ndsnn.sparse.topology import sparse_layers


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv("NDSNN_BACKEND", raising=False)


@pytest.fixture
def vgg() -> nn.Module:
    return small("vgg")


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    ("shape", "training", "memory"),
    [
        ((2, 3, 16, 16), True, "store"),
        ((2, 3, 16, 16), False, "recompute"),
        ((3, 2, 3, 16, 16), True, "recompute"),
        ((3, 2, 3, 16, 16), False, "store"),
    ],
)
def test_models(name, shape, training, memory):
    """Logits, all gradients and running statistics are those of the masked network, twice in a row."""
    plain = small(name).train(training)
    accelerated = on_arena(plain, memory)
    for seed in range(2):
        same_network(accelerated, plain, inputs(*shape, seed=seed))


@pytest.mark.parametrize("neuron", [{"v_reset": None}, {"detach_reset": False}, {"decay_input": False, "tau": 2}])
def test_other_neurons(neuron):
    plain = small("vgg", neuron=neuron)
    same_network(accelerate(plain), plain, inputs(2, 3, 8, 8))


def test_dense_network_has_no_index():
    plain = small("resnet19", sparsity=0)
    accelerated = accelerate(plain)
    assert not any("positions" in name for name in accelerated.state_dict())
    same_network(accelerated, plain, inputs(2, 3, 16, 16))


def test_float32():
    torch.manual_seed(0)
    plain = small("vgg").float()
    accelerated = accelerate(plain, backend="reference")
    x = inputs(4, 3, 8, 8).float()
    logits = accelerated(x)
    assert logits.dtype == torch.float32
    logits.square().sum().backward()
    plain(x).square().sum().backward()
    torch.testing.assert_close(logits, plain.eval().train()(x), rtol=1e-3, atol=1e-3)
    for name, parameter in plain.named_parameters():
        if "weight" not in name:
            found = dict(accelerated.named_parameters())[name].grad
            torch.testing.assert_close(found, parameter.grad, rtol=1e-2, atol=1e-3)


def test_training_takes_the_same_steps(vgg):
    """Ten steps of SGD with momentum under NDSNN: the same weights at the same places as in the masked form."""
    runs = []
    for net in (vgg, accelerate(vgg)):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
        method = ndsnn.NDSNN(net, optimizer, final_sparsity=0.8, total_steps=12, update_every=3)
        for step in range(12):
            x, target = inputs(4, 3, 8, 8, seed=step), torch.arange(4) + step % 3
            loss = ndsnn.losses.mean_step_cross_entropy(net(x), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            method.step()
        runs.append((net, method))
    (masked, one), (accelerated, other) = runs
    assert one.rounds == other.rounds
    assert len(one.rounds) > 2
    for mine, theirs in zip(other.masks(), one.masks(), strict=True):
        assert torch.equal(mine, theirs)
    assert ndsnn.sparsity(accelerated) == ndsnn.sparsity(masked) == pytest.approx(0.8, abs=0.001)
    plain = dict(accelerated.decompressed().named_parameters())
    for name, parameter in masked.named_parameters():
        close(plain[name].detach(), parameter.detach(), name)
    same_network(accelerated, masked, inputs(2, 3, 8, 8))


class TestModule:
    def test_the_original_is_untouched(self, vgg):
        state = copy.deepcopy(vgg.state_dict())
        accelerated = accelerate(vgg)
        accelerated(inputs(2, 3, 8, 8)).sum().backward()
        assert all(torch.equal(tensor, state[name]) for name, tensor in vgg.state_dict().items())
        assert all(p.grad is None for p in vgg.parameters())
        assert isinstance(vgg.features[0], Conv2d)
        assert not {id(p) for p in vgg.parameters()} & {id(p) for p in accelerated.parameters()}

    def test_names_are_those_of_the_network(self, vgg):
        accelerated = accelerate(vgg)
        assert [n for n, _ in accelerated.named_parameters()] == [n for n, _ in vgg.named_parameters()]
        assert [n for n, _ in accelerated.named_modules()] == [n for n, _ in vgg.named_modules()]
        state, plain = accelerated.state_dict(), vgg.state_dict()
        assert set(plain) <= set(state)
        assert {n for n in state if n not in plain} == {
            f"{row.name}.positions" for row in ndsnn.layer_report(vgg) if row.alive < row.weights
        }
        alive = int(vgg.get_submodule("features.5").sparsity_mask.sum())
        assert state["features.5.weight"].shape == state["features.5.positions"].shape == (alive,)

    def test_what_is_known_of_the_network_is_kept(self, vgg):
        accelerated = accelerate(vgg)
        assert accelerated.build_config == vgg.build_config
        assert accelerated.time_steps == 3
        assert recorded_distribution(accelerated) == recorded_distribution(vgg)
        assert ndsnn.layer_report(accelerated) == ndsnn.layer_report(vgg)
        assert not hasattr(accelerate(tiny()), "build_config")

    def test_modes(self, vgg):
        accelerated = accelerate(vgg.eval())
        assert not accelerated.training
        assert not any(m.training for m in accelerated.modules())
        same_network(accelerated, vgg, inputs(2, 3, 8, 8))
        assert all(m.training for m in accelerated.train().modules())
        same_network(accelerated, vgg.train(), inputs(2, 3, 8, 8))

    def test_state_dict_goes_into_another_one(self, vgg):
        accelerated = accelerate(vgg)
        other = lively(models.build(vgg.build_config), seed=5)
        other = accelerate(ndsnn.sparsify(other, 0.8, generator=torch.Generator().manual_seed(9)))
        x = inputs(2, 3, 8, 8)
        other(x)
        other.load_state_dict(accelerated.state_dict())
        same_network(other, vgg, x)

    def test_copies_are_independent(self, vgg):
        accelerated, x = accelerate(vgg), inputs(2, 3, 8, 8)
        accelerated(x)
        clone = copy.deepcopy(accelerated)
        with torch.no_grad():
            for parameter in accelerated.parameters():
                parameter.zero_()
        assert clone(x).abs().max() > 0.1
        assert not accelerated(x).any()
        layer = accelerated.get_submodule("features.5")
        layer.rearrange(layer.active_positions()[1:])
        assert clone.get_submodule("features.5").nnz == layer.nnz + 1
        assert clone.decompressed().get_submodule("features.5").weight.count_nonzero() == layer.nnz + 1

    def test_copies_have_no_observer(self, vgg):
        accelerated = accelerate(vgg)
        accelerated.observer = object()
        assert copy.deepcopy(accelerated).observer is None
        assert accelerated.observer is not None

    def test_pickle(self, vgg):
        accelerated, stream = accelerate(vgg), io.BytesIO()
        torch.save(accelerated, stream)
        stream.seek(0)
        same_network(torch.load(stream, weights_only=False), vgg, inputs(2, 3, 8, 8))

    def test_decompressed(self, vgg):
        accelerated = accelerate(vgg)
        x = inputs(2, 3, 8, 8)
        accelerated(x)
        vgg(x)
        accelerated.get_submodule("features.6").eval()
        plain = accelerated.decompressed()
        assert type(plain) is type(vgg)
        assert plain.build_config == vgg.build_config
        assert recorded_distribution(plain) == recorded_distribution(vgg)
        assert not plain.get_submodule("features.6").training
        assert plain.get_submodule("features.9").training
        for (name, tensor), other in zip(vgg.state_dict().items(), plain.state_dict().values(), strict=True):
            close(other.double(), tensor.double(), name)
        for row in ndsnn.layer_report(vgg):
            mask = vgg.get_submodule(row.name).sparsity_mask
            assert torch.equal(plain.get_submodule(row.name).sparsity_mask, mask)
        with torch.no_grad():
            close(accelerated.eval()(x), plain.eval()(x))

    def test_to_dense_gives_the_plain_network_back(self, vgg):
        accelerated = accelerate(vgg)
        plain = to_dense(accelerated)
        assert type(plain) is type(vgg)
        assert not sparse_layers(plain)
        for name, weight in vgg.state_dict().items():
            assert torch.equal(plain.state_dict()[name], weight)
        assert sparse_layers(accelerated)

    def test_decompressed_follows_the_accelerated_network(self, vgg):
        accelerated = accelerate(vgg)
        accelerated.build_config = {"name": "other", "kwargs": {}}
        del accelerated._ndsnn_distribution
        plain = accelerated.decompressed()
        assert plain.build_config["name"] == "other"
        assert recorded_distribution(plain) is None

    def test_can_be_printed(self, vgg):
        shown = repr(accelerate(vgg, backend="reference", memory="store"))
        assert "backend='reference', memory='store'" in shown
        assert "CompressedConv2d" in shown


class TestInput:
    @pytest.mark.parametrize(
        "shape", [(3, 8, 8), (0, 3, 8, 8), (3, 0, 3, 8, 8), (0, 2, 3, 8, 8), (2, 2, 8, 8), (4, 1, 3, 8, 8)]
    )
    def test_wrong_shapes(self, vgg, shape):
        with pytest.raises(ShapeError, match=r"expects|time_steps"):
            accelerate(vgg)(inputs(*shape))

    def test_image_for_a_network_of_events(self):
        net = nn.Sequential(Conv2d(2, 3, 3), LIF(), AdaptiveAvgPool2d(1), Flatten(), Linear(3, 4)).double()
        accelerated = accelerate(net)
        with pytest.raises(ShapeError, match="events"):
            accelerated(inputs(2, 2, 5, 5))
        for steps in (1, 4):
            assert accelerated(inputs(steps, 2, 2, 5, 5)).shape == (steps, 2, 4)

    def test_wrong_dtype(self, vgg):
        with pytest.raises(ConfigError, match=r"torch\.float32"):
            accelerate(vgg)(inputs(2, 3, 8, 8).float())

    def test_one_sample_of_one_place_has_no_statistics(self):
        net = lively(nn.Sequential(Conv2d(2, 3, 1), nn.BatchNorm2d(3), RepeatOverTime(2), LIF(), Conv2d(3, 2, 1)))
        accelerated = accelerate(net)
        with pytest.raises(ShapeError, match="one value per channel"):
            accelerated(inputs(1, 2, 1, 1))
        same_network(accelerated.eval(), net.eval(), inputs(1, 2, 1, 1))

    def test_not_contiguous(self, vgg):
        x = inputs(3, 2, 8, 8).transpose(0, 1).flip(-1)
        same_network(accelerate(vgg), vgg, x)


class TestChoice:
    @pytest.mark.parametrize(
        "settings", [{"memory": "stor"}, {"precision": "fp23"}, {"backend": "nativ"}, {"memory": None}]
    )
    def test_unknown_names(self, vgg, settings):
        with pytest.raises(ConfigError, match="unknown"):
            accelerate(vgg, **settings)

    def test_reference_has_one_precision(self, vgg):
        with pytest.raises(ConfigError, match="'mixed' needs the native back end"):
            accelerate(vgg, precision="mixed", backend="reference")

    def test_it_says_what_was_chosen_and_why(self, vgg, monkeypatch):
        for settings, reason in (({}, "float64"), ({"backend": "reference"}, "asked for")):
            accelerated = accelerate(vgg, **settings)
            assert accelerated.backend_name == "reference"
            assert reason in accelerated.backend_reason
        monkeypatch.setenv("NDSNN_BACKEND", "reference")
        assert accelerate(vgg.float()).backend_reason == "NDSNN_BACKEND=reference"
        with pytest.raises(ConfigError, match="drop one"):
            accelerate(vgg, backend="native")
        monkeypatch.setenv("NDSNN_BACKEND", "refrence")
        with pytest.raises(ConfigError, match=r"NDSNN_BACKEND: .*'reference'"):
            accelerate(vgg)

    def test_native_where_it_can_run(self, vgg, monkeypatch):
        made = []

        class Native(ReferenceBackend):
            def __init__(self, time_steps, samples, precision):
                super().__init__(time_steps, samples)
                made.append(precision)

        monkeypatch.setattr(backends.native, "NativeBackend", Native)
        monkeypatch.setattr(backends.native, "available", lambda: True)
        accelerated = accelerate(vgg.float(), precision="mixed")
        assert (accelerated.backend_name, accelerated.backend_reason) == ("native", "it is available")
        accelerated(inputs(2, 3, 8, 8).float())
        assert set(made) == {"mixed"}
        with pytest.raises(ConfigError, match=r"net\.float\(\)"):
            accelerate(vgg.double(), backend="native")
        assert accelerate(vgg).backend_name == "reference"

    def test_native_where_it_cannot_run(self, vgg, monkeypatch):
        monkeypatch.setattr(backends.native, "available", lambda: False)
        monkeypatch.setattr(backends.native, "unavailable_reason", lambda: "nobody built it")
        accelerated = accelerate(vgg.float())
        assert accelerated.backend_name == "reference"
        assert "nobody built it" in accelerated.backend_reason
        with pytest.raises(MissingDependencyError, match="nobody built it"):
            accelerate(vgg, backend="native")
        with pytest.raises(ConfigError, match="nobody built it"):
            accelerate(vgg, precision="mixed")


class TestRefusals:
    def test_unsupported_layer_changes_nothing(self, vgg):
        vgg.features.append(nn.ReLU())
        before = [type(m) for m in vgg.modules()]
        with pytest.raises(UnsupportedLayerError, match=r"features\.12"):
            accelerate(vgg)
        assert [type(m) for m in vgg.modules()] == before

    def test_twice(self, vgg):
        accelerated = accelerate(vgg)
        with pytest.raises(ConfigError, match="already"):
            accelerate(accelerated)
        assert isinstance(accelerate(accelerated.decompressed()), Accelerated)

    def test_compressed_network(self, vgg):
        same_network(accelerate(compress(copy.deepcopy(vgg))), vgg, inputs(2, 3, 8, 8))

    def test_dtypes(self, vgg):
        vgg.features[5].half()
        with pytest.raises(ConfigError, match=r"'features\.5\.weight' is torch\.float16"):
            accelerate(vgg)
        with pytest.raises(ConfigError, match=r"torch\.bfloat16"):
            accelerate(small("vgg").bfloat16())

    def test_device(self, vgg):
        with pytest.raises(ConfigError, match="on meta"):
            accelerate(vgg.to("meta"))

    def test_hooks_of_the_network(self, vgg):
        vgg.register_forward_hook(lambda *a: None)
        with pytest.raises(UnsupportedLayerError, match="hooks"):
            accelerate(vgg)

    def test_children_of_taken_names(self):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.observer = nn.Sequential(*tiny())

            def forward(self, x):
                return self.observer(x)

        with pytest.raises(UnsupportedLayerError, match="'observer'"):
            accelerate(Net())

    def test_shared_weight(self):
        net = tiny(Conv2d(4, 4, 3, padding=1), LIF(), Conv2d(4, 4, 3, padding=1), LIF())
        net[6].weight = net[4].weight
        with pytest.raises(NdsnnError, match="share"):
            accelerate(net)


@pytest.mark.skipif(not backends.native.available(), reason="the native back end is not built")
@pytest.mark.parametrize("name", ["vgg", "lenet5", "resnet19"])
@pytest.mark.parametrize("memory", ["store", "recompute"])
def test_native_back_end(name, memory):
    """On networks so small that no spike hangs on a rounding error; with more samples than before at the end."""
    reference, native = (accelerate(small(name).float(), memory, backend=b) for b in ("reference", "native"))
    for shape in ((3, 3, 16, 16), (3, 3, 3, 16, 16), (19, 3, 16, 16)):
        x = inputs(*shape).float()
        (expected_logits, expected), (logits, found) = gradients(reference, x), gradients(native, x)
        torch.testing.assert_close(logits, expected_logits, rtol=1e-5, atol=1e-5)
        for layer, gradient in expected.items():
            scale = gradient.abs().max()
            torch.testing.assert_close(found[layer] / scale, gradient / scale, rtol=0, atol=1e-4, msg=layer)
    for one, other in zip(native.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
