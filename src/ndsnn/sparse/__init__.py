"""Sparse topologies: how they are drawn, scheduled, held and changed."""

from ndsnn.sparse.distributions import layer_counts
from ndsnn.sparse.schedules import UpdateSchedule, cosine_ratio, cubic_count, fit_schedule
from ndsnn.sparse.sparsify import (
    Distribution,
    LayerRow,
    layer_report,
    set_masks,
    sparsify,
    sparsity,
    to_dense,
)
from ndsnn.sparse.topology import SparseLayer, sparse_layers

__all__ = [
    "Distribution",
    "LayerRow",
    "SparseLayer",
    "UpdateSchedule",
    "cosine_ratio",
    "cubic_count",
    "fit_schedule",
    "layer_counts",
    "layer_report",
    "set_masks",
    "sparse_layers",
    "sparsify",
    "sparsity",
    "to_dense",
]
