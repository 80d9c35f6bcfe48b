"""`accelerate`: a network that runs on the engine, with the names and parameters of the one it was made of."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ndsnn.engine.backends import BackendChoice, choose_backend
from ndsnn.engine.executor import MEMORY_MODES, Executor
from ndsnn.engine.foreign.states import ForeignModules, live_states, stateful_modules
from ndsnn.engine.graph import Graph, Source
from ndsnn.engine.lowering import Lowered, lower_network
from ndsnn.engine.passes import Observer
from ndsnn.errors import ConfigError, ShapeError, UnsupportedLayerError, unknown_name
from ndsnn.sparse.conversion import compress, decompress
from ndsnn.sparse.topology import RECORD

_CARRIED = ("build_config", RECORD, "time_steps")
_OWN = ("observer", "backend_name", "backend_reason")


class Accelerated(nn.Module):
    """A network on the engine. Made by `accelerate`.

    Its children and their paths are those of the original network; conv and linear layers are compressed.
    `forward` doesn't call them: it runs the whole network as one function, which reads their parameters, buffers
    and modes.

    Args:
        template: The compressed network, which is taken over.
        lowered: What it was lowered to.
        backend: What it runs on.
        memory: "auto", "recompute" or "store".

    Attributes:
        observer: Is told what passes through at every forward pass (see `Observer`), or None.
        backend_name: "native" or "reference".
        backend_reason: Why it is that one.
    """

    def __init__(self, template: nn.Module, lowered: Lowered | Graph, backend: BackendChoice, memory: str) -> None:
        super().__init__()
        # In a tuple, so that it is no child. Both share their children, so that both see any change of them.
        self._template = (template,)
        self._modules, self._parameters, self._buffers = template._modules, template._parameters, template._buffers
        self._non_persistent_buffers_set = template._non_persistent_buffers_set
        self.training = template.training
        for _, framework, module in stateful_modules(template):
            framework.adopt(module)
        _carry(template, self)
        self._lowered = Lowered(lowered, ForeignModules()) if isinstance(lowered, Graph) else lowered
        self._executor = Executor(self._lowered.graph, backend.make, backend.dtype, memory)
        self.observer: Observer | None = None
        self.backend_name = backend.name
        self.backend_reason = backend.reason

    @property
    def graph(self) -> Graph:
        """What the network was lowered to, without what runs around it (`ndsnn.engine.lowering.Lowered`)."""
        return self._executor.graph

    def forward(self, x: Tensor) -> Any:
        """Return the logits [T, N, classes] ([T, N, classes, H, W] where the readout is a convolution).

        A network of another framework returns what its own forward returns.

        A graph of autograd can be gone back through once, whatever `retain_graph` says.

        Args:
            x: Images [N, C, H, W] or events [T, N, C, H, W] on the CPU, of the dtype of the parameters. That all
                values are finite is not checked. A network of another framework that begins with a linear layer
                takes features [T, N, F]; what it does in front of its first layer it does here too.

        Raises:
            ShapeError: `x` has other axes, channels or steps than the network takes, or no samples; or a norm in
                training mode has one value per channel (norms in front of it have seen the batch by then).
            ConfigError: `x` or a parameter is of another dtype or on another device, or another framework's neuron
                has been changed.
            StateError: Another framework's neuron has not been reset since the last call.
            UnsupportedLayerError: A norm in training mode would take the statistics of one step at a time.
        """
        foreign, head, tail = self._lowered.foreign, self._lowered.head, self._lowered.tail
        foreign.require_ready(self)
        foreign.begin(self)
        logits = self._run(x if head is None else head.run(self, x))
        foreign.spend(self)
        return logits if tail is None else tail.run(self, logits)

    def _run(self, x: Tensor) -> Tensor:
        """Run the graph."""
        source = self.graph.nodes[0]
        features = isinstance(source, Source) and source.features
        axes = "N, F" if features else "N, C, H, W"
        one_step = 2 if features else 4
        if x.ndim not in (one_step, one_step + (not self._lowered.images_only)) or 0 in x.shape:
            expected = f"[{axes}]" + ("" if self._lowered.images_only else f" or [T, {axes}]")
            raise ShapeError(
                f"an accelerated network expects {expected} with at least one sample, got {list(x.shape)}"
            )
        return self._executor.run(self, x[..., None, None] if features else x, self.observer)

    def decompressed(self) -> nn.Module:
        """Return a copy as the plain network: the original's class, dense weights with true zeros, and masks."""
        plain = copy.deepcopy(self._template[0], live_states(self._template[0]))
        for _, framework, module in stateful_modules(plain):
            framework.reset(module)
            framework.adopt(module)
        plain.training = self.training
        _carry(self, plain)
        return decompress(plain)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the observer out of copies."""
        return self.__dict__ | {"observer": None}

    def extra_repr(self) -> str:
        """Return the settings for `print(net)`."""
        return f"backend={self.backend_name!r}, memory={self._executor.memory!r}"


def accelerate(
    net: nn.Module, memory: str = "auto", precision: str = "fp32", backend: str = "auto"
) -> Accelerated:
    """Return a network of the same call signature that runs on the engine; `net` stays as it is.

    Its conv and linear layers hold their alive weights only. Optimizers and training methods are made for the
    result, not for `net`.

    Args:
        net: A network of the layers that `ndsnn.engine.lowering.lower` knows, sparse or dense, on the CPU.
        memory: Whether the currents of all layers are kept until the backward pass ("store": fastest), computed
            again there ("recompute": smallest), or kept where that is faster and all of it fits into half of the
            free memory ("auto").
        precision: How gradients and currents are stored between the kernels: "fp32", or "mixed" for 16 bits.
        backend: "native", "reference" (plain torch), or "auto": what the environment variable NDSNN_BACKEND
            names, or else the native one where it can run.

    Returns:
        The network; `backend_name` and `backend_reason` say what it runs on and why.

    Raises:
        UnsupportedLayerError: A layer, or its place, has no lowering.
        ConfigError: An option is unknown or can't be had, or `net` is not of one floating point type on the CPU.
        MissingDependencyError: The native back end was asked for and is not there.
        SparsityError: A weight can't be compressed.
        StateError: A neuron of another framework is not at rest.
    """
    if isinstance(net, Accelerated):
        raise ConfigError("the network is accelerated already; use it as it is, or accelerate(net.decompressed())")
    if memory not in MEMORY_MODES:
        raise ConfigError(unknown_name("memory mode", str(memory), MEMORY_MODES))
    lowered = lower_network(net)
    _require_ordinary(net)
    choice = choose_backend(backend, precision, _dtype_of(net))
    return Accelerated(compress(copy.deepcopy(net, live_states(net))), lowered, choice, memory)


def _require_ordinary(net: nn.Module) -> None:
    """Check what lowering does not see of the outermost module.

    Raises:
        UnsupportedLayerError: It has hooks, which would never be called, or a child of a name that is taken.
    """
    if any((net._forward_hooks, net._forward_pre_hooks, net._backward_hooks, net._backward_pre_hooks)):
        raise UnsupportedLayerError(
            f"the network ({type(net).__name__}) has hooks, which the engine never calls; remove them first"
        )
    taken = [name for name in net._modules if name in _OWN or hasattr(Accelerated, name)]
    if taken:
        raise UnsupportedLayerError(
            f"layer {taken[0]!r} has a name that an accelerated network needs for itself; rename it"
        )


def _dtype_of(net: nn.Module) -> torch.dtype:
    """Return the dtype that all parameters have.

    Raises:
        ConfigError: They differ in it, or are not on the CPU.
    """
    (_, first), *_ = net.named_parameters()
    for name, parameter in net.named_parameters():
        if parameter.dtype != first.dtype or parameter.device.type != "cpu":
            raise ConfigError(
                f"parameter {name!r} is {parameter.dtype} on {parameter.device}; "
                f"the engine needs all of them on the CPU, in one dtype (here {first.dtype})"
            )
    return first.dtype


def _carry(source: nn.Module, target: nn.Module) -> None:
    """Make `target` say of its making and its sparsity what `source` says."""
    for name in _CARRIED:
        target.__dict__.pop(name, None)
        if name in vars(source):
            target.__dict__[name] = copy.deepcopy(vars(source)[name])
