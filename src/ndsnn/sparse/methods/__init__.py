"""The sparse-training methods, by name."""

from ndsnn.registry import Registry
from ndsnn.sparse.methods.base import (
    ConstantSparsity,
    LayerUpdate,
    SparseTraining,
    TopologyUpdate,
    accepted_settings,
)
from ndsnn.sparse.methods.dst_ee import DSTEE
from ndsnn.sparse.methods.gmp import GMP
from ndsnn.sparse.methods.granet import GraNet
from ndsnn.sparse.methods.ndsnn import NDSNN
from ndsnn.sparse.methods.rigl import RigL
from ndsnn.sparse.methods.set import SET
from ndsnn.sparse.methods.static import Dense, Static

methods: Registry[type[SparseTraining]] = Registry("method")
for _name, _method in {
    "ndsnn": NDSNN,
    "set": SET,
    "rigl": RigL,
    "static": Static,
    "gmp": GMP,
    "granet": GraNet,
    "dst-ee": DSTEE,
    "dense": Dense,
}.items():
    methods.register(_name)(_method)


__all__ = [
    "DSTEE",
    "GMP",
    "NDSNN",
    "SET",
    "ConstantSparsity",
    "Dense",
    "GraNet",
    "LayerUpdate",
    "RigL",
    "SparseTraining",
    "Static",
    "TopologyUpdate",
    "accepted_settings",
    "methods",
]
