"""The methods by name, and what each may be told."""

from __future__ import annotations

import inspect

from ndsnn.registry import Registry
from ndsnn.sparse.methods.base import SparseTraining
from ndsnn.sparse.methods.dst_ee import DSTEE
from ndsnn.sparse.methods.granet import GraNet
from ndsnn.sparse.methods.lamp import LampNDSNN
from ndsnn.sparse.methods.ndsnn import NDSNN
from ndsnn.sparse.methods.pruning.admm import ADMM
from ndsnn.sparse.methods.pruning.gmp import GMP
from ndsnn.sparse.methods.pruning.lth import LTH
from ndsnn.sparse.methods.pruning.online import OnlinePruning
from ndsnn.sparse.methods.pruning.snip import SNIP
from ndsnn.sparse.methods.pruning.stdp import STDPPruning
from ndsnn.sparse.methods.random_growth import RandomNDSNN
from ndsnn.sparse.methods.rigl import RigL
from ndsnn.sparse.methods.set import SET
from ndsnn.sparse.methods.static import Dense, Static

_METHODS: dict[str, type[SparseTraining]] = {
    "ndsnn": NDSNN,
    "ndsnn-random": RandomNDSNN,
    "ndsnn-lamp": LampNDSNN,
    "set": SET,
    "rigl": RigL,
    "static": Static,
    "snip": SNIP,
    "gmp": GMP,
    "online": OnlinePruning,
    "stdp": STDPPruning,
    "granet": GraNet,
    "dst-ee": DSTEE,
    "lth": LTH,
    "admm": ADMM,
    "dense": Dense,
}

methods: Registry[type[SparseTraining]] = Registry("method")
for _name, _method in _METHODS.items():
    methods.register(_name)(_method)


def accepted_settings(method: type[SparseTraining]) -> frozenset[str]:
    """Return the names of the keyword settings that `method` takes, inherited ones included."""
    names: set[str] = set()
    for cls in method.__mro__:
        if "__init__" not in vars(cls):
            continue
        parameters = inspect.signature(vars(cls)["__init__"]).parameters.values()
        names |= {p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    return frozenset(names)
