import math

import pytest
import torch

from ndsnn import losses
from ndsnn.errors import ShapeError


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.tensor([0, 4, 2, 2, 1, 3])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mean_step_is_the_mean_of_each_steps_loss(logits, labels, smoothing):
    expected = 0.0
    for step in logits:
        log_p = step - step.exp().sum(1, keepdim=True).log()
        target = torch.full_like(step, smoothing / 5)
        target[torch.arange(6), labels] += 1 - smoothing
        expected += -(target * log_p).sum(1).mean().item() / 4
    assert losses.mean_step_cross_entropy(logits, labels, smoothing).item() == pytest.approx(expected)


def test_losses_by_hand():
    # Two steps whose mean is uniform over two classes: log 2 of the mean, more of the steps.
    logits = torch.tensor([[[math.log(3), 0.0]], [[-math.log(3), 0.0]]])
    y = torch.tensor([0])
    assert losses.cross_entropy_of_mean_logits(logits, y).item() == pytest.approx(math.log(2))
    steps = (math.log(4 / 3) + math.log(4)) / 2
    assert losses.mean_step_cross_entropy(logits, y).item() == pytest.approx(steps)
    # Mean logits (log 3, 0), while the steps' sum would give log(10/9).
    uneven = torch.tensor([[[2 * math.log(3), 0.0]], [[0.0, 0.0]]])
    assert losses.cross_entropy_of_mean_logits(uneven, y).item() == pytest.approx(math.log(4 / 3))
    smoothed = losses.cross_entropy_of_mean_logits(torch.tensor([[[math.log(3), 0.0]]]), y, label_smoothing=0.5)
    assert smoothed.item() == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4))


def test_tet_pulls_the_logits_of_every_step_towards_the_level(logits, labels):
    # One sample, two steps, two classes: CE = log 4/3 and log 4; squares (log 3 − 1)² + 1 and (log 3 + 1)² + 1.
    third = math.log(3)
    logits_by_hand = torch.tensor([[[third, 0.0]], [[-third, 0.0]]])
    squares = ((third - 1) ** 2 + 1 + (third + 1) ** 2 + 1) / 4
    expected = 0.9 * (math.log(4 / 3) + math.log(4)) / 2 + 0.1 * squares
    loss = losses.temporal_efficient_training(logits_by_hand, torch.tensor([0]), weight=0.1)
    assert loss.item() == pytest.approx(expected)
    plain = losses.mean_step_cross_entropy(logits, labels)
    assert losses.temporal_efficient_training(logits, labels, weight=0.0).item() == pytest.approx(plain.item())
    level = (logits - 0.5).square().mean().item()
    assert losses.temporal_efficient_training(logits, labels, weight=1.0, level=0.5).item() == pytest.approx(level)


def test_predict_sums_the_steps():
    # Sums (1.0, 0.95, 1.8) and (2.0, 0.5, 1.0): neither the first nor the last step decides alone.
    logits = torch.tensor([[[1.0, 0.0, 0.9], [2.0, 0.0, 1.0]], [[0.0, 0.95, 0.9], [0.0, 0.5, 0.0]]])
    assert losses.predict(logits).tolist() == [2, 0]


def test_gradient_is_that_of_the_definition(logits, labels):
    a, b = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    losses.mean_step_cross_entropy(a, labels).backward()
    torch.stack([torch.nn.functional.cross_entropy(step, labels) for step in b]).mean().backward()
    torch.testing.assert_close(a.grad, b.grad)


def test_names():
    assert losses.LOSSES["mean_step"] is losses.mean_step_cross_entropy
    assert losses.LOSSES["mean_logits"] is losses.cross_entropy_of_mean_logits
    assert losses.LOSSES["tet"] is losses.temporal_efficient_training
    assert len(losses.LOSSES) == 3


@pytest.mark.parametrize("loss", losses.LOSSES.values())
def test_wrong_shapes(loss, logits, labels):
    with pytest.raises(ShapeError, match=r"\[T, N, classes\].*got \[6, 5\]"):
        loss(logits[0], labels)
    with pytest.raises(ShapeError, match="T >= 1"):
        loss(logits[:0], labels)
    with pytest.raises(ShapeError, match=r"one label per sample, \[6\], got \[5\]"):
        loss(logits, labels[:5])
    with pytest.raises(ShapeError, match=r"got \[6, 1\]"):
        loss(logits, labels[:, None])
    with pytest.raises(ShapeError, match="got"):
        losses.predict(logits[0])
