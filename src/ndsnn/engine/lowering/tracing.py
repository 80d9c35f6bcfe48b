"""Symbolic trace of a network down to the layers the engine knows."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from ndsnn.engine.foreign.framework import framework_of
from ndsnn.engine.lowering.leaves import is_foreign_neuron, leaf_class
from ndsnn.engine.sites import Site

SITE = "ndsnn_site"
"""Key of a traced node's meta under which the `Site` stands whose forward made it."""

FOLDED = "ndsnn_folded"
"""Key of a traced node's meta: whether a container of another framework calls it on all steps as samples."""

ADDITIONS = (operator.add, operator.iadd, torch.add, "add")
"""Targets of calls that add."""

FLATTENINGS = (torch.flatten, "flatten")
"""Targets of calls that flatten."""


class _Tracer(fx.Tracer):
    """Leaves: what `leaf_class` knows, and what can only be refused by name: torch's others, foreign neurons.

    Modules of other frameworks without such a leaf inside are leaves too: behind the readout they can run.

    Attributes:
        sites: The modules that are being called, outermost first; after a failure, the one that failed is last.
        folding: How many of them take all steps for samples.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.sites = [Site("", type(net).__name__)]
        self.folding = 0

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            leaf_class(m) is not None
            or is_foreign_neuron(m)
            or super().is_leaf_module(m, module_qualified_name)
            or (framework_of(m) is not None and not any(map(_is_known, m.modules())))
        )

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if m not in (self.submodule_paths or {}) and not self.is_leaf_module(m, ""):
            # A container made on the fly, such as a slice of a Sequential, has no path; what it holds has.
            return forward(*args, **kwargs)
        self.sites.append(Site(self.path_of_module(m), type(m).__name__))
        framework = framework_of(m)
        if framework is not None and framework.is_sequence(m):
            self.folding += 1
            (result,) = args
            for child in m.children():
                result = child(result)
            self.folding -= 1
        else:
            result = super().call_module(m, forward, args, kwargs)
        self.sites.pop()
        return result

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta[SITE] = self.sites[-1]
        node.meta[FOLDED] = self.folding > 0
        return node


def _is_known(module: nn.Module) -> bool:
    return leaf_class(module) is not None or is_foreign_neuron(module)


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


def described(call: fx.Node) -> str:
    """Return what a call is, for messages."""
    if call.op == "call_module":
        return "it"
    if call.op == "get_attr":
        return f"the tensor {call.target!r}"
    name = call.target if isinstance(call.target, str) else getattr(call.target, "__name__", str(call.target))
    return f".{call.args[1]}" if name == "getattr" else f"{name}()"
