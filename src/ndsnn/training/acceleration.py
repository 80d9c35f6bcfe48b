"""Which engine a run is computed by, and why it is that one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ndsnn.engine.backends import choose_backend
from ndsnn.engine.module import accelerate
from ndsnn.engine.native import instruction_set
from ndsnn.errors import ConfigError, NdsnnError


@dataclass(frozen=True)
class Engine:
    """What computes.

    Args:
        name: "native", or "reference" for plain PyTorch on masked weights.
        reason: Why it is that one, as the end of "because …".
        instruction_set: Of the native kernels, such as "avx2"; None for the reference.
    """

    name: str
    reason: str
    instruction_set: str | None = None

    def describe(self, memory: str, precision: str) -> str:
        """Return a line that says what computes, with which threads, memory and precision, and why."""
        threads = f"{torch.get_num_threads()} threads"
        if self.instruction_set is None:
            what = f"reference (plain PyTorch on masked weights, {threads})"
        else:
            what = f"native ({self.instruction_set}, {threads}), memory {memory}"
            if precision != "fp32":
                what += f", precision {precision}"
        return f"{what}, because {self.reason}"


def put_on_engine(
    net: nn.Module, engine: str, memory: str, precision: str = "fp32", plain: str | None = None
) -> tuple[nn.Module, Engine]:
    """Return the network as it is computed: accelerated, or as it is.

    Args:
        net: A plain network, sparse or dense; it stays as it is.
        engine: "native", "reference", or "auto" for the native one where it can compute this network on this
            machine.
        memory: "auto", "store" or "recompute".
        precision: "fp32" or "mixed".
        plain: A setting that only plain PyTorch has, or None.

    Raises:
        ConfigError: The native engine was asked for and can't compute this, or `memory` or `precision` needs it
            where it isn't used.
        MissingDependencyError: The environment variable NDSNN_BACKEND asks for it and it is not there.
    """
    name, reason = engine, "it was asked for"
    if plain is not None:
        if engine == "native":
            raise ConfigError(f"engine native has no {plain}; use engine auto or reference, or leave that out")
        name, reason = "reference", f"{plain} was asked for"
    elif engine == "auto":
        choice = choose_backend("auto", "fp32", torch.float32)
        name, reason = choice.name, choice.reason
    if name == "native":
        try:
            accelerated = accelerate(net, memory, precision, backend="native")
            return accelerated, Engine("native", reason, instruction_set())
        except NdsnnError as error:
            if engine == "native":
                raise ConfigError(f"engine native cannot compute this run: {error}; or use engine auto") from error
            reason = str(error)
    for setting, wanted, instead in (
        ("memory recompute", memory == "recompute", "memory auto or store"),
        ("precision mixed", precision == "mixed", "precision fp32"),
    ):
        if wanted:
            raise ConfigError(
                f"{setting} needs the native engine, but the reference engine computes this run, because "
                f"{reason}; use {instead}"
            )
    return net, Engine("reference", reason)
