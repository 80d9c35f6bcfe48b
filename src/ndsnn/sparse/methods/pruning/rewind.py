"""Everything that training has changed, remembered at one step and brought back later under other masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ndsnn.errors import CheckpointError
from ndsnn.sparse.handle import SparseLayer, parameters_of


@dataclass(frozen=True)
class RewindPoint:
    """A network whose sparse layers are all dense, its optimizer, and the random generator.

    It means the same to the masked and the compressed form of a layer.

    Args:
        weights: Weight of each sparse layer by name, in C order [size].
        others: All else of the state dict: norms with their running statistics, biases, layers without mask.
        optimizer: State of each parameter in the optimizer's order, that of sparse weights in C order [size].
        random: State of torch's default generator.
    """

    weights: Mapping[str, Tensor]
    others: Mapping[str, Tensor]
    optimizer: Sequence[Mapping[str, Any]]
    random: Tensor

    @classmethod
    def take(cls, net: nn.Module, optimizer: Optimizer, layers: Sequence[SparseLayer]) -> RewindPoint:
        """Remember the present state; every connection of `layers` must be alive."""
        sparse = {id(layer.weight) for layer in layers}
        states = []
        for parameter in parameters_of(optimizer):
            state = optimizer.state.get(parameter, {})
            flat = id(parameter) in sparse
            states.append({key: _copy(value, flat, parameter.shape) for key, value in state.items()})
        return cls(
            {layer.name: layer.weight.detach().flatten().clone() for layer in layers},
            {key: value.detach().clone() for key, value in _others(net, layers).items()},
            states,
            torch.get_rng_state(),
        )

    @torch.no_grad()
    def restore(
        self, net: nn.Module, optimizer: Optimizer, layers: Sequence[SparseLayer], masks: Mapping[str, Tensor]
    ) -> None:
        """Bring it back with only the connections of `masks` alive; all others and their state are 0."""
        positions: dict[int, tuple[SparseLayer, Tensor]] = {}
        for layer in layers:
            layer.set_mask(masks[layer.name], optimizer)
            alive = layer.active_positions()
            positions[id(layer.weight)] = layer, alive
            layer.weight.copy_(layer.per_weight(self.weights[layer.name][alive]))
        for key, value in _others(net, layers).items():
            value.copy_(self.others[key])
        for parameter, state in zip(parameters_of(optimizer), self.optimizer, strict=True):
            found = positions.get(id(parameter))
            optimizer.state.pop(parameter, None)
            if state:
                optimizer.state[parameter] = {key: _alive(value, found) for key, value in state.items()}
        torch.set_rng_state(self.random)

    def state_dict(self) -> dict[str, Any]:
        """Return it as nested dicts and lists of tensors."""
        return {
            "weights": dict(self.weights),
            "others": dict(self.others),
            "optimizer": [dict(state) for state in self.optimizer],
            "random": self.random,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> RewindPoint:
        """Return what `state_dict` was taken of."""
        return cls(state["weights"], state["others"], state["optimizer"], state["random"])

    def check(self, net: nn.Module, optimizer: Optimizer, layers: Sequence[SparseLayer]) -> None:
        """Check that `restore` can be called with these.

        Raises:
            CheckpointError: It was taken of another network or optimizer.
        """
        theirs = {name: tuple(value.shape) for name, value in self.weights.items()}
        if theirs != {layer.name: (layer.size,) for layer in layers}:
            raise CheckpointError("the saved rewind point belongs to a network with other layers")
        mine = {key: tuple(value.shape) for key, value in _others(net, layers).items()}
        if mine != {key: tuple(value.shape) for key, value in self.others.items()}:
            raise CheckpointError("the saved rewind point belongs to a network with other norms or biases")
        if len(self.optimizer) != len(parameters_of(optimizer)):
            raise CheckpointError("the saved rewind point belongs to an optimizer of other parameters")


def _others(net: nn.Module, layers: Sequence[SparseLayer]) -> dict[str, Tensor]:
    """Return the state dict without the weights of `layers` and where they stand."""
    prefixes = [f"{layer.name}." if layer.name else "" for layer in layers]
    own = {prefix + part for prefix in prefixes for part in ("weight", "positions")}
    return {key: value for key, value in net.state_dict().items() if key not in own}


def _copy(value: Any, flat: bool, shape: torch.Size) -> Any:
    """Return a copy of an entry of the optimizer's state, in C order if it has one number per sparse weight."""
    if not isinstance(value, Tensor):
        return value
    copied = value.detach().clone()
    return copied.flatten() if flat and value.shape == shape else copied


def _alive(value: Any, found: tuple[SparseLayer, Tensor] | None) -> Any:
    """Return an entry for the optimizer, of sparse weights that of the alive ones in the layer's form."""
    if not isinstance(value, Tensor):
        return value
    if found is not None and value.shape == (found[0].size,):
        return found[0].per_weight(value[found[1]])
    return value.clone()
