"""Whether all ranks of a training have the same sparse network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch

from ndsnn.ranks import present_ranks
from ndsnn.sparse.handle import SparseLayer


def require_same_topology(layers: Iterable[SparseLayer], when: str) -> None:
    """Check that the same weights are alive on all ranks, with the same values to the bit.

    Args:
        layers: All sparse layers.
        when: For the message, as in "after round 3".

    Raises:
        RankError: They are not.
    """
    ranks = present_ranks()
    if ranks.alone:
        return
    digest = hashlib.sha256()
    for layer in layers:
        for tensor in (layer.packed_mask(), layer.active_values()):
            digest.update(tensor.contiguous().view(torch.uint8).cpu().numpy().tobytes())
    ranks.require_same(digest.digest(), f"the sparse weights {when}")
