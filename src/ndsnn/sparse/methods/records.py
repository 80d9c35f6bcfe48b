"""Numbers that a method keeps for each alive weight, such as a trace: they follow it through all rounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ndsnn.errors import CheckpointError
from ndsnn.sparse.bits import unpack_mask
from ndsnn.sparse.handle import SparseLayer


class WeightRecords:
    """Vectors [nnz] by name and layer, in the order of `SparseLayer.active_positions`; newborn weights have 0.

    So a record is as large as what is alive, in both forms of a layer.
    """

    def __init__(self) -> None:
        self._records: dict[str, dict[str, Tensor]] = {}

    def __setitem__(self, name: str, by_layer: Mapping[str, Tensor]) -> None:
        self._records[name] = dict(by_layer)

    def __getitem__(self, name: str) -> dict[str, Tensor]:
        return self._records[name]

    def get(self, name: str) -> dict[str, Tensor]:
        """Return the vectors of a name by layer; an empty dict where there are none."""
        return self._records.get(name, {})

    def __contains__(self, name: object) -> bool:
        return name in self._records

    def clear(self) -> None:
        """Forget all of them."""
        self._records.clear()

    def move(self, layer: SparseLayer, dropped: Tensor, grown: Tensor) -> None:
        """Bring the records of a layer into the order that it has once `dropped` died and `grown` are born."""
        mine = [by_layer for by_layer in self._records.values() if layer.name in by_layer]
        if not mine or not (len(dropped) or len(grown)):
            return
        before = layer.active_positions()
        stays = torch.ones_like(before, dtype=torch.bool)
        stays[torch.searchsorted(before, dropped)] = False
        kept = before[stays]
        slots = torch.searchsorted(torch.cat([kept, grown]).sort().values, kept)
        for by_layer in mine:
            old = by_layer[layer.name]
            by_layer[layer.name] = old.new_zeros(len(kept) + len(grown)).index_copy_(0, slots, old[stays])

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Return copies of all vectors."""
        return {name: {layer: v.clone() for layer, v in by.items()} for name, by in self._records.items()}

    def check_state(self, state: Any, layers: Iterable[SparseLayer], masks: Mapping[str, Tensor]) -> None:
        """Check that `state` has a vector of the right length for layers of the given bit-packed masks.

        Raises:
            CheckpointError: It has not.
        """
        shapes = {layer.name: layer.shape for layer in layers}
        for name, by_layer in state.items():
            for layer, vector in by_layer.items():
                alive = int(unpack_mask(masks[layer], shapes[layer]).sum()) if layer in shapes else None
                if alive is None or tuple(vector.shape) != (alive,):
                    raise CheckpointError(f"the saved record {name!r} of layer {layer!r} does not fit its mask")
        for name, mine in self._records.items():
            if name in state and set(mine) - set(state[name]):
                raise CheckpointError(f"the saved record {name!r} belongs to a network with other layers")

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take the vectors of `state_dict()` in place of the present ones."""
        self._records = {name: {layer: v.clone() for layer, v in by.items()} for name, by in state.items()}
