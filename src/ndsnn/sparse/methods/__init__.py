"""The sparse-training methods, one class and one file each."""

from ndsnn.sparse.methods.base import SparseTraining
from ndsnn.sparse.methods.constant import ConstantSparsity
from ndsnn.sparse.methods.dst_ee import DSTEE
from ndsnn.sparse.methods.granet import GraNet
from ndsnn.sparse.methods.lamp import LampNDSNN
from ndsnn.sparse.methods.ndsnn import NDSNN
from ndsnn.sparse.methods.pruning.admm import ADMM
from ndsnn.sparse.methods.pruning.gmp import GMP
from ndsnn.sparse.methods.pruning.lth import LTH
from ndsnn.sparse.methods.pruning.online import OnlinePruning
from ndsnn.sparse.methods.pruning.snip import SNIP, snip
from ndsnn.sparse.methods.pruning.stdp import STDPPruning
from ndsnn.sparse.methods.random_growth import RandomNDSNN
from ndsnn.sparse.methods.registry import accepted_settings, methods
from ndsnn.sparse.methods.rigl import RigL
from ndsnn.sparse.methods.set import SET
from ndsnn.sparse.methods.static import Dense, Static
from ndsnn.sparse.methods.updates import LayerUpdate, TopologyUpdate

__all__ = [
    "ADMM",
    "DSTEE",
    "GMP",
    "LTH",
    "NDSNN",
    "SET",
    "SNIP",
    "ConstantSparsity",
    "Dense",
    "GraNet",
    "LampNDSNN",
    "LayerUpdate",
    "OnlinePruning",
    "RandomNDSNN",
    "RigL",
    "STDPPruning",
    "SparseTraining",
    "Static",
    "TopologyUpdate",
    "accepted_settings",
    "methods",
    "snip",
]
