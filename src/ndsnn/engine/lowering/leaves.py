"""The layers the engine knows: which modules are leaves of a trace, and what is read of each of them."""

from __future__ import annotations

from typing import Any

from torch import nn

from ndsnn.engine.foreign.framework import (
    ForeignDropout,
    ForeignNeuron,
    foreign_leaf,
    framework_of,
    require_unchanged,
)
from ndsnn.engine.graph import Synapse
from ndsnn.engine.sites import Site
from ndsnn.models.layers import LAYERS, Flatten, MaxPool2d, RepeatOverTime, ThresholdBatchNorm2d, ZeroPad
from ndsnn.neurons import LIF, LIFParameters

LEAVES: tuple[type[nn.Module], ...] = (
    nn.Conv2d,
    nn.Linear,
    nn.BatchNorm2d,
    nn.BatchNorm1d,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Flatten,
    nn.Identity,
    nn.Dropout,
    Flatten,
    ZeroPad,
    RepeatOverTime,
    LIF,
    ForeignNeuron,
    ForeignDropout,
)
"""One class for each kind of layer, torch's own where there is one; those of `LAYERS` are among its subclasses."""

_COMPUTING = ("forward", "_conv_forward", "_normalise", "_pool", "_pad")
_NEURON_ATTRIBUTES = ("v_threshold", "threshold", "surrogate_function", "spike_grad")


def leaf_class(module: nn.Module) -> type[nn.Module] | None:
    """Return the class of `LEAVES` that says how `module` is lowered, or None.

    A module with a `dense_shape` is a compressed conv, or a compressed linear layer if it has no `kernel_size`.
    """
    if _is_compressed(module):
        return nn.Conv2d if hasattr(module, "kernel_size") else nn.Linear
    return foreign_leaf(module) or next((kind for kind in LEAVES if isinstance(module, kind)), None)


def is_foreign_neuron(module: nn.Module) -> bool:
    """Say whether `module` looks like a neuron that no adapter knows: it has a threshold and no layer inside."""
    return (
        foreign_leaf(module) is None
        and any(hasattr(module, name) for name in _NEURON_ATTRIBUTES)
        and not any(leaf_class(inner) for inner in module.modules())
    )


def require_plain(site: Site, module: nn.Module, folded: bool = False) -> None:
    """Check that a leaf computes what its class says, so that its settings and parameters tell everything.

    Args:
        site: Its place.
        module: The leaf.
        folded: Whether a container of its framework hands it all steps as samples.

    Raises:
        UnsupportedLayerError: It overrides what it computes, has hooks, or its weight is no plain parameter.
    """
    if _is_compressed(module):
        return
    framework = framework_of(module)
    if framework is not None and framework.leaf(module) is not None:
        require_unchanged(site, framework, module)
        framework.require(site, module, folded)
        base, overridden = type(module), []
    else:
        known = (*LAYERS, ThresholdBatchNorm2d, *LEAVES)
        base = next(kind for kind in type(module).__mro__ if kind in known)
        overridden = [n for n in _COMPUTING if getattr(type(module), n, None) is not getattr(base, n, None)]
    if overridden or "forward" in vars(module):
        raise site.unsupported(
            f"it overrides {(overridden or ['forward'])[0]} of {base.__name__}",
            f"use {base.__name__} itself; the layers of ndsnn.models.layers take [N, *] and [T, N, *]",
        )
    if isinstance(module, nn.Conv2d | nn.Linear):
        weight = module._parameters.get("weight")
        plain = weight is not None and not isinstance(weight, nn.UninitializedParameter)
        site.require(
            plain, "a weight that is not a plain parameter", "remove its parametrization or initialise it"
        )
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    if any(hooks):
        raise site.unsupported("it has hooks, which the engine never calls", "remove them first")


