"""The states of another framework's neurons, which it keeps between calls and the engine does not.

The engine begins every call at rest. So that no number differs silently, a call is refused unless the framework's
own reset has come since the last one, or the network's forward resets itself.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from ndsnn.engine.foreign.framework import Framework, framework_of
from ndsnn.engine.graph import Dropout, Graph, Neuron
from ndsnn.engine.norms import uses_batch_statistics
from ndsnn.engine.sites import Site
from ndsnn.errors import ConfigError, StateError, UnsupportedLayerError
from ndsnn.neurons import LIFParameters


@dataclass(frozen=True)
class ForeignModules:
    """The modules of a lowered network whose framework has a say in every call.

    Args:
        neurons: Paths of neurons that the engine runs, with what they were lowered to.
        dropouts: Paths of dropouts that keep their mask.
        resetting: Paths of those that the network's own forward brings to rest.
        single_step_norms: Paths of norms that the original calls step by step.
    """

    neurons: Mapping[str, LIFParameters] = field(default_factory=dict)
    dropouts: tuple[str, ...] = ()
    resetting: frozenset[str] = frozenset()
    single_step_norms: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, net: nn.Module, graph: Graph, resetting: frozenset[str], single_step_norms: tuple[str, ...]
    ) -> ForeignModules:
        """Collect those of a graph."""
        neurons = {
            node.path: node.parameters
            for node in graph.nodes
            if isinstance(node, Neuron) and framework_of(net.get_submodule(node.path)) is not None
        }
        dropouts = tuple(node.path for node in graph.nodes if isinstance(node, Dropout))
        return cls(neurons, dropouts, resetting, single_step_norms)

    def require_ready(self, net: nn.Module) -> None:
        """Check that the engine computes what the framework would.

        Raises:
            StateError: A neuron has not been reset since the last call.
            ConfigError: A neuron has been changed since the network was accelerated.
            UnsupportedLayerError: A norm would take the statistics of one step at a time.
        """
        for site, framework, module in self._stateful(net):
            if site.path not in self.resetting and not framework.at_rest(module):
                raise not_reset(site, framework)
            known = self.neurons.get(site.path)
            if known is not None and _differs(framework.neuron(site, module), known, framework, module):
                raise ConfigError(
                    f"{site} has been changed since the network was accelerated; accelerate it again"
                )
        for path in self.single_step_norms:
            norm = net.get_submodule(path)
            if uses_batch_statistics(norm):
                raise UnsupportedLayerError(
                    f"{Site(path, type(norm).__name__)}: in training it takes the statistics of one step at a "
                    "time, the engine those of all steps; train the masked form, or call eval() first"
                )

    def begin(self, net: nn.Module) -> None:
        """Bring to rest what the network's own forward brings to rest, behind the readout too."""
        for path in self.resetting:
            module = net.get_submodule(path)
            framework = framework_of(module)
            assert framework is not None
            framework.reset(module)

    def spend(self, net: nn.Module) -> None:
        """Note that a call has been made."""
        for site, framework, module in self._stateful(net):
            if site.path in self.neurons or module.training:
                framework.spend(module)

    def _stateful(self, net: nn.Module) -> Iterator[tuple[Site, Framework, nn.Module]]:
        for path in (*self.neurons, *self.dropouts):
            module = net.get_submodule(path)
            framework = framework_of(module)
            assert framework is not None
            yield Site(path, type(module).__name__), framework, module


def _differs(now: LIFParameters, known: LIFParameters, framework: Framework, module: nn.Module) -> bool:
    """Say whether a neuron is another one than it was, apart from a τ that is a parameter."""
    return (now if framework.learned(module) is None else replace(now, tau=known.tau)) != known


def not_reset(site: Site, framework: Framework) -> StateError:
    """Return the error for a module whose state is not that of rest."""
    return StateError(
        f"{site} has not been reset since it was last called; {framework.name} would go on from there, but the "
        f"engine begins every call at rest: {framework.reset_hint}"
    )


def require_rest(net: nn.Module, resetting: Container[str]) -> None:
    """Check that all states of other frameworks' modules in `net` are those of rest.

    Args:
        net: The network.
        resetting: Paths of those that it resets itself.

    Raises:
        StateError: One is not.
    """
    for path, framework, module in stateful_modules(net):
        if path not in resetting and not framework.at_rest(module):
            raise not_reset(Site(path, type(module).__name__), framework)


def stateful_modules(net: nn.Module) -> Iterator[tuple[str, Framework, Any]]:
    """Return path, adapter and module of each module of `net` that an adapter knows as a neuron or dropout."""
    for path, module in net.named_modules():
        framework = framework_of(module)
        if framework is not None and framework.is_stateful(module):
            yield path, framework, module


def live_states(net: nn.Module) -> dict[int, Tensor]:
    """Return a detached copy of each state in `net` by its id: a memo with which `net` can be deep-copied."""
    return {
        id(state): state.detach().clone()
        for _, framework, module in stateful_modules(net)
        for state in framework.states(module)
    }
