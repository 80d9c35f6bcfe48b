"""Every error that ndsnn raises on purpose: each says what is wrong, where, and what to do.

All derive from `NdsnnError`; the command line turns them into one line and exit code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NdsnnError(Exception):
    """Base of all errors that name a mistake of the caller or of the machine, not a defect of ndsnn."""


class ConfigError(NdsnnError, ValueError):
    """A setting is unknown, of the wrong type, out of range or in conflict with another one."""


class SparsityError(NdsnnError, ValueError):
    """A sparsity, distribution or mask cannot be realised on this network."""


class NotSparsifiedError(SparsityError):
    """A method was given a network on which `ndsnn.sparsify` has not been called."""


class ScheduleError(NdsnnError, ValueError):
    """An update schedule does not fit into the run."""


class NonFiniteError(NdsnnError, ArithmeticError):
    """A loss or gradient is NaN or infinite; weights and masks were left as they were."""


class StateError(NdsnnError, RuntimeError):
    """A neuron's state is not what a call needs; the message names the neuron and how to reset it."""


class ShapeError(NdsnnError, ValueError):
    """A tensor has the wrong number of dimensions, channels or steps."""


class UnsupportedLayerError(NdsnnError):
    """The engine has no lowering for a layer, or for its place in the network; the message names its path."""


class DataError(NdsnnError):
    """A data set is missing, truncated, corrupt or mislabelled; the message names the file."""


class CheckpointError(NdsnnError):
    """A checkpoint or sparse file is missing, truncated, altered or of another architecture."""


class ExportError(NdsnnError):
    """A network cannot be written in a format, or not exactly; the message names the layer and what to do."""


class RunError(NdsnnError):
    """A run directory cannot be created, continued or read."""


class RankError(NdsnnError):
    """The processes of one training run cannot go on together; the message says which, and what to do."""


class MissingDependencyError(NdsnnError, ImportError):
    """An optional package is needed; the message names the extra that brings it."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Say that `name` is no known `kind`, and name the nearest one.

    Args:
        kind: What was asked for, such as "method" or "option".
        name: What the user wrote.
        known: All valid names.

    Returns:
        A sentence for an error message.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
    return f"unknown {kind} {name!r}; {hint}"
