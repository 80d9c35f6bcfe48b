"""STDP pruning: connections whose spikes go together least are pruned while training (Rathi et al., TCAD 2019)."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakIdKeyDictionary

from ndsnn.errors import ConfigError, SparsityError
from ndsnn.neurons import LIF
from ndsnn.ranks import present_ranks
from ndsnn.sparse.handle import SparseLayer
from ndsnn.sparse.methods.pruning.gmp import GMP
from ndsnn.sparse.methods.pruning.replay import rehearsal, reset_neurons
from ndsnn.sparse.methods.pruning.spike_correlation import spike_correlations
from ndsnn.sparse.selection import ranks
from ndsnn.sparse.sparsify import to_dense

_watchers = WeakIdKeyDictionary()
"""The hook of the newest method on each network."""


class STDPPruning(GMP):
    """Prune the connections of smallest spike correlation along the cubic ramp of Eq. 4; nothing is ever born.

    At each round the first samples of the step's batch are run again through a plain copy of the network, and for
    each connection from i to a `LIF` neuron j

        c_ij = mean over samples of Σ_t ( x_i[t]·o_j[t] − A·y_j[t]·s_i[t] )
        x_i[t] = λ·x_i[t−1] + s_i[t],   y_j[t] = λ·(y_j[t−1] + o_j[t−1])

    is measured, s what the connection reads and o the spikes behind it (see `spike_correlation`). Its average over
    rounds, c̄ ← μ·c̄ + (1 − μ)·c (c itself in the first), orders the connections of a layer; equal ones go by |w|.
    A layer without neurons that fire place by place behind it, such as the classifier, goes by |w| alone.

    The batch is that of the last call of `net` in training mode before the round. A network without masks starts
    dense.

    Args:
        net: As for `SparseTraining`, like all others; with `LIF` neurons.
        optimizer: See there.
        final_sparsity: See there.
        total_steps: See there.
        decay: λ in [0, 1), what is left of a trace after a step.
        depression: A ≥ 0, the weight of spikes that come after those of the neuron behind.
        smoothing: μ in [0, 1), the share of the rounds before in the average.
        samples: Most samples of a batch that are run again: of images [N, C, H, W] and events [T, N, C, H, W]. Of
            other inputs all are.
        **settings: Settings of `GMP`: `update_every`, `start`, `stop_fraction`.

    Raises:
        ConfigError: A setting is out of range, or the network has no `LIF` neuron.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        final_sparsity: float,
        total_steps: int,
        *,
        decay: float = 0.5,
        depression: float = 1.0,
        smoothing: float = 0.5,
        samples: int = 32,
        **settings: Any,
    ) -> None:
        for name, value in (("decay", decay), ("smoothing", smoothing)):
            if isinstance(value, bool) or not 0 <= value < 1:
                raise ConfigError(f"{name} is {value!r}; it must be a number in [0, 1)")
        if isinstance(depression, bool) or not 0 <= depression < float("inf"):
            raise ConfigError(f"depression is {depression!r}; it must be a number of at least 0")
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
            raise ConfigError(f"samples is {samples!r}; it must be a whole number of at least 1")
        if not any(isinstance(module, LIF) for module in net.modules()):
            raise ConfigError(
                "the network has no ndsnn.LIF neuron, so its connections have no spike correlations; "
                "prune it by magnitude (GMP)"
            )
        super().__init__(net, optimizer, final_sparsity, total_steps, **settings)
        self.decay, self.depression = float(decay), float(depression)
        self.smoothing, self.samples = float(smoothing), samples
        self._batch: Tensor | None = None
        _take_over(net, self)

    def see(self, x: Tensor) -> None:
        """Keep a copy of the first samples of a batch if the round that comes next will run them again.

        A hook on the network calls it with the input of every call.
        """
        if not (self.updates_next and self.net.training and torch.is_grad_enabled()):
            return
        if x.ndim == 5:
            x = x[:, : self.samples]
        elif x.ndim == 4:
            x = x[: self.samples]
        self._batch = x.detach().clone()

    def require_finite_gradients(self) -> None:
        """Check, before a round, that there is a batch to run again (see `SparseTraining`).

        Raises:
            SparsityError: There is none.
        """
        super().require_finite_gradients()
        if self.updates_next and self._batch is None:
            raise SparsityError(
                "STDP pruning has seen no batch at an update step; call net(x) with one input in training mode "
                "before .step(), and create the method for the module that is called"
            )

    def before_round(self, q: int) -> None:
        """Measure the correlations of the layers that are to be pruned, and bring their averages up to date."""
        assert self._batch is not None
        batch, self._batch = self._batch, None
        for layer in self.layers:
            self._finite(layer, layer.active_values())
        old = self.records.get("correlation")
        averages = dict(old)
        for name, fresh in self._measure(batch).items():
            present_ranks().average_(fresh, "growth")
            averages[name] = fresh
            if name in old:
                averages[name] = self.smoothing * old[name] + (1 - self.smoothing) * fresh
        for layer in self.layers:
            if layer.name in averages:
                self._finite(layer, averages[layer.name])
        self.records["correlation"] = averages

    def drop_scores(self, layer: SparseLayer) -> Tensor:
        """Return ranks by the average correlation and, where it is the same or there is none, by |w|."""
        size = self._finite(layer, layer.active_values().abs())
        averages = self.records.get("correlation")
        return ranks(averages[layer.name], size) if layer.name in averages else size

    def after_round(self, q: int) -> None:
        """Forget the averages after the last round."""
        if q == self._rounds_planned():
            self.records.clear()

    def _measure(self, batch: Tensor) -> dict[str, Tensor]:
        """Return the correlations of the alive connections [nnz] of the layers that are not to stay dense."""
        layers = {layer.name: layer for layer in self.layers if self.final_counts[layer.name] < layer.size}

        def alive(name: str, dense: Tensor) -> Tensor:
            return dense.flatten()[layers[name].active_positions()]

        with rehearsal(self.net) as twin:
            plain = to_dense(twin)
            reset_neurons(plain)
            return spike_correlations(plain, batch, layers, alive, self.decay, self.depression)

    def _settings(self) -> dict[str, Any]:
        own = {"decay": self.decay, "depression": self.depression, "smoothing": self.smoothing}
        return super()._settings() | own | {"samples": self.samples}


class _Watcher:
    """A forward pre-hook that shows a method what its network reads; in a copy of the network it does nothing."""

    def __init__(self, method: STDPPruning) -> None:
        self._method: weakref.ref[STDPPruning] | None = weakref.ref(method)

    def __call__(self, net: nn.Module, inputs: tuple[Any, ...]) -> None:
        method = None if self._method is None else self._method()
        if method is not None and inputs and isinstance(inputs[0], Tensor):
            method.see(inputs[0])

    def __getstate__(self) -> dict[str, Any]:
        return {"_method": None}


def _take_over(net: nn.Module, method: STDPPruning) -> None:
    """Let `method` be the one that sees what `net` reads."""
    before: RemovableHandle | None = _watchers.pop(net, None)
    if before is not None:
        before.remove()
    _watchers[net] = net.register_forward_pre_hook(_Watcher(method))
