"""Loss and accuracy of a network on images it does not learn from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from itertools import repeat
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ndsnn.losses import predict
from ndsnn.ranks import ALONE, Ranks
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
    ranks: Ranks = ALONE,
    sizes: Iterable[int] | None = None,
) -> Evaluation | None:
    """Run the network in evaluation mode; its mode is restored afterwards.

    Args:
        net: Images [N,C,H,W] → logits [T,N,classes].
        batches: Images and labels.
        criterion: Loss of logits and labels.
        meter: Counts spikes and operations where given.
        interrupted: Asked before each batch; true ends the evaluation.
        ranks: Processes that have a part of each batch each.
        sizes: Images of each whole batch, where there are several ranks.

    Returns:
        The result, or None if interrupted.
    """
    was_training = net.training
    net.eval()
    loss_sum, correct, seen = 0.0, 0, 0
    try:
        for (x, y), count in zip(batches, repeat(0) if sizes is None else sizes, strict=False):
            if interrupted():
                return None
            with ranks.batch_of(count or len(y)):
                counted = int(ranks.counts)
                with contextlib.nullcontext() if meter is None else meter.counting(ranks.counts):
                    logits = net(x)
                loss_sum += float(criterion(logits, y)) * len(y) * counted
                correct += int((predict(logits) == y).sum()) * counted
                seen += len(y) * counted
    finally:
        net.train(was_training)
    if meter is not None:
        meter.sum_over(ranks)
    totals = [sum(column) for column in zip(*ranks.gather([loss_sum, correct, seen]), strict=True)]
    return Evaluation(totals[0] / totals[2], totals[1] / totals[2], int(totals[2]))
