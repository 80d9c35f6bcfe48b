"""NDSNN: drop more than is grown, from a denser start to the target (Huang et al., DAC 2023)."""

from __future__ import annotations

from ndsnn.sparse.methods.base import SparseTraining


class NDSNN(SparseTraining):
    """Neurogenesis-inspired drop and grow: sparse from the first step, ever sparser until θf.

    Each layer goes from its density at θi to that at θf on the cubic ramp of Eq. 4. In a round d(q)·N_pre
    connections of smallest |w| die (Eq. 5–7) and fewer, those of largest |∂L/∂w|, are born (Eq. 8, 9).
    These are the rules of `SparseTraining` as they stand.

    `net` is sparsified at θi beforehand: `ndsnn.sparsify(net, 0.7)`.
    """
