"""SET: drop the smallest weights, grow at random (Mocanu et al. 2018)."""

from __future__ import annotations

from ndsnn.sparse.methods.constant import ConstantSparsity
from ndsnn.sparse.methods.random_growth import RandomGrowth


class SET(RandomGrowth, ConstantSparsity):
    """Keep the sparsity; in each round the d(q)·nnz smallest |w| die and as many random places are born.

    Which places depends on (seed, round, layer name) alone.
    """
