"""SNIP: the connections that the loss would miss most are chosen once, before training (Lee et al., ICLR 2019)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ndsnn.errors import ConfigError, NonFiniteError, SparsityError
from ndsnn.sparse.distributions import alive_budget
from ndsnn.sparse.methods.base import SparseTraining
from ndsnn.sparse.methods.global_pruning import global_prune_masks
from ndsnn.sparse.methods.pruning.replay import rehearsal, reset_neurons
from ndsnn.sparse.methods.static import Static
from ndsnn.sparse.methods.updates import LayerUpdate, TopologyUpdate
from ndsnn.sparse.sparsify import Distribution, recorded_distribution, set_masks
from ndsnn.sparse.topology import MASK, alive_mask, has_mask, maskable_modules, weight_of

Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]


def snip(
    net: nn.Module, batches: Batches, loss: Loss, sparsity: float, dense_layers: Sequence[str] = ()
) -> nn.Module:
    """Keep the connections of largest |∂L/∂w · w| over all layers at once, in place (Lee et al. 2019, Eq. 5, 6).

    Call it before the first step of an optimizer, and train what is left with `ndsnn.Static`. Each layer keeps at
    least one weight. Among equal ones the layer whose name comes first keeps more, and in a layer the lower
    positions die first. Of a network that is sparse already, the choice is among the alive.

    Args:
        net: Any module, plain, masked, compressed or accelerated.
        batches: (x, y) of a few samples, best as many of each class; L is the mean over all samples.
        loss: Mean loss of a batch, called with net(x) and y.
        sparsity: Overall fraction of zeros in [0, 1) over all conv and linear weights.
        dense_layers: Glob patterns of layers that keep all they have, beside those of `sparsify`.

    Returns:
        The same `net`, with nothing changed but masks and zeros.

    Raises:
        SparsityError: The sparsity cannot be had, there is no batch, or a weight is frozen.
        NonFiniteError: A sensitivity is not finite; nothing was changed.
    """
    modules = maskable_modules(net)
    if not modules:
        raise SparsityError(f"{type(net).__name__} has no conv or linear layer that could be made sparse")
    spread = recorded_distribution(net) or Distribution()
    if isinstance(dense_layers, str):
        dense_layers = (dense_layers,)
    spread = Distribution(spread.name, (*spread.dense_layers, *dense_layers))
    spread = Distribution(spread.name, spread.dense_names(modules))
    masks = {name: alive_mask(module) for name, module in modules.items()}
    total = alive_budget(sum(mask.numel() for mask in masks.values()), sparsity)
    kept = _prune(sensitivities(net, batches, loss), masks, total, spread.dense_layers)
    return set_masks(net, kept, spread)


def sensitivities(net: nn.Module, batches: Batches, loss: Loss) -> dict[str, Tensor]:
    """Return |∂L/∂w · w| of the alive weights [nnz] of each conv and linear layer, in order of their positions.

    A copy of the network is run in training mode, its neurons reset before every batch; `net`, its gradients and
    torch's generators stay as they are.

    Args:
        net: See `snip`, like the rest.
        batches: See there.
        loss: See there.

    Raises:
        SparsityError: There is no batch, or a weight is frozen.
        NonFiniteError: A sensitivity is not finite.
    """
    with rehearsal(net) as twin:
        modules = maskable_modules(twin.train())
        weights = [_trained(name, module) for name, module in modules.items()]
        sums, samples = [torch.zeros_like(weight, requires_grad=False) for weight in weights], 0
        for x, y in batches:
            reset_neurons(twin)
            with torch.enable_grad():
                value = loss(twin(x), y)
            gradients = torch.autograd.grad(value, weights, allow_unused=True)
            for total, gradient in zip(sums, gradients, strict=True):
                if gradient is not None:
                    total.add_(gradient, alpha=len(y))
            samples += len(y)
        if not samples:
            raise SparsityError("there is no batch to score connections by; give at least one (x, y)")
        found = {}
        for (name, module), weight, total in zip(modules.items(), weights, sums, strict=True):
            found[name] = _alive_part(module, (total / samples * weight.detach()).abs())
            if not bool(torch.isfinite(found[name]).all()):
                raise NonFiniteError(
                    f"the sensitivity of layer {name!r} is not finite (the loss of the last batch was "
                    f"{float(value.detach()):.4g}); no connection was changed"
                )
    return found


class SNIP(Static):
    """Choose connections by `prepare` before the first step, then train this topology.

    A network without masks starts dense. `ndsnn train` calls `prepare` with class-balanced batches; in a loop of
    one's own call it before the first step.

    Args:
        net: As for `SparseTraining`, like all others.
        optimizer: See there.
        final_sparsity: See there.
        total_steps: See there.
        samples_per_class: Training images of each class that `ndsnn train` scores by.

    Attributes:
        scored: Whether the connections are chosen.
    """

    starts_dense = True

    def __init__(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        final_sparsity: float,
        total_steps: int,
        *,
        samples_per_class: int = 10,
    ) -> None:
        if isinstance(samples_per_class, bool) or not isinstance(samples_per_class, int) or samples_per_class < 1:
            raise ConfigError(
                f"samples_per_class is {samples_per_class!r}; it must be a whole number of at least 1"
            )
        self.samples_per_class = samples_per_class
        self.scored = False
        super().__init__(net, optimizer, final_sparsity, total_steps)

    def plan_final_counts(self) -> dict[str, int]:
        """Return the distribution's counts at θf, of which `prepare` keeps the sum."""
        return SparseTraining.plan_final_counts(self)

    @property
    def images_per_class(self) -> int:
        """Images of each class for `prepare`, 0 once the connections are chosen."""
        return 0 if self.scored else self.samples_per_class

    @property
    def finished(self) -> bool:
        """Whether the connections are chosen."""
        return self.scored

    def prepare(self, batches: Batches, loss: Loss) -> TopologyUpdate:
        """Keep the connections of largest |∂L/∂w · w| over all layers at once (see `snip`).

        Returns:
            How many weights of each layer died, as round 0.

        Raises:
            SparsityError: It was called before, there is no batch, or the sparsity cannot be had.
            NonFiniteError: A sensitivity is not finite; nothing was changed.
        """
        if self.scored:
            raise SparsityError("SNIP has chosen its connections already; prepare is called once")
        scores = sensitivities(self.net, batches, loss)
        kept = _prune(
            {layer.name: scores[layer.name] for layer in self.layers},
            {layer.name: layer.mask for layer in self.layers},
            sum(self.final_counts.values()),
            self.distribution.dense_names(layer.name for layer in self.layers),
        )
        rows = []
        for layer in self.layers:
            before = layer.nnz
            layer.set_mask(kept[layer.name], self.optimizer)
            rows.append(LayerUpdate(layer.name, before - layer.nnz, 0, layer.nnz))
        self.scored = True
        self.initial_counts = {layer.name: layer.nnz for layer in self.layers}
        self.final_counts = dict(self.initial_counts)
        return TopologyUpdate(self.steps_done, 0, tuple(rows))

    def step(self) -> TopologyUpdate | None:
        """Count one optimizer step (see `SparseTraining`).

        Raises:
            SparsityError: `prepare` was not called.
        """
        if not self.scored:
            raise SparsityError(
                "SNIP has not chosen its connections yet; call prepare(batches, loss) before the first step"
            )
        return super().step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of `SparseTraining` and whether the connections are chosen."""
        return super().state_dict() | {"scored": self.scored}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()` (see `SparseTraining`)."""
        super().load_state_dict(state)
        self.scored = bool(state["scored"])
        self.final_counts = dict(self.initial_counts) if self.scored else self.plan_final_counts()

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {"samples_per_class": self.samples_per_class}


def _prune(
    scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], total: int, dense: Sequence[str]
) -> dict[str, Tensor]:
    """Return the masks of the `total` largest scores (see `global_prune_masks`)."""
    alive = sum(len(score) for score in scores.values())
    if total > alive:
        raise SparsityError(f"{total} weights are to stay, but only {alive} are alive; raise the sparsity")
    return global_prune_masks(scores, masks, total, dense)


def _trained(name: str, module: nn.Module) -> nn.Parameter:
    """Return the weight of a layer, which must take gradients."""
    weight = weight_of(module)
    if not weight.requires_grad:
        raise SparsityError(
            f"layer {name!r} is frozen (requires_grad=False), so nothing can score it; unfreeze it"
        )
    return weight


def _alive_part(module: nn.Module, per_weight: Tensor) -> Tensor:
    """Return the entries [nnz] of a tensor of the weight's shape that belong to alive weights."""
    return per_weight[module.get_buffer(MASK)] if has_mask(module) else per_weight.flatten()
