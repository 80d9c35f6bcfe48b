"""Which back end a network runs on, and why."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

import torch

from ndsnn.engine import native
from ndsnn.engine.executor import BackendFactory
from ndsnn.engine.reference import ReferenceBackend
from ndsnn.errors import ConfigError, MissingDependencyError, unknown_name

BACKENDS = ("auto", "native", "reference")
"""Names of the back ends; "auto" takes the native one where it can run."""

PRECISIONS = ("fp32", "mixed")
"""How gradients and currents are stored between the kernels: in 32 bits, or in 16."""

BACKEND_VARIABLE = "NDSNN_BACKEND"
"""Environment variable that decides where the code says "auto"."""


@dataclass(frozen=True)
class BackendChoice:
    """A back end that can run.

    Args:
        name: "native" or "reference".
        reason: Why it is that one.
        make: Makes it for T steps and N samples.
        dtype: Of the parameters, the input and the logits.
    """

    name: str
    reason: str
    make: BackendFactory
    dtype: torch.dtype


def choose_backend(backend: str, precision: str, dtype: torch.dtype) -> BackendChoice:
    """Choose a back end.

    Args:
        backend: A name of `BACKENDS`.
        precision: A name of `PRECISIONS`.
        dtype: Of the network.

    Raises:
        ConfigError: A name is unknown, the environment variable says something else, or the back end has no such
            precision or dtype.
        MissingDependencyError: The native back end was asked for and is not there.
    """
    if precision not in PRECISIONS:
        raise ConfigError(unknown_name("precision", str(precision), PRECISIONS))
    name, reason = _resolve(backend, dtype)
    if name == "reference":
        return _reference(reason, precision, dtype)
    if dtype != torch.float32:
        raise ConfigError(f"the native back end computes in float32, but the network is {dtype}; call net.float()")
    if not native.available():
        raise MissingDependencyError(f"the native back end is not available: {native.unavailable_reason()}")
    make = functools.partial(native.NativeBackend, precision=precision)
    # Tells now, not in the first pass, what it can't do.
    make(1, 1)
    return BackendChoice(name, reason, make, dtype)


def _reference(reason: str, precision: str, dtype: torch.dtype) -> BackendChoice:
    if precision != "fp32":
        raise ConfigError(f"precision {precision!r} needs the native back end; this is the reference, as {reason}")
    if dtype not in (torch.float32, torch.float64):
        raise ConfigError(f"the engine computes in float32 or float64, but the network is {dtype}")
    return BackendChoice("reference", reason, functools.partial(ReferenceBackend, dtype=dtype), dtype)


def _resolve(backend: str, dtype: torch.dtype) -> tuple[str, str]:
    """Return the name of a back end other than "auto", and why it is that one."""
    if backend not in BACKENDS:
        raise ConfigError(unknown_name("backend", str(backend), BACKENDS))
    by_variable = os.environ.get(BACKEND_VARIABLE, "auto") or "auto"
    if by_variable not in BACKENDS:
        raise ConfigError(f"{BACKEND_VARIABLE}: {unknown_name('backend', by_variable, BACKENDS)}")
    if by_variable != "auto":
        if backend not in ("auto", by_variable):
            raise ConfigError(f"backend={backend!r} was asked for, but {BACKEND_VARIABLE}={by_variable}; drop one")
        return by_variable, f"{BACKEND_VARIABLE}={by_variable}"
    if backend != "auto":
        return backend, "it was asked for"
    if dtype != torch.float32:
        return "reference", f"the network is {dtype}"
    if not native.available():
        return "reference", f"the native one is not available: {native.unavailable_reason()}"
    return "native", "it is available"
