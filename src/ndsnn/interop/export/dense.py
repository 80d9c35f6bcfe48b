"""A plain state dict: dense weights under the keys of the network's own framework, in a safetensors file."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from ndsnn.errors import ExportError
from ndsnn.interop.export.files import write_export
from ndsnn.sparse.sparsify import to_dense


def dense_state(net: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a network as its own framework loads it: dense weights, true zeros, no masks.

    Args:
        net: A masked, accelerated or plain network; it stays as it is.
    """
    return {key: _without_negative_zeros(value) for key, value in to_dense(net).state_dict().items()}


def write_dense(net: nn.Module, path: Path) -> int:
    """Write `dense_state(net)` to a safetensors file, whole or not at all; return the bytes.

    Raises:
        ExportError: The state dict holds something that is no tensor, or the file cannot be written.
    """
    state = dense_state(net)
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise ExportError(f"{key!r} of the state dict is no tensor, but {type(value).__name__}")
    return write_export(path, safetensors.torch.save(state, metadata={"format": "pt"}))


def _without_negative_zeros(value: Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        return value
    # Each tensor of its own, as safetensors takes no two that share memory.
    copy = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    return copy.masked_fill_(copy == 0, 0) if copy.is_floating_point() else copy
