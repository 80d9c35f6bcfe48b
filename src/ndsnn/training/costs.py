"""What training costs: the paper's formulas (Sections III-D, IV-C) beside the operations really asked for."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ndsnn.errors import ConfigError
from ndsnn.sparse.compressed import CompressedConv2d, CompressedLinear, CompressedModule
from ndsnn.sparse.sparsify import layer_report, sparsity
from ndsnn.sparse.topology import alive_mask, weight_shape

WEIGHT_BITS = 32
"""b_w: bits of a weight in training."""

INDEX_BITS = 32
"""b_idx: bits of an index of the compressed rows."""

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d | CompressedConv2d
"""Layers whose operations are counted place by place."""


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


def alive_fan_out(module: nn.Module) -> Tensor:
    """Return how many alive weights of a conv or linear layer read through each place of a kernel.

    Returns:
        int64 [C_in, *kernel], summed over output channels; [F] of a linear layer.
    """
    if isinstance(module, CompressedModule):
        channels, *places = module.dense_shape
        if module.positions is None:
            return torch.full(places, channels)
        return torch.bincount(module.positions % math.prod(places), minlength=math.prod(places)).view(places)
    mask, groups = alive_mask(module), getattr(module, "groups", 1)
    return mask.unflatten(0, (groups, -1)).sum(1).flatten(0, 1) if groups > 1 else mask.sum(0)


def operations(module: nn.Module, inputs: Tensor) -> int:
    """Return Σ over non-zero inputs of the alive connections they reach, borders and stride included.

    That is Σ m[c, i, j] · n[c, y, x] over all (y, x) that an output reads through place (i, j) of the kernel, with
    m the alive weights there and n the non-zero inputs.

    Args:
        module: A conv or linear layer, compressed or not.
        inputs: See `reads_by_tap`.

    Raises:
        ConfigError: The layer pads with something other than zeros.
    """
    return int((alive_fan_out(module).cpu() * reads_by_tap(module, inputs)).sum())


def dense_operations(module: nn.Module, inputs: Tensor) -> int:
    """Return what `operations` would be if every connection were alive."""
    fan_out = math.prod(weight_shape(module)) // alive_fan_out(module).numel()
    return fan_out * int(reads_by_tap(module, inputs).sum())


def reads_by_tap(module: nn.Module, inputs: Tensor) -> Tensor:
    """Return how many of the counted inputs one output channel reads through each place of the kernel.

    Args:
        module: A conv or linear layer, compressed or not.
        inputs: How often each input place was non-zero [C, *size], or [F, …] of a linear layer; whole numbers.

    Returns:
        int64 [C_in, *kernel], or [F] of a linear layer.

    Raises:
        ConfigError: The layer pads with something other than zeros.
    """
    reads = inputs.to("cpu", torch.int64)
    if isinstance(module, nn.Linear | CompressedLinear):
        return reads.reshape(-1, module.in_features).sum(0)
    assert isinstance(module, Convolution)
    for axis in range(reads.ndim - 1):
        # One axis after the other is turned from the map's into the kernel's: [C, n, …] → [C, …, k].
        reads = torch.tensordot(reads, _taps(module, axis, reads.shape[1]), ([1], [0]))
    return reads


def _taps(conv: Convolution, axis: int, size: int) -> Tensor:
    """Return [size, k]: 1 where an output reads place y of an axis through place i of the kernel, else 0."""
    dilation = 1
    if not isinstance(conv, CompressedConv2d):
        dilation = conv.dilation[axis]
        if conv.padding_mode != "zeros":
            raise ConfigError(f"operations are counted for zero padding only, not {conv.padding_mode!r}")
    taps, stride = conv.kernel_size[axis], conv.stride[axis]
    span = dilation * (taps - 1)
    if isinstance(conv.padding, str):
        before, both = (span // 2, span) if conv.padding == "same" else (0, 0)
    else:
        before, both = conv.padding[axis], 2 * conv.padding[axis]
    outputs = (size + both - span - 1) // stride + 1
    begin = torch.arange(size)[:, None] + before - dilation * torch.arange(taps)
    return ((begin >= 0) & (begin < outputs * stride) & (begin % stride == 0)).to(torch.int64)


def peak_memory_mb() -> float:
    """Return the highest resident memory of this process so far, in MB (10⁶ bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
