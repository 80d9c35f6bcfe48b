"""RigL: keep the sparsity, grow where the gradient is largest (Evci et al. 2020)."""

from __future__ import annotations

from ndsnn.sparse.methods.constant import ConstantSparsity


class RigL(ConstantSparsity):
    """Keep the sparsity; the smallest |w| die, as many places of largest |∂L/∂w| are born.

    As the paper's baseline RigL-SNN it shares the schedule of SET. The original takes `death_ratio=0.3,
    min_death_ratio=0, update_every=100`.
    """
