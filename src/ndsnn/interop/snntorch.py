"""snnTorch: `Leaky` neurons with a reset to zero or by subtraction, in a loop over time that a forward holds.

With β the decay, θ the threshold and R[t] = S[t−1] the reset, `Leaky` computes

    U[t] = β·(1 − R[t])·U[t−1] + I[t]        reset_mechanism="zero"
    U[t] = β·U[t−1] + I[t] − R[t]·θ          "subtract"
    U[t] = β·U[t−1] + I[t]                   "none"
    S[t] = 1 where U[t] > θ, else 0

"zero" is `ndsnn.lif` with τ = 1/(1 − β), v_reset=0 and decay_input=False. "subtract" takes θ from the decayed
potential, where `ndsnn.lif` decays what is left, so there it takes θ/β: the same but for rounding. Without a
reset there is no equal. A neuron fires above θ here and from θ on there, so the threshold is the next number above
θ. The reset signal is detached; with reset_delay=False, where the reset comes within the step, the gradient goes
through it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
import snntorch
import torch
from snntorch import surrogate
from torch import Tensor, nn

from ndsnn.engine.foreign.framework import ForeignNeuron, Framework
from ndsnn.engine.sites import Site
from ndsnn.errors import ConfigError
from ndsnn.neurons import LIFParameters

NO_LEAK = 2.0**100
"""τ for β = 1: 1 − 1/τ is 1 in float32 and float64."""

KINDS: Mapping[type[nn.Module], type[nn.Module]] = MappingProxyType({snntorch.Leaky: ForeignNeuron})

SURROGATES = {"atan": ("atan", "alpha"), "sigmoid": ("sigmoid", "slope")}
"""For snnTorch's surrogates that `ndsnn.surrogates` has: their name there, and the name of their steepness."""

_STATE_FUNCTIONS = {"subtract": "_base_sub", "zero": "_base_zero", "none": "_base_int"}


class SnnTorch(Framework):
    """The adapter."""

    name = "snnTorch"
    reset_hint = "call snntorch.utils.reset(net) before each call"
    own_loops = True

    @property
    def kinds(self) -> Mapping[type[nn.Module], type[nn.Module]]:
        """Return `KINDS`."""
        return KINDS

    def require(self, site: Site, module: Any, folded: bool) -> None:
        """Do nothing: `neuron` reads all settings."""

    def neuron(self, site: Site, module: Any) -> LIFParameters:
        """Return the neuron of `ndsnn.lif` with the same spikes and gradients."""
        _require_plain(site, module)
        beta = _number(site, "beta", module.beta)
        site.require(0 < beta <= 1, f"beta={beta:g}", "use a beta above 0, at most 1")
        v_reset, detach_reset = _reset(site, module)
        name, alpha = _surrogate(site, module.spike_grad)
        dtype = np.float64 if module.threshold.dtype == torch.float64 else np.float32
        theta = _number(site, "threshold", module.threshold)
        threshold = float(np.nextafter(dtype(theta), dtype(np.inf)))
        subtract = theta / beta if v_reset is None else None
        tau = NO_LEAK if beta == 1 else 1 / (1 - beta)
        try:
            return LIFParameters(tau, threshold, v_reset, False, detach_reset, name, alpha, subtract)
        except ConfigError as error:
            raise site.unsupported(str(error), "the engine has no such neuron") from error

    def at_rest(self, module: Any) -> bool:
        """Say whether the membrane is 0 everywhere."""
        return not bool(module.mem.any())

    def spend(self, module: Any) -> None:
        """Put NaN in the place of the membrane."""
        module.mem = torch.full((1,), float("nan"))
        self.adopt(module)

    def adopt(self, module: Any) -> None:
        """Put it in the list of what `snntorch.utils.reset` resets, in which constructors put theirs."""
        if not any(one is module for one in type(module).instances):
            type(module).instances.append(module)

    def reset(self, module: Any) -> None:
        """Make the membrane 0."""
        module.mem = torch.zeros(0, dtype=module.mem.dtype, device=module.mem.device)

    def states(self, module: Any) -> Iterator[Tensor]:
        """Return the membrane and the last reset signal."""
        return (value for value in (module.mem, vars(module).get("reset")) if isinstance(value, Tensor))

    @contextmanager
    def tracing(self, net: nn.Module) -> Iterator[None]:
        """Let `snntorch.utils.reset` know the neurons of `net` in the place of all that constructors have made."""
        before = dict(vars(snntorch.Leaky))
        snntorch.Leaky.instances = [module for module in net.modules() if isinstance(module, snntorch.Leaky)]
        try:
            yield
        finally:
            if "instances" in before:
                snntorch.Leaky.instances = before["instances"]
            else:
                del snntorch.Leaky.instances

    def gives_state(self, module: Any) -> bool:
        """Say whether it returns (spikes, membrane)."""
        return bool(module.output or not module.init_hidden)

    def takes_state(self, module: Any) -> bool:
        """Say whether the membrane is an argument."""
        return not module.init_hidden

    def over_time(self, module: Any, x_tn: Tensor) -> Any:
        """Call it for each step; the membrane is kept inside, be it an argument or not."""
        self.adopt(module)
        results = [module(x) for x in x_tn.unbind(0)]
        if isinstance(results[0], tuple):
            return tuple(torch.stack(parts) for parts in zip(*results, strict=True))
        return torch.stack(results)


