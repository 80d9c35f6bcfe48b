"""Sparse spiking neural networks, trained for real: NDSNN and its rivals, exact and resumable.

net = ndsnn.models.vgg16(num_classes=10, time_steps=5)
ndsnn.sparsify(net, sparsity=0.7)
net = ndsnn.accelerate(net)  # optional: the engine that makes every zero count
optimizer = torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9, weight_decay=5e-4)
rewire = ndsnn.NDSNN(net, optimizer, final_sparsity=0.95, total_steps=len(loader) * epochs)
for x, y in loader:
    loss = ndsnn.losses.mean_step_cross_entropy(net(x), y)
    optimizer.zero_grad(); loss.backward(); optimizer.step(); rewire.step()
ndsnn.save(net, "net.safetensors")
"""

from importlib.metadata import version

from ndsnn import data, errors, losses, models
from ndsnn.engine import Accelerated, accelerate
from ndsnn.errors import NdsnnError
from ndsnn.interop.frameworks import register_adapters
from ndsnn.interop.prune_masks import from_prune, to_prune
from ndsnn.neurons import LIF, LIFParameters, lif
from ndsnn.sparse.methods import (
    ADMM,
    DSTEE,
    GMP,
    LTH,
    NDSNN,
    SET,
    SNIP,
    ConstantSparsity,
    Dense,
    GraNet,
    LampNDSNN,
    OnlinePruning,
    RandomNDSNN,
    RigL,
    SparseTraining,
    Static,
    STDPPruning,
    methods,
    snip,
)
from ndsnn.sparse.sparsify import layer_report, sparsify, sparsity, to_dense
from ndsnn.sparse.storage import load, save

register_adapters()

__version__ = version("ndsnn")

__all__ = [
    "ADMM",
    "DSTEE",
    "GMP",
    "LIF",
    "LTH",
    "NDSNN",
    "SET",
    "SNIP",
    "Accelerated",
    "ConstantSparsity",
    "Dense",
    "GraNet",
    "LIFParameters",
    "LampNDSNN",
    "NdsnnError",
    "OnlinePruning",
    "RandomNDSNN",
    "RigL",
    "STDPPruning",
    "SparseTraining",
    "Static",
    "__version__",
    "accelerate",
    "data",
    "errors",
    "from_prune",
    "layer_report",
    "lif",
    "load",
    "losses",
    "methods",
    "models",
    "save",
    "snip",
    "sparsify",
    "sparsity",
    "to_dense",
    "to_prune",
]