def conv_synapse(site: Site, conv: Any) -> Synapse:
    """Read a convolution, dense or compressed.

    Raises:
        UnsupportedLayerError: It has groups, dilation, a padding mode, an even kernel, or not a stride of 1 or 2.
    """
    kernel, stride = _pair(conv.kernel_size), _pair(conv.stride)
    groups, dilation = getattr(conv, "groups", 1), _pair(getattr(conv, "dilation", 1))
    mode = getattr(conv, "padding_mode", "zeros")
    site.require(groups == 1, f"groups={groups}", "use groups=1")
    site.require(dilation == (1, 1), f"dilation={dilation}", "use dilation=1")
    site.require(mode == "zeros", f"padding_mode={mode!r}", "use padding_mode='zeros'")
    site.require(all(side % 2 for side in kernel), f"the even kernel {kernel}", "use odd kernel sizes")
    site.require(stride in ((1, 1), (2, 2)), f"stride={stride}", "use a stride of 1 or 2, equal on both axes")
    if conv.padding == "same":
        padding = (kernel[0] // 2, kernel[1] // 2)
    else:
        padding = (0, 0) if conv.padding == "valid" else _pair(conv.padding)
    return Synapse(site.path, conv.out_channels, conv.in_channels, kernel, stride[0], padding)


def linear_synapse(site: Site, linear: Any) -> Synapse:
    """Read a linear layer, dense or compressed."""
    return Synapse(site.path, linear.out_features, linear.in_features)


def neuron_parameters(site: Site, neuron: Any) -> LIFParameters:
    """Read a neuron, of ndsnn or of another framework.

    Raises:
        UnsupportedLayerError: It keeps its potentials from call to call, or is another framework's without equal.
    """
    framework = framework_of(neuron)
    if framework is not None:
        return framework.neuron(site, neuron)
    site.require(not neuron.stateful, "LIF(stateful=True)", "use stateful=False")
    return neuron.config


def max_pool_window(site: Site, pool: nn.MaxPool2d) -> tuple[int, bool]:
    """Read a max-pool.

    Returns:
        Side of its window, and whether an axis shorter than the window is an error.

    Raises:
        UnsupportedLayerError: Its windows are not square ones side by side, or it returns indices.
    """
    site.require(not pool.return_indices, "return_indices=True", "use return_indices=False")
    dilation = _pair(pool.dilation)
    site.require(dilation == (1, 1), f"dilation={dilation}", "use dilation=1")
    return _square_window(site, pool), not isinstance(pool, MaxPool2d)


def avg_pool_window(site: Site, pool: nn.AvgPool2d) -> int:
    """Return the side of an average pool's window.

    Raises:
        UnsupportedLayerError: Its windows are not square ones side by side, or it divides by something else.
    """
    site.require(
        pool.divisor_override is None,
        f"divisor_override={pool.divisor_override}",
        "leave it out, so that the pool averages",
    )
    return _square_window(site, pool)


def adaptive_output(site: Site, pool: nn.AdaptiveAvgPool2d) -> tuple[int, int]:
    """Return height and width of an adaptive pool's output.

    Raises:
        UnsupportedLayerError: One of them is left open or below 1.
    """
    output = _pair(pool.output_size)
    fixed = all(isinstance(n, int) and n >= 1 for n in output)
    site.require(fixed, f"output_size={pool.output_size}", "give two sizes of at least 1")
    return output


def _square_window(site: Site, pool: nn.MaxPool2d | nn.AvgPool2d) -> int:
    window, stride, padding = _pair(pool.kernel_size), _pair(pool.stride), _pair(pool.padding)
    site.require(window[0] == window[1], f"kernel_size={window}", "use a square window")
    site.require(stride == window, f"stride={stride} of windows {window}", "leave the stride out")
    site.require(padding == (0, 0), f"padding={padding}", "use padding=0")
    site.require(not pool.ceil_mode, "ceil_mode=True", "use ceil_mode=False")
    return window[0]


def _is_compressed(module: nn.Module) -> bool:
    return hasattr(module, "dense_shape")


def _pair(value: Any) -> tuple[Any, Any]:
    return tuple(value) if isinstance(value, tuple | list) else (value, value)
