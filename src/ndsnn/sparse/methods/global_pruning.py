"""Pruning over all layers at once: one threshold, from which the layers find their own densities."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from ndsnn.errors import NonFiniteError, SparsityError
from ndsnn.sparse.selection import largest, smallest


def global_counts(
    scores: Mapping[str, Tensor],
    total: int,
    dense: Collection[str] = (),
    limits: Mapping[str, tuple[int, int]] | None = None,
) -> dict[str, int]:
    """Return how many weights each layer keeps if the `total` largest scores of all layers stay.

    Each layer keeps at least one. Ties go to the layer whose name comes first, whatever the order of layers.

    Args:
        scores: Scores [nnz] of the alive weights of each layer.
        total: Weights that stay, those of the dense layers counted in.
        dense: Names of layers that keep all they have.
        limits: The least and the most that a layer keeps; without, 1 and all. Those of dense layers are not read.

    Raises:
        SparsityError: `total` is less than what the layers keep at least, or more than they keep at most.
    """
    pinned = {name: len(score) for name, score in scores.items() if name in dense}
    names = sorted(name for name in scores if name not in pinned)
    if not names:
        return pinned
    limits = limits or {name: (1, len(scores[name])) for name in names}
    least, left = {name: limits[name][0] for name in names}, total - sum(pinned.values())
    fewest, most = sum(least.values()), sum(limits[name][1] for name in names)
    if not fewest <= left <= most:
        raise SparsityError(
            f"{total} weights are to stay, but {sum(pinned.values())} are in dense layers and the other "
            f"{len(names)} layers keep at least {fewest} and at most {most}; make fewer layers dense or lower "
            f"the sparsity"
        )
    ranked = {name: scores[name].sort(descending=True).values[slice(*limits[name])] for name in names}
    chosen = largest(torch.cat(list(ranked.values())), left - fewest)
    owner = torch.repeat_interleave(torch.tensor([len(score) for score in ranked.values()]))
    more = torch.bincount(owner[chosen.cpu()], minlength=len(names)).tolist()
    return pinned | {name: least[name] + count for name, count in zip(names, more, strict=True)}


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
