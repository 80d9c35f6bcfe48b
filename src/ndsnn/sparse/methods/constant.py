"""What the methods share that exchange connections at a constant sparsity."""

from __future__ import annotations

from ndsnn.errors import SparsityError
from ndsnn.sparse.methods.base import SparseTraining


class ConstantSparsity(SparseTraining):
    """Base of the methods that keep the number of alive weights of each layer from start to end."""

    def plan_final_counts(self) -> dict[str, int]:
        """Return the network's own counts.

        Raises:
            SparsityError: The network does not have θf already.
        """
        wanted = sum(
            self.distribution.counts(
                {layer.name: layer.shape for layer in self.layers}, self.final_sparsity
            ).values()
        )
        if wanted != sum(self.initial_counts.values()):
            raise SparsityError(
                f"{type(self).__name__} keeps the network's sparsity, which is {self.current_sparsity():.6g}, "
                f"but final_sparsity is {self.final_sparsity}: call ndsnn.sparsify(net, {self.final_sparsity}), "
                f"or, of imported masks, give final_sparsity=ndsnn.sparsity(net)"
            )
        return dict(self.initial_counts)

    def target_counts(self, q: int) -> dict[str, int]:
        """Return the same counts for every round."""
        return dict(self.initial_counts)
