"""Layers of other frameworks: what the engine asks an adapter about them.

The engine imports no framework. An adapter is one file of `ndsnn.interop`. `register` tells for which package; it
is loaded when a network holds a module of that package.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from torch import Tensor, nn

from ndsnn.engine.sites import Site
from ndsnn.neurons import LIFParameters


class ForeignNeuron(nn.Module):
    """Stands for every neuron that an adapter can read, in the place of a class of torch; has no instances."""


class ForeignDropout(nn.Module):
    """Stands for every dropout that has one mask for all steps; has no instances."""


SPENT = "spent: the engine keeps no state between calls"
"""What an adapter puts in the place of a neuron's state after a call, until the framework's own reset."""


class Framework(ABC):
    """What an adapter tells of a framework's modules. All methods but `leaf` get modules for which it is not None.

    Attributes:
        name: For messages.
        kinds: For each class that has a lowering the class of `LEAVES` by whose rule it goes.
        reset_hint: How a user resets the states of a network.
        own_loops: Whether its layers take one step, so that networks of it hold the loop over time themselves.
        refusal: Why no network with modules of it is lowered, or "".
    """

    name: ClassVar[str]
    reset_hint: ClassVar[str]
    own_loops: ClassVar[bool] = False
    refusal: ClassVar[str] = ""

    @property
    @abstractmethod
    def kinds(self) -> Mapping[type[nn.Module], type[nn.Module]]:
        """Return the class of `LEAVES` for each class that has a lowering."""

    def leaf(self, module: nn.Module) -> type[nn.Module] | None:
        """Return the class of `LEAVES` by whose rule `module` goes, or None."""
        plain = self.plain_class(module)
        return None if plain is None else self.kinds[plain]

    def plain_class(self, module: nn.Module) -> type[nn.Module] | None:
        """Return the first class of `kinds` in the order in which methods are looked up."""
        return next((kind for kind in type(module).__mro__ if kind in self.kinds), None)

    def is_stateful(self, module: nn.Module) -> bool:
        """Say whether `module` keeps a state between calls that a reset takes away."""
        return self.leaf(module) in (ForeignNeuron, ForeignDropout)

    def neuron_names(self) -> list[str]:
        """Return the names of the neurons that have a lowering."""
        return sorted(
            f"{kind.__name__} of {self.name}" for kind, leaf in self.kinds.items() if leaf is ForeignNeuron
        )

    def is_sequence(self, module: nn.Module) -> bool:
        """Say whether `module` calls its children one after the other on all steps taken for samples."""
        return False

    @abstractmethod
    def require(self, site: Site, module: nn.Module, folded: bool) -> None:
        """Check the settings of a layer.

        Args:
            site: Its place.
            module: The layer.
            folded: Whether it is called inside a module for which `is_sequence` holds.

        Raises:
            UnsupportedLayerError: It is set to something that its rule does not mean.
        """

    @abstractmethod
    def neuron(self, site: Site, module: Any) -> LIFParameters:
        """Return the neuron whose spikes equal those of `module` from its state of rest on.

        Raises:
            UnsupportedLayerError: There is none.
        """

    def learned(self, module: Any) -> tuple[nn.Parameter, float] | None:
        """Return the parameter that the leak 1/τ is computed of, and its slope; None where it is a constant."""
        return None

    @abstractmethod
    def at_rest(self, module: Any) -> bool:
        """Say whether the state of `module` is that of a reset."""

    @abstractmethod
    def spend(self, module: Any) -> None:
        """Put `SPENT` in the place of the state of `module`."""

    @abstractmethod
    def reset(self, module: Any) -> None:
        """Bring `module` to its state of rest."""

    def adopt(self, module: Any) -> None:
        """Make a copy of a module known to the framework's own reset, where that needs to be told."""
        del module

    def explain(self, module: nn.Module) -> str:
        """Return what to say of a module whose forward the engine has no lowering for; "" for nothing."""
        return ""

    def tracing(self, net: nn.Module) -> AbstractContextManager[None]:
        """Return what surrounds the trace of `net`, a copy, so that resets in its forward reach that alone."""
        return nullcontext()

    def states(self, module: Any) -> Iterator[Tensor]:
        """Return the tensors of the state of `module`, which may hang on a graph of autograd."""
        return iter(())

    def dropout_mask(self, module: Any, like: Tensor) -> Tensor | None:
        """Return what `module` multiplies every step by, like `like` [N, *]; None if it does not drop."""
        raise NotImplementedError

    def gives_state(self, module: Any) -> bool:
        """Say whether a call of the neuron returns (spikes, state) rather than spikes."""
        return False

    def takes_state(self, module: Any) -> bool:
        """Say whether the neuron's state is an argument of its calls rather than kept inside."""
        return False

    def over_time(self, module: Any, x_tn: Tensor) -> Any:
        """Call a one-step `module` for each step of `x_tn` [T, N, *]; return its outputs, stacked.

        It begins at the state that the module has, and the state is handed on from step to step.
        """
        raise NotImplementedError


_loaders: dict[str, Callable[[], Framework]] = {}
_loaded: dict[str, Framework] = {}


def register(package: str, load: Callable[[], Framework]) -> None:
    """Let `load()` be the adapter of all modules whose class, or a base of it, is defined in `package`."""
    _loaders[package] = load
    _loaded.pop(package, None)


def framework_of(module: nn.Module) -> Framework | None:
    """Return the adapter of the framework whose module `module` is, or None."""
    for kind in type(module).__mro__:
        package = kind.__module__.partition(".")[0]
        if package in _loaders:
            if package not in _loaded:
                _loaded[package] = _loaders[package]()
            return _loaded[package]
    return None


def foreign_leaf(module: nn.Module) -> type[nn.Module] | None:
    """Return the class by whose rule a module of another framework goes, or None."""
    framework = framework_of(module)
    return None if framework is None else framework.leaf(module)


def frameworks_in(net: nn.Module) -> list[Framework]:
    """Return the adapters of the frameworks whose modules are in `net`, in the order in which they come."""
    return list(dict.fromkeys(f for module in net.modules() if (f := framework_of(module)) is not None))


def require_unchanged(site: Site, framework: Framework, module: nn.Module) -> None:
    """Check that a subclass of a framework's layer computes what that layer does.

    Raises:
        UnsupportedLayerError: It defines methods of its own.
    """
    plain = framework.plain_class(module)
    assert plain is not None
    harmless = {"extra_repr"}
    for kind in type(module).__mro__[: type(module).__mro__.index(plain)]:
        for name, member in vars(kind).items():
            if callable(member) and not name.startswith("__") and name not in harmless:
                raise site.unsupported(
                    f"it defines {name}() beside what {plain.__name__} of {framework.name} computes",
                    f"use {plain.__name__} itself",
                )
