"""SET: drop the smallest weights, grow at random (Mocanu et al. 2018)."""

from __future__ import annotations

from torch import Tensor

from ndsnn.sparse.handle import SparseLayer
from ndsnn.sparse.methods.constant import ConstantSparsity
from ndsnn.sparse.selection import random_scores, stream_key


class SET(ConstantSparsity):
    """Keep the sparsity; in each round the d(q)·nnz smallest |w| die and as many random places are born.

    Which places depends on (seed, round, layer name) alone.
    """

    needs_gradient = False

    def grow_scores(self, layer: SparseLayer, positions: Tensor, gradient: Tensor | None) -> Tensor:
        """Return a uniform random number for each place."""
        return random_scores(stream_key("grow", self.seed, str(self.current_round), layer.name), positions)
