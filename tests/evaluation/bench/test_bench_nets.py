"""The contestants: the same work for all, and rates that mean something."""

import pytest
import torch
from tiny_bench import needs_native
from torch import nn

import ndsnn
from ndsnn.errors import SparsityError
from ndsnn.evaluation.bench.nets import Workload, benchable_models, dense_firing_rate, engine_activity
from ndsnn.losses import mean_step_cross_entropy

WORK = Workload("vgg16", batch=4, time_steps=2, width=0.1, image_size=16, seed=3)


def test_a_seed_gives_the_same_network_and_images_whatever_the_format():
    one, other = WORK.dense("nchw"), WORK.dense("channels_last")
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.labels, other.labels)
    for value, same in zip(one.net.state_dict().values(), other.net.state_dict().values(), strict=True):
        assert torch.equal(value, same)
    weights = [m.weight for m in other.net.modules() if isinstance(m, nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert other.images.is_contiguous(memory_format=torch.channels_last)
    another = Workload("vgg16", 4, 2, 0.1, 16, seed=4).dense("nchw")
    assert not torch.equal(one.images, another.images)


def test_building_leaves_torchs_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    WORK.dense("nchw")
    assert torch.equal(torch.rand(3), expected)


def test_a_step_leaves_the_gradients_of_one_batch():
    contestant = WORK.dense("nchw")
    contestant.step()
    contestant.step()
    net = contestant.net
    loss = mean_step_cross_entropy(net(contestant.images), contestant.labels)
    expected = torch.autograd.grad(loss, list(net.parameters()))
    for parameter, gradient in zip(net.parameters(), expected, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, gradient, atol=1e-6)


def test_a_network_fires_in_evaluation_as_in_training():
    contestant = WORK.dense("nchw")
    contestant.step()
    rate = dense_firing_rate(contestant)
    contestant.net.eval()
    assert dense_firing_rate(contestant) == pytest.approx(rate, rel=0.1)
    fresh = ndsnn.models.vgg16(width=0.1, time_steps=2).eval()
    assert dense_firing_rate(type(contestant)(fresh, contestant.images, contestant.labels)) < 0.7 * rate


@needs_native
def test_the_engine_runs_the_same_network():
    dense, engine = WORK.dense("nchw"), WORK.engine(0.0, "auto", "fp32")
    assert torch.equal(dense.images, engine.images)
    activity = engine_activity(engine)
    assert activity.firing_rate == pytest.approx(dense_firing_rate(dense), rel=0.01)
    seen = {}
    for name, module in dense.net.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_pre_hook(
                lambda m, x, name=name: seen.update({name: (x[0] != 0).float().mean()})
            )
    dense.infer()
    assert activity.input_rates == pytest.approx({name: float(rate) for name, rate in seen.items()}, abs=0.01)
    assert engine.net.observer is None


@needs_native
def test_the_engine_has_the_sparsity_it_was_given():
    assert ndsnn.sparsity(WORK.engine(0.9, "recompute", "fp32").net) == pytest.approx(0.9, abs=1e-4)


def test_channels_last_is_left_out_where_torch_cannot_train_in_it():
    assert Workload("resnet19", 2, 2, width=0.1).formats() == ("nchw",)
    for model in ("vgg16", "resnet19", "resnet19_tdbn", "lenet5"):
        assert Workload(model, 2, 2).formats() == ("nchw", "channels_last")


def test_a_sparsity_that_a_network_cannot_have_is_found_without_its_weights():
    WORK.check(0.99)
    with pytest.raises(SparsityError, match="leaves no weight"):
        WORK.check(0.99999)


def test_models_that_need_no_arguments():
    assert set(benchable_models()) == {"vgg16", "resnet19", "resnet19_tdbn", "lenet5", "mlp"}
