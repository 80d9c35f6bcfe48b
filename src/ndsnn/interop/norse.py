"""Norse: its cells and sequences are sparsified and trained as they come; the engine has no lowering for them.

`LIFCell` keeps a voltage and a current, so its input is filtered twice; no setting makes it `ndsnn.lif`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from ndsnn.engine.foreign.framework import Framework
from ndsnn.engine.sites import Site
from ndsnn.neurons import LIFParameters


class Norse(Framework):
    """The adapter: no layer of it has a lowering."""

    name = "Norse"
    refusal = "the engine has no equal of Norse's neurons, which keep a synaptic current beside their potential"
    reset_hint = "pass no state"

    @property
    def kinds(self) -> Mapping[type[nn.Module], type[nn.Module]]:
        """Return no class."""
        return MappingProxyType({})

    def require(self, site: Site, module: nn.Module, folded: bool) -> None:
        """Refuse all."""
        raise self._no_lowering(site)

    def neuron(self, site: Site, module: Any) -> LIFParameters:
        """Refuse all."""
        raise self._no_lowering(site)

    def at_rest(self, module: Any) -> bool:
        """Say yes: states are arguments."""
        return True

    def spend(self, module: Any) -> None:
        """Do nothing: states are arguments."""

    def reset(self, module: Any) -> None:
        """Do nothing: states are arguments."""

    def _no_lowering(self, site: Site) -> Exception:
        return site.unsupported("the engine has no lowering for Norse's layers", "use sparsify alone")


def adapter() -> Framework:
    """Return the adapter."""
    return Norse()
