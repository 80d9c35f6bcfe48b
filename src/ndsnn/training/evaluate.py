"""Loss and accuracy of a network on images it does not learn from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ndsnn.losses import predict
from ndsnn.training.activity import ActivityMeter


class Evaluation(NamedTuple):
    """Mean loss and fraction of images classified correctly, over `images` images."""

    loss: float
    accuracy: float
    images: int


@torch.no_grad()
def evaluate(
    net: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    criterion: Callable[[Tensor, Tensor], Tensor],
    meter: ActivityMeter | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Run the network in evaluation mode; its mode is restored afterwards.

    Args:
        net: Images [N,C,H,W] → logits [T,N,classes].
        batches: Images and labels.
        criterion: Loss of logits and labels.
        meter: Counts spikes and operations where given.
        interrupted: Asked before each batch; true ends the evaluation.

    Returns:
        The result, or None if interrupted.
    """
    was_training = net.training
    net.eval()
    loss_sum, correct, seen = 0.0, 0, 0
    try:
        for x, y in batches:
            if interrupted():
                return None
            if meter is None:
                logits = net(x)
            else:
                with meter.counting():
                    logits = net(x)
            loss_sum += float(criterion(logits, y)) * len(y)
            correct += int((predict(logits) == y).sum())
            seen += len(y)
    finally:
        net.train(was_training)
    return Evaluation(loss_sum / seen, correct / seen, seen)
