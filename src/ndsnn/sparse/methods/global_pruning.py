"""Pruning over all layers at once: one threshold, from which the layers find their own densities."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from ndsnn.errors import NonFiniteError, SparsityError
from ndsnn.sparse.selection import largest, smallest


def global_counts(scores: Mapping[str, Tensor], total: int, dense: Collection[str] = ()) -> dict[str, int]:
    """Return how many weights each layer keeps if the `total` largest scores of all layers stay.

    Each layer keeps at least one. Ties go to the layer whose name comes first, whatever the order of layers.

    Args:
        scores: Scores [nnz] of the alive weights of each layer.
        total: Weights that stay, those of the dense layers counted in.
        dense: Names of layers that keep all they have.

    Raises:
        SparsityError: The dense layers, with one weight of every other layer, are more than `total`.
    """
    pinned = {name: len(score) for name, score in scores.items() if name in dense}
    names = sorted(name for name in scores if name not in pinned)
    left = total - sum(pinned.values())
    if left < len(names):
        raise SparsityError(
            f"{total} weights are to stay, but {sum(pinned.values())} are in dense layers and each of the other "
            f"{len(names)} layers keeps at least one; make fewer layers dense or lower the sparsity"
        )
    guarded = []
    for name in names:
        score = scores[name].clone()
        score[score.argmax()] = torch.inf
        guarded.append(score)
    if not names:
        return pinned
    kept = largest(torch.cat(guarded), left)
    owner = torch.repeat_interleave(torch.tensor([score.numel() for score in guarded]))
    counts = torch.bincount(owner[kept.cpu()], minlength=len(names)).tolist()
    return pinned | dict(zip(names, counts, strict=True))


def global_prune_masks(
    scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], total: int, dense: Collection[str] = ()
) -> dict[str, Tensor]:
    """Return the masks that are left when all but the `total` largest scores are pruned, over all layers at once.

    Args:
        scores: Scores of the alive weights [nnz] of each layer, in the order of their flat positions.
        masks: The present masks by layer.
        total: Weights that stay alive.
        dense: Names of layers that are not pruned.

    Returns:
        New masks, each a part of the one before.

    Raises:
        SparsityError: `total` is too small (see `global_counts`).
        NonFiniteError: A score is not finite.
    """
    for name, score in scores.items():
        if not bool(torch.isfinite(score).all()):
            raise NonFiniteError(f"a weight of layer {name!r} is not finite; nothing was pruned")
    pruned = {}
    for name, count in global_counts(scores, total, dense).items():
        flat = masks[name].flatten().clone()
        positions = torch.nonzero(flat).flatten()
        flat[positions[smallest(scores[name], len(positions) - count)]] = False
        pruned[name] = flat.view(masks[name].shape)
    return {name: pruned[name] for name in masks}
