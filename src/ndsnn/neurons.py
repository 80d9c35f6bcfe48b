"""The leaky integrate-and-fire neuron: `lif` is the function, `LIF` the module around it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ndsnn.errors import ConfigError, ShapeError
from ndsnn.surrogates import resolve_surrogate, spike


@dataclass(frozen=True)
class LIFParameters:
    """Everything that defines a LIF neuron; the equations stand at `lif`.

    Args:
        tau: Membrane time constant τ in steps, above 1.
        v_threshold: Threshold ϑ; the neuron fires where its potential reaches it.
        v_reset: Potential after a spike (hard reset), below the threshold; None subtracts instead (soft reset).
        decay_input: Whether the input is divided by τ too.
        detach_reset: Whether the gradient through the reset is cut.
        surrogate: Name of the surrogate derivative, a key of `ndsnn.surrogates.SURROGATES`.
        alpha: Steepness of the surrogate; None takes its default.
        subtract: What a soft reset takes from the potential, above 0; None takes ϑ. With ϑ/(1 − 1/τ) the decayed
            potential loses ϑ, as in snnTorch.

    Raises:
        ConfigError: A value is of the wrong type or out of range.
    """

    tau: float = 4 / 3
    v_threshold: float = 1.0
    v_reset: float | None = 0.0
    decay_input: bool = True
    detach_reset: bool = True
    surrogate: str = "atan"
    alpha: float | None = None
    subtract: float | None = None

    def __post_init__(self) -> None:
        for name in ("tau", "v_threshold", "v_reset", "subtract"):
            value = getattr(self, name)
            if name in ("v_reset", "subtract") and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ConfigError(f"{name} must be a finite number, got {value!r}")
            object.__setattr__(self, name, float(value))
        if self.tau <= 1:
            raise ConfigError(f"tau must be above 1, got {self.tau}; at 1 nothing of the potential is left")
        if self.v_reset is not None and self.v_threshold <= self.v_reset:
            raise ConfigError(f"v_threshold ({self.v_threshold}) must be above v_reset ({self.v_reset})")
        if self.subtract is not None and (self.v_reset is not None or self.subtract <= 0):
            raise ConfigError(
                f"subtract ({self.subtract}) is what a soft reset takes: it must be above 0, and v_reset None"
            )
        for name in ("decay_input", "detach_reset"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be true or false, got {getattr(self, name)!r}")
        resolve_surrogate(self.surrogate, self.alpha)

    @property
    def soft_reset(self) -> float:
        """What a spike takes from the potential where v_reset is None."""
        return self.v_threshold if self.subtract is None else self.subtract


class LIFOutput(NamedTuple):
    """What `lif` returns.

    Attributes:
        spikes: Zeros and ones, [T, N, *].
        potentials: Membrane potential after each step's reset, [T, N, *].
        v: The last of them, [N, *]: the `v0` of a following call.
    """

    spikes: Tensor
    potentials: Tensor
    v: Tensor


class _HardReset(torch.autograd.Function):
    """v = (1 − o)·h + o·v_reset with its full gradient, and without the NaN of 0·∞."""

    @staticmethod
    def forward(h: Tensor, o: Tensor, v_reset: float) -> Tensor:
        return h.masked_fill(o.bool(), v_reset)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        h, o, ctx.v_reset = inputs
        ctx.save_for_backward(h, o)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,) = grad_outputs
        h, o = ctx.saved_tensors
        return grad * (1 - o), grad * (ctx.v_reset - h), None


_DEFAULT = LIFParameters()


def lif(x_tn: Tensor, v0: Tensor | None = None, parameters: LIFParameters = _DEFAULT) -> LIFOutput:
    """Run LIF neurons over all steps of `x_tn`.

    For t = 1 … T, with v[0] = `v0` and with v_reset taken as 0 in the first two lines if it is None:

        charge   h = v[t−1] + (x[t] − (v[t−1] − v_reset)) / τ    with decay_input
                 h = v[t−1] − (v[t−1] − v_reset) / τ + x[t]      without
        fire     o[t] = u(h − ϑ), with the surrogate's derivative in place of u'
        reset    v[t] = (1 − o[t])·h + o[t]·v_reset              hard
                 v[t] = h − ϑ·o[t]                               soft (v_reset is None; `subtract` in place of ϑ)

    With detach_reset the o[t] of the reset is a constant to the gradient.

    Args:
        x_tn: Input currents, [T, N, *] with T ≥ 1.
        v0: Potentials before the first step, [N, *]; None stands for v_reset (hard) or 0 (soft) everywhere.
        parameters: The neuron.

    Returns:
        Spikes, potentials after the reset, and the last potentials.

    Raises:
        ShapeError: `x_tn` has fewer than two dimensions or no steps, or `v0` is not of shape [N, *].
    """
    spikes, potentials = _run(x_tn, v0, parameters)
    return LIFOutput(torch.stack(spikes), torch.stack(potentials), potentials[-1])


def _run(x_tn: Tensor, v0: Tensor | None, p: LIFParameters) -> tuple[list[Tensor], list[Tensor]]:
    """Return the spikes and the potentials after reset of `lif`, one tensor [N, *] per step."""
    if x_tn.ndim < 2 or x_tn.shape[0] < 1:
        raise ShapeError(f"a LIF neuron expects [T, N, *] with T >= 1, got {list(x_tn.shape)}")
    if v0 is not None and v0.shape != x_tn.shape[1:]:
        raise ShapeError(
            f"potentials of shape {list(v0.shape)} do not fit an input [T, N, *] of shape {list(x_tn.shape)}; "
            "call reset() before an input of another shape"
        )
    spikes, potentials = [], []
    v: Tensor | float = (p.v_reset or 0.0) if v0 is None else v0
    # unbind, not indexing: its backward is one stack instead of T zero-filled tensors.
    for x in x_tn.unbind(0):
        h = _charge(x, v, p)
        o = spike(h - p.v_threshold, p.surrogate, p.alpha)
        v = _reset(h, o, p)
        spikes.append(o)
        potentials.append(v)
    return spikes, potentials


def _charge(x: Tensor, v: Tensor | float, p: LIFParameters) -> Tensor:
    leaking = v - p.v_reset if p.v_reset else v
    if p.decay_input:
        return v + (x - leaking) / p.tau
    return v - leaking / p.tau + x


def _reset(h: Tensor, o: Tensor, p: LIFParameters) -> Tensor:
    if p.v_reset is None:
        return torch.sub(h, o.detach() if p.detach_reset else o, alpha=p.soft_reset)
    if p.detach_reset:
        return h.masked_fill(o.detach().bool(), p.v_reset)
    return _HardReset.apply(h, o, p.v_reset)


class LIF(nn.Module):
    """A layer of leaky integrate-and-fire neurons, [T, N, *] → spikes [T, N, *]; see `lif` for the equations.

    Args:
        tau: Membrane time constant in steps, above 1.
        v_threshold: Firing threshold.
        v_reset: Potential after a spike; None subtracts the threshold instead.
        decay_input: Whether the input is divided by tau too.
        detach_reset: Whether the gradient through the reset is cut.
        surrogate: "atan", "sigmoid", "triangle" or "rectangle".
        alpha: Steepness of the surrogate; None takes its default.
        subtract: What a soft reset takes from the potential; None takes the threshold.
        stateful: Whether a call goes on from the potentials of the one before, until `reset`. They are kept
            detached (no gradient flows from call to call) and are no part of the state_dict.

    Attributes:
        fused: Whether `torch.compile` makes one kernel of the loop over the steps (see `fuse_neurons`).
        v: The potentials of the last call, [N, *], if stateful; None at the start and after `reset`.

    Raises:
        ConfigError: A value is of the wrong type or out of range.
    """

    def __init__(
        self,
        tau: float = 4 / 3,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        decay_input: bool = True,
        detach_reset: bool = True,
        surrogate: str = "atan",
        alpha: float | None = None,
        subtract: float | None = None,
        stateful: bool = False,
    ) -> None:
        super().__init__()
        self._config = LIFParameters(
            tau, v_threshold, v_reset, decay_input, detach_reset, surrogate, alpha, subtract
        )
        self.stateful = stateful
        self.fused = False
        # A plain attribute: a buffer would be broadcast over the ranks of a distributed run.
        self.v: Tensor | None = None

    @classmethod
    def from_config(cls, config: LIFParameters, stateful: bool = False) -> LIF:
        """Make a layer of the neurons that `config` describes."""
        return cls(**asdict(config), stateful=stateful)

    @property
    def config(self) -> LIFParameters:
        """The neuron's parameters; they are fixed for the life of the layer."""
        return self._config

    def reset(self) -> None:
        """Forget the potentials of the last call."""
        self.v = None

    def forward(self, x_tn: Tensor) -> Tensor:
        """Return the spikes [T, N, *] for the currents `x_tn` [T, N, *].

        Under autocast the potentials, and with them the spikes, are of 32 bits, whatever the currents are.

        Raises:
            ShapeError: Fewer than two dimensions, no steps, or another shape than the kept state.
        """
        if x_tn.dtype in (torch.bfloat16, torch.float16) and torch.is_autocast_enabled(x_tn.device.type):
            x_tn = x_tn.float()
        v0 = None if self.v is None else self.v.to(x_tn)
        spikes, potentials = (_fused() if self.fused else _run)(x_tn, v0, self._config)
        if self.stateful:
            self.v = potentials[-1].detach()
        return torch.stack(spikes)

    def extra_repr(self) -> str:
        """Return the parameters for `print(net)`."""
        shown = ", ".join(f"{name}={value!r}" for name, value in asdict(self._config).items())
        return shown + (", stateful=True" if self.stateful else "")


def fuse_neurons(net: nn.Module, fused: bool = True) -> None:
    """Let `torch.compile` fuse the loop over the steps of every `LIF` of `net`, forward and backward.

    The first call of each shape compiles. Fused arithmetic may be rounded less often, else it is the same.
    """
    for module in net.modules():
        if isinstance(module, LIF):
            module.fused = fused


@functools.cache
def _fused() -> Callable[..., tuple[list[Tensor], list[Tensor]]]:
    """Return `_run`, compiled when it is first called."""
    return torch.compile(_run)
