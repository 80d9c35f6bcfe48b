"""A synapse of the graph bound to the modules that hold its parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ndsnn.engine.graph import Synapse
from ndsnn.engine.lowering.leaves import leaf_class
from ndsnn.engine.norms import (
    NormedSynapse,
    PlainSynapse,
    SynapseGradient,
    normed_by_batch,
    normed_by_constants,
    uses_batch_statistics,
)
from ndsnn.engine.ops import Backend, DenseGradientSink


class Parameters(NamedTuple):
    """What of a synapse can be trained; None where there is no such parameter.

    Attributes:
        weight: Of the layer: the alive values [nnz], or a dense weight.
        bias: Of the layer [C_out].
        gamma: Weight of the norm [C_out].
        beta: Bias of the norm [C_out].
    """

    weight: Tensor
    bias: Tensor | None
    gamma: Tensor | None
    beta: Tensor | None

    def wanted(self) -> bool:
        """Say whether any of them is trained."""
        return any(parameter is not None and parameter.requires_grad for parameter in self)

    def gradients(self, weight: Tensor | None, rest: SynapseGradient | None) -> list[Tensor | None]:
        """Return the gradients of all four in the parameters' shapes and dtypes, None for those not wanted."""
        found = (weight, *((None,) * 3 if rest is None else (rest.bias, rest.gamma, rest.beta)))
        return [
            gradient.to(parameter.dtype).view_as(parameter)
            if gradient is not None and parameter is not None and parameter.requires_grad
            else None
            for parameter, gradient in zip(self, found, strict=True)
        ]


@dataclass(frozen=True)
class BoundSynapse:
    """A synapse with its modules.

    Args:
        synapse: As in the graph.
        layer: The conv or linear module: compressed, with `positions`, or dense.
        norm: The batch norm behind it, or None.
        connections: The back end's connection set.
        parameters: Of both modules.
    """

    synapse: Synapse
    layer: nn.Module
    norm: nn.Module | None
    connections: Any
    parameters: Parameters

    @property
    def features_only(self) -> bool:
        """Whether the layer gives features [C], as a linear one does, rather than a map [C, H, W]."""
        return leaf_class(self.layer) is nn.Linear

    @property
    def batch_statistics(self) -> bool:
        """Whether the norm, in its present mode, takes the statistics of the batch."""
        return self.norm is not None and uses_batch_statistics(self.norm)

    def normalise(self, sums: tuple[Tensor, Tensor] | None, values: int) -> NormedSynapse | PlainSynapse:
        """Return what stands between the current and the neuron; a norm in training mode moves its statistics.

        Args:
            sums: Σ y and Σ y² [C_out]; None where the norm does without.
            values: Number of values of a channel.

        Raises:
            ShapeError: A norm cannot take statistics of one value per channel.
        """
        bias = self.parameters.bias
        if self.norm is None:
            return PlainSynapse.of(self.synapse.out_channels, bias)
        if not self.batch_statistics:
            return normed_by_constants(self.norm, bias)
        assert sums is not None
        return normed_by_batch(self.norm, bias, *sums, values)

    def dense_sink(self) -> DenseGradientSink | None:
        """Return what wants the dense weight gradient of this backward pass, if anything does."""
        offered = getattr(self.layer, "dense_gradient_sink", None)
        return None if offered is None else offered()


class ConnectionCache:
    """Keeps each layer's connection set for as long as neither its topology nor its input size changes."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[Any, ...], Tensor | None, Any]] = {}

    def get(self, backend: Backend, synapse: Synapse, layer: nn.Module, height: int, width: int) -> Any:
        """Return the connection set of `layer` for inputs of `height` × `width`, with its present values."""
        positions: Tensor | None = getattr(layer, "positions", None)
        topology = None if positions is None else positions._version
        key = (getattr(layer, "version", 0), topology, height, width)
        known = self._known.get(synapse.layer)
        if known is None or known[0] != key or known[1] is not positions:
            alive = None if positions is None else positions.to(torch.int64)
            known = (key, positions, backend.connections(synapse, height, width, alive))
            self._known[synapse.layer] = known
        # Always: not every optimizer's way of writing a parameter can be noticed.
        backend.set_values(known[2], layer.weight.detach().flatten())  # type: ignore[operator]
        return known[2]


def parameters_of(layer: nn.Module, norm: nn.Module | None) -> Parameters:
    """Return the parameters of a layer and of the norm behind it."""
    assert isinstance(layer.weight, Tensor)
    gamma, beta = (None, None) if norm is None else (norm.weight, norm.bias)
    return Parameters(layer.weight, layer.bias, gamma, beta)  # type: ignore[arg-type]
