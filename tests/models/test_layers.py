import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import layer as sj_layer

from ndsnn.errors import ConfigError, ShapeError
from ndsnn.models.layers import (
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool2d,
    RepeatOverTime,
    ThresholdBatchNorm2d,
    ZeroPad,
)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(5, 9), st.integers(5, 9))
def test_steps_are_treated_alone(t, n, height, width):
    x = torch.randn(t, n, 4, height, width)
    layers = [Conv2d(4, 6, 3, stride=2, padding=1), MaxPool2d(2), AdaptiveAvgPool2d(3), Flatten(), ZeroPad(8)]
    layers.append(BatchNorm2d(4).eval())
    for layer in layers:
        many = layer(x)
        assert many.shape[:2] == (t, n)
        for step, y in zip(x, many, strict=True):
            torch.testing.assert_close(layer(step), y)
    linear = Linear(4, 3)
    torch.testing.assert_close(linear(x[..., 0, 0])[-1], linear(x[-1, ..., 0, 0]))


def test_parameters_have_torchs_names():
    assert list(Conv2d(2, 3, 3).state_dict()) == ["weight", "bias"]
    assert list(Linear(2, 3).state_dict()) == ["weight", "bias"]
    for norm in (BatchNorm2d(2), ThresholdBatchNorm2d(2)):
        assert norm.state_dict().keys() == torch.nn.BatchNorm2d(2).state_dict().keys()


def test_batch_norm_takes_statistics_over_steps_too():
    x = 3 + 2 * torch.randn(4, 5, 2, 6, 6)
    norm = BatchNorm2d(2, momentum=1.0)
    y = norm(x)
    flat = x.transpose(0, 2).reshape(2, -1)
    torch.testing.assert_close(norm.running_mean, flat.mean(1))
    torch.testing.assert_close(norm.running_var, flat.var(1))
    expected = (x - flat.mean(1)[:, None, None]) / (flat.var(1, unbiased=False) + 1e-5).sqrt()[:, None, None]
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("training", [True, False])
def test_threshold_batch_norm_equals_spikingjelly(training):
    alpha, v_threshold = 1 / math.sqrt(2), 0.7
    ours = ThresholdBatchNorm2d(3, alpha, v_threshold).train(training)
    theirs = sj_layer.ThresholdDependentBatchNorm2d(alpha, v_threshold, 3).train(training)
    for seed in range(3):
        x = 1 + 2 * torch.randn(4, 5, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    assert ours.num_batches_tracked == theirs.num_batches_tracked


def test_threshold_batch_norm_by_its_equation():
    norm = ThresholdBatchNorm2d(1, alpha=0.5, v_threshold=4.0, eps=1e-12)
    torch.nn.init.constant_(norm.weight, 3.0)
    torch.nn.init.constant_(norm.bias, 10.0)
    y = norm(torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1))
    assert y.flatten().tolist() == pytest.approx([10 - 6, 10 + 6])
    assert "alpha=0.5, v_threshold=4" in repr(norm)


@pytest.mark.parametrize("arguments", [{"alpha": 0.0}, {"alpha": math.nan}, {"v_threshold": -1.0}])
def test_threshold_batch_norm_refuses(arguments):
    with pytest.raises(ConfigError, match="must be above 0"):
        ThresholdBatchNorm2d(2, **arguments)


def test_max_pool_keeps_an_axis_shorter_than_its_window():
    pool = MaxPool2d(2)
    assert pool(torch.zeros(3, 2, 1, 1)).shape == (3, 2, 1, 1)
    x = torch.arange(5.0).reshape(1, 1, 1, 5)
    assert pool(x).tolist() == [[[[1.0, 3.0]]]]
    x = torch.randn(2, 3, 7, 8)
    torch.testing.assert_close(pool(x), torch.nn.functional.max_pool2d(x, 2))


def test_zero_pad_is_central():
    padded = ZeroPad(5)(torch.ones(1, 1, 2, 4))
    expected = torch.zeros(5, 5)
    expected[1:3, 0:4] = 1
    assert torch.equal(padded[0, 0], expected)
    x = torch.ones(1, 1, 7, 3)
    assert ZeroPad(5)(x).shape == (1, 1, 7, 5)
    assert ZeroPad(3)(x) is x
    assert ZeroPad(32)(torch.ones(1, 1, 28, 28))[0, 0, 2:30, 2:30].all()


def test_repeat_copies_nothing():
    x = torch.randn(2, 3, 4, 4)
    y = RepeatOverTime(5)(x)
    assert y.shape == (5, 2, 3, 4, 4)
    assert y.data_ptr() == x.data_ptr()
    assert y.stride(0) == 0
    events = torch.randn(5, 2, 3, 4, 4)
    assert RepeatOverTime(5)(events) is events


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (Conv2d(3, 4, 3), (2, 1, 8, 8), r"Conv2d expects \[N, 3, H, W\] or \[T, N, 3, H, W\], got \[2, 1, 8, 8\]"),
        (Conv2d(3, 4, 3), (3, 8, 8), r"got \[3, 8, 8\]"),
        (Conv2d(3, 4, 3), (1, 1, 1, 3, 8, 8), r"got \[1, 1, 1, 3, 8, 8\]"),
        (Linear(6, 2), (4, 5), r"Linear expects \[N, 6\] or \[T, N, 6\], got \[4, 5\]"),
        (BatchNorm2d(3), (2, 4, 8, 8), r"BatchNorm2d expects \[N, 3, H, W\]"),
        (BatchNorm2d(3), (1, 3, 1, 1), "one value per channel"),
        (MaxPool2d(2), (2, 4), r"MaxPool2d expects \[N, C, H, W\]"),
        (AdaptiveAvgPool2d(1), (2, 4), "AdaptiveAvgPool2d expects"),
        (Flatten(), (2, 4), "Flatten expects"),
        (ZeroPad(4), (2, 4), "ZeroPad expects"),
        (RepeatOverTime(5), (2, 4), r"RepeatOverTime expects \[N, C, H, W\]"),
        (RepeatOverTime(5), (4, 2, 1, 8, 8), "time_steps=5, but the input .* has 4 steps"),
    ],
)
def test_wrong_shapes(layer, shape, message):
    with pytest.raises(ShapeError, match=message):
        layer(torch.zeros(shape))
