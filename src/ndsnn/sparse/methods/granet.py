"""GraNet: global magnitude pruning on a cubic ramp, then drop and regrow (Liu et al., NeurIPS 2021)."""

from __future__ import annotations

from fractions import Fraction

from ndsnn.sparse.distributions import round_half_up
from ndsnn.sparse.handle import SparseLayer
from ndsnn.sparse.methods.base import SparseTraining
from ndsnn.sparse.methods.global_pruning import global_counts
from ndsnn.sparse.schedules import cubic_count


class GraNet(SparseTraining):
    """Prune over all layers by |w| to the cubic ramp's total, then exchange d(q) of each layer by |∂L/∂w|.

    The layers find their own densities; each keeps at least one weight. A network without masks starts dense;
    the paper's sparse-to-sparse form starts at `sparsify(net, 0.5)`.
    """

    starts_dense = True

    def target_counts(self, q: int) -> dict[str, int]:
        """Return what a global magnitude threshold leaves in each layer."""
        total = cubic_count(
            sum(self.initial_counts.values()), sum(self.final_counts.values()), q, self._rounds_planned()
        )
        dense = self.distribution.dense_names(layer.name for layer in self.layers)
        return global_counts({layer.name: self.drop_scores(layer) for layer in self.layers}, total, dense)

    def growth_count(self, q: int, alive: int, target: int) -> int:
        """Return d(q) of the weights that are left after pruning."""
        return round_half_up(Fraction(self.death_ratio(q) * target))

    def max_growth(self, layer: SparseLayer, q: int) -> int:
        """Return d(q) of the present weights: the optimizer's step decides how many of them pruning leaves."""
        return self.growth_count(q, layer.nnz, layer.nnz)
