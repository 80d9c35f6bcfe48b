"""Sparse topologies: how they are drawn, scheduled, held and changed."""

from ndsnn.sparse.compressed import CompressedConv2d, CompressedLinear
from ndsnn.sparse.conversion import compress, decompress
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
    "CompressedConv2d",
    "CompressedLinear",
    "Distribution",
    "LayerRow",
    "SparseLayer",
    "UpdateSchedule",
    "compress",
    "cosine_ratio",
    "cubic_count",
    "decompress",
    "fit_schedule",
    "layer_counts",
    "layer_report",
    "set_masks",
    "sparse_layers",
    "sparsify",
    "sparsity",
    "to_dense",
]
