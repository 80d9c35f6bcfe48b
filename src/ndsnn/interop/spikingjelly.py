"""SpikingJelly: its layers in step mode "m", its LIF and IF neurons, and what equals them exactly.

With H the potential before the reset, S the spikes and V the potential after it, `LIFNode` computes

    H[t] = V[t−1] + (X[t] − (V[t−1] − V_reset)) / τ       decay_input
    H[t] = V[t−1] − (V[t−1] − V_reset) / τ + X[t]         without
    S[t] = u(H[t] − V_th),   V[t] = (1 − S[t])·H[t] + S[t]·V_reset   or   H[t] − V_th·S[t]  (v_reset=None)

which is `ndsnn.lif`. `IFNode` is the limit τ → ∞ without decay_input, `ParametricLIFNode` has 1/τ = σ(w).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from spikingjelly.activation_based import layer, neuron, surrogate
from torch import Tensor, nn

from ndsnn.engine.foreign.framework import SPENT, ForeignDropout, ForeignNeuron, Framework
from ndsnn.engine.sites import Site
from ndsnn.errors import ConfigError
from ndsnn.neurons import LIFParameters

NO_LEAK = 2.0**100
"""τ of an IF neuron: 1 − 1/τ is 1 in float32 and float64."""

KINDS: Mapping[type[nn.Module], type[nn.Module]] = MappingProxyType(
    {
        layer.Conv2d: nn.Conv2d,
        layer.Linear: nn.Linear,
        layer.BatchNorm1d: nn.BatchNorm1d,
        layer.BatchNorm2d: nn.BatchNorm2d,
        layer.ThresholdDependentBatchNorm1d: nn.BatchNorm1d,
        layer.ThresholdDependentBatchNorm2d: nn.BatchNorm2d,
        layer.MaxPool2d: nn.MaxPool2d,
        layer.AvgPool2d: nn.AvgPool2d,
        layer.AdaptiveAvgPool2d: nn.AdaptiveAvgPool2d,
        layer.Flatten: nn.Flatten,
        layer.Dropout: ForeignDropout,
        layer.Dropout2d: ForeignDropout,
        neuron.LIFNode: ForeignNeuron,
        neuron.IFNode: ForeignNeuron,
        neuron.ParametricLIFNode: ForeignNeuron,
    }
)

SURROGATES: Mapping[type[nn.Module], str] = MappingProxyType(
    {
        surrogate.ATan: "atan",
        surrogate.Sigmoid: "sigmoid",
        surrogate.PiecewiseQuadratic: "triangle",
        surrogate.Rect: "rectangle",
    }
)
"""Names in `ndsnn.surrogates` of the surrogates with the same derivative; their `alpha` means the same."""

_SEQUENCES = (layer.SeqToANNContainer, layer.StepModeContainer)


class SpikingJelly(Framework):
    """The adapter."""

    name = "SpikingJelly"
    reset_hint = "call functional.reset_net(net) before each call"

    @property
    def kinds(self) -> Mapping[type[nn.Module], type[nn.Module]]:
        """Return `KINDS`."""
        return KINDS

    def is_sequence(self, module: nn.Module) -> bool:
        """Say whether it is a SeqToANNContainer, or a StepModeContainer that works as one."""
        if type(module) is layer.StepModeContainer:
            return module.step_mode == "m" and not module.stateful
        return type(module) is layer.SeqToANNContainer

    def require(self, site: Site, module: Any, folded: bool) -> None:
        """Check the step mode, and that a flattening keeps T and N."""
        stateful = self.leaf(module) in (ForeignNeuron, ForeignDropout)
        if folded and stateful:
            raise site.unsupported(
                "inside this container it takes all steps for samples of one step", "put it behind the container"
            )
        # A linear layer does the same to [T, N, F] in both modes.
        if not folded and module.step_mode != "m" and not isinstance(module, nn.Linear):
            raise site.unsupported(
                f"it has step_mode={module.step_mode!r}, but the engine runs all steps in one call",
                'call functional.set_step_mode(net, "m") and give the network [T, N, *]',
            )
        if isinstance(module, nn.Flatten):
            span = (module.start_dim, module.end_dim)
            site.require(
                span in ((1, -1), (1, 3), (-3, -1)),
                f"flattening dimensions {span[0]} to {span[1]}",
                "use Flatten()",
            )

    def neuron(self, site: Site, module: Any) -> LIFParameters:
        """Return the neuron of `ndsnn.lif` with the same equations."""
        self.require(site, module, folded=False)
        site.require(
            not module.store_v_seq, "store_v_seq=True", "use store_v_seq=False; the engine keeps spikes only"
        )
        site.require(module._neuron_precision is None, "a neuron precision of its own", "leave it out")
        name, alpha = _surrogate(site, module.surrogate_function)
        tau, decay_input = _time_constant(site, module)
        try:
            return LIFParameters(
                tau, module.v_threshold, module.v_reset, decay_input, module.detach_reset, name, alpha
            )
        except ConfigError as error:
            raise site.unsupported(str(error), "the engine has no such neuron") from error

    def learned(self, module: Any) -> tuple[nn.Parameter, float] | None:
        """Return w of a ParametricLIFNode and σ'(w), the slope of 1/τ = σ(w)."""
        if not isinstance(module, neuron.ParametricLIFNode):
            return None
        leak = float(module.w.detach().double().sigmoid())
        return module.w, leak * (1 - leak)

    def explain(self, module: nn.Module) -> str:
        """Name the function with which a spike-element-wise block joins its branches."""
        cnf = getattr(module, "cnf", None)
        return "" if cnf in (None, "ADD") else f' (cnf={cnf!r}; the engine has cnf="ADD")'

    def at_rest(self, module: Any) -> bool:
        """Say whether there is no mask, or the potential is that at which the engine begins."""
        if self.leaf(module) is ForeignDropout:
            return module._memories["mask"] is None
        v, rest = module._memories["v"], module.v_reset or 0.0
        return isinstance(v, float) and v == rest

    def spend(self, module: Any) -> None:
        """Put `SPENT` in the place of all memories."""
        for key in module._memories:
            module._memories[key] = SPENT

    def reset(self, module: Any) -> None:
        """Call the module's own reset."""
        module.reset()

    def states(self, module: Any) -> Iterator[Tensor]:
        """Return memories that are tensors, and the sequence of potentials if there is one."""
        candidates = (*module._memories.values(), getattr(module, "v_seq", None))
        return (value for value in candidates if isinstance(value, Tensor))

    def dropout_mask(self, module: Any, like: Tensor) -> Tensor | None:
        """Draw a mask as the module does at the first step after a reset."""
        if not module.training or module.p == 0:
            return None
        mask: Tensor = module.create_mask(like)
        return mask


def _surrogate(site: Site, function: Any) -> tuple[str, float]:
    name = SURROGATES.get(type(function))
    if name is None or not function.spiking:
        shown = f"{type(function).__name__}" + (
            "" if getattr(function, "spiking", True) else " with spiking=False"
        )
        raise site.unsupported(
            f"the engine has no surrogate function {shown}",
            f"use one of {', '.join(kind.__name__ for kind in SURROGATES)}",
        )
    return name, float(function.alpha)


def _time_constant(site: Site, module: Any) -> tuple[float, bool]:
    """Return τ and decay_input."""
    if isinstance(module, neuron.IFNode):
        return NO_LEAK, False
    if isinstance(module, neuron.ParametricLIFNode):
        return 1 / float(module.w.detach().double().sigmoid()), module.decay_input
    return module.tau, module.decay_input


def adapter() -> Framework:
    """Return the adapter."""
    return SpikingJelly()
