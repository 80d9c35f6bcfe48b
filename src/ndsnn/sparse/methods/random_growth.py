"""Growth at random, and the control that tells what NDSNN owes to its growth rule."""

from __future__ import annotations

from torch import Tensor

from ndsnn.sparse.handle import SparseLayer
from ndsnn.sparse.methods.base import SparseTraining
from ndsnn.sparse.methods.ndsnn import NDSNN
from ndsnn.sparse.selection import random_scores, stream_key


class RandomGrowth(SparseTraining):
    """Base of the methods whose newborn are drawn at random.

    Which places depends on (seed, round, layer name) alone.
    """

    needs_gradient = False

    def grow_scores(self, layer: SparseLayer, positions: Tensor, gradient: Tensor | None) -> Tensor:
        """Return a uniform random number for each place."""
        return random_scores(stream_key("grow", self.seed, str(self.current_round), layer.name), positions)


class RandomNDSNN(RandomGrowth, NDSNN):
    """NDSNN's schedule with SET's growth: what is left of NDSNN's lead without the gradient.

    As RigL and NDSNN grow by the same rule and SET and this one too, the four together tell the schedule's part
    from the growth rule's.
    """
