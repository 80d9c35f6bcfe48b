"""`sparsify` and what can be asked of a sparse network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from ndsnn.errors import NotSparsifiedError, SparsityError
from ndsnn.sparse.conversion import decompress
from ndsnn.sparse.distributions import layer_counts
from ndsnn.sparse.selection import random_scores, smallest, stream_key
from ndsnn.sparse.topology import (
    RECORD,
    SparseLayer,
    alive_count,
    is_sparse,
    make_plain,
    make_sparse,
    maskable_modules,
    sparse_layers,
    weight_shape,
)


@dataclass(frozen=True)
class Distribution:
    """How the alive weights of a network are spread over its layers.

    Args:
        name: "erk", "er" or "uniform".
        dense_layers: Glob patterns of layer names that stay dense; recorded in a network, the names they matched.
    """

    name: str = "erk"
    dense_layers: tuple[str, ...] = ()

    def dense_names(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return those of `names` that stay dense, in their order.

        Raises:
            SparsityError: A pattern matches none.
        """
        names = tuple(names)
        for pattern in self.dense_layers:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise SparsityError(
                    f"dense_layers pattern {pattern!r} matches no layer; layers are {', '.join(names)}"
                )
        return tuple(name for name in names if any(fnmatchcase(name, p) for p in self.dense_layers))

    def counts(self, shapes: Mapping[str, Sequence[int]], sparsity: float) -> dict[str, int]:
        """Return the alive weights per layer at `sparsity` (see `layer_counts`).

        Raises:
            SparsityError: A pattern of `dense_layers` matches no layer, or the sparsity cannot be had.
        """
        return layer_counts(shapes, sparsity, self.name, self.dense_names(shapes))


@dataclass(frozen=True)
class LayerRow:
    """One row of `layer_report`.

    Args:
        name: Path of the layer in the network.
        shape: Shape of its weight.
        weights: Number of places for a weight.
        alive: Number of alive weights (nnz).
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    alive: int

    @property
    def sparsity(self) -> float:
        """Fraction of zeros."""
        return 1 - self.alive / self.weights


def sparsify(
    net: nn.Module,
    sparsity: float,
    distribution: str = "erk",
    dense_layers: Sequence[str] = (),
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Make the conv and linear layers of any module sparse, in place, with exact counts.

    `weight` stays a plain parameter that holds true zeros; the mask is a buffer beside it that is not part of the
    state dict. Which connections live is random and uniform within a layer; it depends on the generator and the
    layer's name, not on the order of the layers.

    Args:
        net: Any module of any framework, on any device.
        sparsity: Overall fraction of zeros in [0, 1) over all conv and linear weights.
        distribution: "erk", "er" or "uniform".
        dense_layers: Glob patterns of layer names that keep all their weights (they count in `sparsity`).
        generator: Source of randomness (CPU); torch's default generator where None.

    Returns:
        The same `net`.

    Raises:
        SparsityError: The sparsity cannot be had, the net is sparse already, or it has no conv or linear layer.
        ConfigError: Unknown distribution.
    """
    modules = maskable_modules(net)
    if not modules:
        raise SparsityError(f"{type(net).__name__} has no conv or linear layer that could be made sparse")
    if any(is_sparse(module) for module in modules.values()):
        raise SparsityError(
            "the network is sparse already; call ndsnn.to_dense(net) first to draw new connections"
        )
    if isinstance(dense_layers, str):
        dense_layers = (dense_layers,)
    spread = Distribution(distribution, tuple(dense_layers))
    shapes = {name: weight_shape(module) for name, module in modules.items()}
    counts = spread.counts(shapes, sparsity)
    seed = int(torch.randint(2**62, (), generator=generator))
    for name, module in modules.items():
        make_sparse(module, _random_mask(stream_key("sparsify", seed, name), shapes[name], counts[name]))
    record_distribution(net, replace(spread, dense_layers=spread.dense_names(modules)))
    return net


def _random_mask(key: int, shape: tuple[int, ...], alive: int) -> Tensor:
    positions = torch.arange(math.prod(shape))
    mask = torch.zeros(math.prod(shape), dtype=torch.bool)
    mask[smallest(random_scores(key, positions), alive)] = True
    return mask.view(shape)


def to_dense(net: nn.Module) -> nn.Module:
    """Return `net` as a plain dense module, changed in place: no masks, no compressed layers.

    The weights keep their zeros but may grow again. Of an accelerated network it is a copy, of the class that
    was accelerated.
    """
    accelerated = getattr(net, "decompressed", None)
    if callable(accelerated):
        net = accelerated()
    decompress(net)
    for layer in sparse_layers(net):
        make_plain(layer.module)
    if hasattr(net, RECORD):
        delattr(net, RECORD)
    return net


def record_distribution(net: nn.Module, distribution: Distribution) -> None:
    """Note in `net` how its alive weights are spread, for the methods that need the final counts."""
    setattr(net, RECORD, distribution)


def recorded_distribution(net: nn.Module) -> Distribution | None:
    """Return the distribution that `net`, or a module inside it, was sparsified with, with names as in `net`."""
    for path, module in net.named_modules():
        if hasattr(module, RECORD):
            spread: Distribution = getattr(module, RECORD)
            prefix = f"{path}." if path else ""
            return replace(spread, dense_layers=tuple(prefix + name for name in spread.dense_layers))
    return None


def set_masks(net: nn.Module, masks: Mapping[str, Tensor], distribution: Distribution) -> nn.Module:
    """Give `net` known masks, by layer name, in place of drawn ones.

    Args:
        net: A network without masks, or with masks that are replaced.
        masks: Boolean masks of the shape of each layer's weight.
        distribution: Recorded for the methods that need the final counts.

    Raises:
        SparsityError: A name or a shape does not fit the network.
    """
    modules = maskable_modules(net)
    for name, mask in masks.items():
        if name not in modules:
            raise SparsityError(f"there is a mask for {name!r}, which is no conv or linear layer of the network")
        if tuple(mask.shape) != weight_shape(modules[name]):
            raise SparsityError(
                f"the mask of {name!r} has shape {tuple(mask.shape)}, its weight {weight_shape(modules[name])}"
            )
    for name, mask in masks.items():
        make_sparse(modules[name], mask.clone())
    record_distribution(net, distribution)
    return net


def require_sparse_layers(net: nn.Module) -> list[SparseLayer]:
    """Return the sparse layers of `net`.

    Raises:
        NotSparsifiedError: There is none.
    """
    layers = sparse_layers(net)
    if not layers:
        raise NotSparsifiedError("the network is dense; call ndsnn.sparsify(net, sparsity) first")
    return layers


def layer_report(net: nn.Module) -> list[LayerRow]:
    """Return one row for each conv and linear layer: name, shape, weights, alive, sparsity."""
    rows = []
    for name, module in maskable_modules(net).items():
        shape = weight_shape(module)
        rows.append(LayerRow(name, shape, math.prod(shape), alive_count(module)))
    return rows


def sparsity(net: nn.Module) -> float:
    """Return the fraction of zeros over all conv and linear weights, counted by mask."""
    rows = layer_report(net)
    weights = sum(row.weights for row in rows)
    return 1 - sum(row.alive for row in rows) / weights if weights else 0.0
