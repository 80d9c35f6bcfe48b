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
from ndsnn.neurons import LIF, LIFParameters, lif
from ndsnn.sparse.methods import (
    ADMM,
    DSTEE,
    GMP,
    LTH,
    NDSNN,
    SET,
    ConstantSparsity,
    Dense,
    GraNet,
    LampNDSNN,
    RandomNDSNN,
    RigL,
    SparseTraining,
    Static,
    methods,
)
from ndsnn.sparse.sparsify import layer_report, sparsify, sparsity, to_dense
from ndsnn.sparse.storage import load, save

__version__ = version("ndsnn")

__all__ = [
    "ADMM",
    "DSTEE",
    "GMP",
    "LIF",
    "LTH",
    "NDSNN",
    "SET",
    "Accelerated",
    "ConstantSparsity",
    "Dense",
    "GraNet",
    "LIFParameters",
    "LampNDSNN",
    "NdsnnError",
    "RandomNDSNN",
    "RigL",
    "SparseTraining",
    "Static",
    "__version__",
    "accelerate",
    "data",
    "errors",
    "layer_report",
    "lif",
    "load",
    "losses",
    "methods",
    "models",
    "save",
    "sparsify",
    "sparsity",
    "to_dense",
]
