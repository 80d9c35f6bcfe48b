"""Places in a network, for messages."""

from __future__ import annotations

from dataclasses import dataclass

from ndsnn.errors import UnsupportedLayerError


@dataclass(frozen=True)
class Site:
    """A place in the network.

    Args:
        path: Path of the module as in `net.named_modules()`.
        kind: Name of its class.
    """

    path: str
    kind: str

    def __str__(self) -> str:
        where = f"layer {self.path!r}" if self.path else "the network"
        return f"{where} ({self.kind})"

    def unsupported(self, what: str, instead: str) -> UnsupportedLayerError:
        """Return the error that says what the engine has no lowering for here, and what to do."""
        return UnsupportedLayerError(f"{self}: {what}; {instead}")

    def require(self, holds: bool, what: str, instead: str) -> None:
        """Raise the error of `unsupported` unless `holds`."""
        if not holds:
            raise self.unsupported(f"{what} is not supported", instead)
