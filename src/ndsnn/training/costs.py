"""What training costs: the paper's formulas (Sections III-D, IV-C) beside the operations really asked for."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ndsnn.errors import ConfigError
from ndsnn.sparse.sparsify import layer_report, sparsity
from ndsnn.sparse.topology import MASK, has_mask, weight_of

WEIGHT_BITS = 32
"""b_w: bits of a weight in training."""

INDEX_BITS = 32
"""b_idx: bits of an index of the compressed rows."""


def relative_training_cost(spike_rate: float, sparsity: float, dense_spike_rate: float) -> float:
    """Return the cost of an epoch relative to dense training (Section IV-C): R_s·(1 − θ) / R_d.

    Args:
        spike_rate: R_s, mean spikes per neuron and step in this epoch.
        sparsity: θ in this epoch.
        dense_spike_rate: R_d, the same epoch of a dense run with the same recipe.
    """
    return spike_rate * (1 - sparsity) / dense_spike_rate if dense_spike_rate else float("nan")


def memory_footprint_bits(
    sparsity: float,
    weights: int,
    time_steps: int,
    output_channels: Sequence[int],
    weight_bits: int = WEIGHT_BITS,
    index_bits: int = INDEX_BITS,
) -> float:
    """Return the paper's training memory footprint (Section III-D), which leaves activations out.

    (1 − θ)·N·[(1 + T)·b_w + b_idx] + Σ_l (F_l + 1)·b_idx bits: alive weights with one gradient per step, their
    indices, and the row pointers of the compressed rows.

    Args:
        sparsity: θ.
        weights: N.
        time_steps: T.
        output_channels: F_l, the filters of each layer.
        weight_bits: b_w.
        index_bits: b_idx.
    """
    alive = (1 - sparsity) * weights * ((1 + time_steps) * weight_bits + index_bits)
    return alive + sum((filters + 1) * index_bits for filters in output_channels)


def network_footprint_bits(net: nn.Module, time_steps: int) -> float:
    """Return `memory_footprint_bits` of a network at its present sparsity."""
    rows = layer_report(net)
    weights = sum(row.weights for row in rows)
    return memory_footprint_bits(sparsity(net), weights, time_steps, [row.shape[0] for row in rows])


def alive_mask(module: nn.Module) -> Tensor:
    """Return the mask of a conv or linear layer; all true where it has none."""
    if has_mask(module):
        return module.get_buffer(MASK)
    return torch.ones_like(weight_of(module), dtype=torch.bool)


def operations(module: nn.Module, inputs: Tensor) -> int:
    """Return Σ over non-zero inputs of the alive connections they reach, borders and stride included.

    Args:
        module: A conv or linear layer.
        inputs: How often each input place was non-zero [C, *size] or [F], any dtype.

    Raises:
        ConfigError: The layer pads with something other than zeros.
    """
    mask = alive_mask(module).to(torch.float64)
    counts = inputs.to(torch.float64)
    if isinstance(module, nn.Linear):
        return round(float(counts.reshape(-1, mask.shape[1]).sum(0) @ mask.sum(0)))
    assert isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    if module.padding_mode != "zeros":
        raise ConfigError(f"operations are counted for zero padding only, not {module.padding_mode!r}")
    if module.groups == 1:
        mask = mask.sum(0, keepdim=True)
    convolve = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[mask.ndim - 2]
    reached = convolve(
        counts[None],
        mask,
        stride=module.stride,
        padding=module.padding,
        dilation=module.dilation,
        groups=module.groups,
    )
    return round(float(reached.sum()))


def peak_memory_mb() -> float:
    """Return the highest resident memory of this process so far, in MB (10⁶ bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