def _require_plain(site: Site, module: Any) -> None:
    site.require(not module.inhibition, "inhibition=True", "leave it out")
    site.require(not module.state_quant, "state_quant", "leave it out")
    for name in ("beta", "threshold", "graded_spikes_factor"):
        trained = isinstance(getattr(module, name), nn.Parameter) and getattr(module, name).requires_grad
        site.require(not trained, f"a trained {name}", f"use learn_{name}=False; the engine has no gradient of it")
    factor = _number(site, "graded_spikes_factor", module.graded_spikes_factor)
    site.require(factor == 1, f"graded_spikes_factor={factor:g}", "leave it out")


def _number(site: Site, name: str, value: Tensor) -> float:
    site.require(value.numel() == 1, f"a {name} for each neuron", "use one for all")
    return float(value.detach())


def _reset(site: Site, module: Any) -> tuple[float | None, bool]:
    """Return v_reset and detach_reset."""
    mechanism = module.reset_mechanism
    # Its constructor alone chooses the state function; what is set later changes half of the equations.
    same = module.state_function.__name__ == _STATE_FUNCTIONS[mechanism]
    site.require(same, f"a reset_mechanism that was set to {mechanism!r} later", "give it to the constructor")
    if mechanism == "zero":
        return 0.0, module.reset_delay
    if mechanism == "subtract" and module.reset_delay:
        return None, True
    if mechanism == "none":
        raise site.unsupported("the engine has no neuron without a reset", 'use reset_mechanism="zero"')
    raise site.unsupported(
        'reset_mechanism="subtract" with reset_delay=False has no equal in the engine: where the input is above '
        "twice the threshold it takes the reset back, the engine never does",
        "leave reset_delay out; sparsify and all training methods work on the network as it is",
    )


def _surrogate(site: Site, function: Any) -> tuple[str, float]:
    """Read the steepness out of the closure that snnTorch's surrogates are."""
    maker, _, rest = getattr(function, "__qualname__", "").partition(".")
    known = getattr(function, "__module__", "") == surrogate.__name__ and rest == "<locals>.inner"
    if not known or maker not in SURROGATES:
        shown = maker or type(function).__name__
        raise site.unsupported(
            f"the engine has no surrogate {shown}", f"use snntorch.surrogate.{' or .'.join(SURROGATES)}"
        )
    name, steepness = SURROGATES[maker]
    captured = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    return name, float(captured[steepness].cell_contents)


def adapter() -> Framework:
    """Return the adapter."""
    return SnnTorch()
