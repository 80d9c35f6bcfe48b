"""Symbolic trace of a network down to the layers the engine knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn

from ndsnn.engine.leaves import Site, is_foreign_neuron, leaf_class

SITE = "ndsnn_site"
"""Key of a traced node's meta under which the `Site` stands whose forward made it."""


class _Tracer(fx.Tracer):
    """Leaves: what `leaf_class` knows, and what can only be refused by name: torch's others, foreign neurons.

    Attributes:
        sites: The modules that are being called, outermost first; after a failure, the one that failed is last.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.sites = [Site("", type(net).__name__)]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            leaf_class(m) is not None or is_foreign_neuron(m) or super().is_leaf_module(m, module_qualified_name)
        )

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if m not in (self.submodule_paths or {}) and not self.is_leaf_module(m, ""):
            # A container made on the fly, such as a slice of a Sequential, has no path; what it holds has.
            return forward(*args, **kwargs)
        self.sites.append(Site(self.path_of_module(m), type(m).__name__))
        result = super().call_module(m, forward, args, kwargs)
        self.sites.pop()
        return result

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta[SITE] = self.sites[-1]
        return node


def trace(net: nn.Module) -> fx.Graph:
    """Return the calls that `net` makes, in order, each with its `Site` in `node.meta[SITE]`.

    Raises:
        UnsupportedLayerError: The forward of a module that is no leaf cannot be traced.
    """
    tracer = _Tracer(net)
    try:
        return tracer.trace(net)
    # A forward that meets a symbolic value can fail with anything; the cause is kept.
    except Exception as error:
        raise tracer.sites[-1].unsupported(
            f"torch.fx cannot trace its forward ({type(error).__name__}: {error})",
            "build it of the layers of ndsnn.models.layers, ndsnn.LIF and sums, "
            "without Python control flow on values and shapes",
        ) from error
