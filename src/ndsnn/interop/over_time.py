"""`OverTime`: a network that computes one step, as one that computes all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from ndsnn.engine.foreign.states import stateful_modules
from ndsnn.errors import ConfigError, ShapeError


class OverTime(nn.Module):
    """Call a network once for each step, from its state of rest on, and stack what it returns.

    A script that holds the loop over time outside of the network

        snntorch.utils.reset(net)
        for x in events:
            spikes, membrane = net(x)

    becomes `OverTime(net)(events)`, which `ndsnn.accelerate` takes. The network's neurons keep their state inside
    (snnTorch: init_hidden=True); a state is never handed over from one call of `OverTime` to the next.

    Args:
        net: The network for one step.
        time_steps: T, if the same input is given at every step; None where the input has steps, [T, N, *].

    Raises:
        ConfigError: `time_steps` is below 1.
    """

    runs_each_step = True

    def __init__(self, net: nn.Module, time_steps: int | None = None) -> None:
        super().__init__()
        if time_steps is not None and time_steps < 1:
            raise ConfigError(f"time_steps must be at least 1, got {time_steps!r}")
        self.net = net
        self.time_steps = time_steps

    def forward(self, x: Tensor) -> Any:
        """Return the network's outputs of all steps, [T, N, *]; a tuple of them if it returns tuples.

        Args:
            x: [T, N, *], or with `time_steps` [N, *], the same at every step.

        Raises:
            ShapeError: `x` has no steps.
        """
        if isinstance(x, fx.Proxy):
            return self.net(x)
        if self.time_steps is None and (x.ndim == 0 or len(x) == 0):
            raise ShapeError(f"OverTime expects [T, N, *] with T >= 1, got {list(x.shape)}")
        for _, framework, module in stateful_modules(self.net):
            framework.reset(module)
        steps = x.unbind(0) if self.time_steps is None else [x] * self.time_steps
        results = [self.net(step) for step in steps]
        if isinstance(results[0], tuple):
            return tuple(torch.stack(parts) for parts in zip(*results, strict=True))
        return torch.stack(results)

    def extra_repr(self) -> str:
        """Return the number of steps for `print(net)`."""
        return f"time_steps={self.time_steps}"
