"""What a round did, in numbers."""

from __future__ import annotations

from typing import NamedTuple


class LayerUpdate(NamedTuple):
    """What a round did to one layer: connections dropped, grown, and alive afterwards."""

    layer: str
    dropped: int
    grown: int
    nnz: int


class TopologyUpdate(NamedTuple):
    """What a round did to the network."""

    step: int
    round: int
    layers: tuple[LayerUpdate, ...]
