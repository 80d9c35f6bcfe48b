"""Where plain PyTorch computes a run, and in which precision: device, memory format, autocast, loss scaling.

The native engine has its own precision and runs on the CPU only. Nothing here has run on a GPU yet: the tests run
all of it on the CPU.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ndsnn.config import TrainConfig
from ndsnn.errors import ConfigError
from ndsnn.neurons import fuse_neurons
from ndsnn.sparse.methods import SparseTraining

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Types of autocast by name."""

SMALLEST_SCALE = 2.0**-14
"""A loss scale below which it is not the range of 16 bits that makes gradients overflow."""


def resolve_device(name: str) -> torch.device:
    """Return the device of that name; "cuda" without a number is the one that torchrun gives to this process.

    Raises:
        ConfigError: There is no such device here.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r} is none that PyTorch knows; say cpu, cuda or cuda:1") from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise ConfigError(f"device {name!r} cannot be trained on; say cpu, cuda or cuda:1")
    count = torch.cuda.device_count()
    index = int(os.environ.get("LOCAL_RANK", "0")) if device.index is None else device.index
    if index >= count:
        raise ConfigError(f"device {name!r} is not there: PyTorch sees {count} CUDA devices; use device cpu")
    return torch.device("cuda", index)


def needs_plain_torch(config: TrainConfig) -> str | None:
    """Return what of the settings the native engine does not have, None if nothing."""
    for setting, plain in (
        (f"device {config.device}", config.device != "cpu"),
        (f"amp {config.amp}", config.amp != "off"),
        ("channels_last", config.channels_last),
        ("compile", config.compile),
    ):
        if plain:
            return setting
    return None


def place(net: nn.Module, config: TrainConfig) -> nn.Module:
    """Put a plain network where and how it is computed, in place."""
    net.to(resolve_device(config.device))
    if config.channels_last:
        net.to(memory_format=torch.channels_last)
    if config.compile:
        fuse_neurons(net)
    return net


class Placed:
    """Brings samples and labels to where the network is.

    Args:
        config: The settings.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._device = resolve_device(config.device)
        self._channels_last = config.channels_last

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return images [N, C, H, W] or frames [T, N, C, H, W], and labels [N], on the device."""
        x, y = x.to(self._device, non_blocking=True), y.to(self._device, non_blocking=True)
        if self._channels_last and x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        return x, y


class MixedPrecision:
    """Autocast of the forward pass and, for 16 bits of little range, a scaled loss.

    A step whose scaled gradients overflow is left out: weights, topology and the method's count of steps stay.

    Args:
        kind: "off", "bf16" or "fp16".
        device: Where the network is.
        optimizer: Of its parameters.
        method: Of its topology.
    """

    def __init__(self, kind: str, device: torch.device, optimizer: Optimizer, method: SparseTraining) -> None:
        self._device, self._dtype = device, DTYPES.get(kind)
        self._optimizer, self._method = optimizer, method
        self._scaler = torch.amp.GradScaler(device.type) if kind == "fp16" else None
        if self._scaler is not None:
            for layer in method.layers:
                layer.shows_overflow = True

    @property
    def scaled(self) -> bool:
        """Whether the loss is scaled, so that a gradient that is not finite is no reason to stop."""
        return self._scaler is not None

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context of the forward pass."""
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, self._dtype)

    def backward(self, loss: Tensor) -> None:
        """Go back from the loss."""
        if self._scaler is None:
            loss.backward()
            return
        self._method.loss_scale = float(self._scaler.get_scale())
        self._scaler.scale(loss).backward()

    def step(self) -> bool:
        """Do the optimizer's step; say whether it was done and not left out.

        Raises:
            OverflowError: The loss has been scaled down as far as is sensible, and gradients still overflow.
        """
        if self._scaler is None:
            self._optimizer.step()
            return True
        before = self._scaler.get_scale()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        done = self._scaler.get_scale() >= before
        if not done and before < SMALLEST_SCALE:
            raise OverflowError(f"the gradient is not finite, though the loss is scaled by {before:g}")
        return done

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the scale; empty where there is none."""
        return {} if self._scaler is None else dict(self._scaler.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; a run that was begun without a scale begins one."""
        if self._scaler is not None and state:
            self._scaler.load_state_dict(dict(state))
